"""The secret type never shows what it holds."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from qtunnel.errors import SecretWipedError
from qtunnel.secret import Secret

KEY = b"0123456789abcdef0123456789abcdef"


def test_no_form_of_it_shows_the_bytes() -> None:
    secret = Secret(KEY)
    for text in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>40}",
        "{}".format(secret),  # noqa: UP032  # another way into a string
        repr([secret]),
        repr({1: secret}),
    ):
        assert "0123" not in text
        assert KEY.hex() not in text
        assert "redacted" in text


def test_it_is_not_in_a_traceback() -> None:
    secret = Secret(KEY)
    try:
        raise ValueError(secret)
    except ValueError:
        assert "0123" not in traceback.format_exc()


def test_it_cannot_be_pickled_copied_hashed_or_iterated() -> None:
    secret = Secret(KEY)
    actions: list[Callable[[Any], object]] = [pickle.dumps, copy.copy, copy.deepcopy, hash, iter, bytes]
    for action in actions:
        with pytest.raises(TypeError):
            action(secret)


def test_equality_is_by_value_and_only_with_secrets() -> None:
    assert Secret(KEY) == Secret(KEY)
    assert Secret(KEY) != Secret(KEY[:-1])
    assert Secret(KEY) != KEY


def test_wiping_overwrites_and_ends_use() -> None:
    secret = Secret(KEY)
    view = secret.reveal()
    other = secret.copy()
    secret.wipe()
    assert bytes(view) == bytes(len(KEY))
    assert secret.wiped
    with pytest.raises(SecretWipedError):
        secret.reveal()
    assert other == Secret(KEY)
    assert "wiped" in repr(secret)


def test_a_with_block_wipes() -> None:
    with Secret(KEY) as secret:
        view = secret.reveal()
    assert bytes(view) == bytes(len(KEY))


def test_one_that_never_came_to_be_goes_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with pytest.raises(TypeError):
        Secret(None)  # type: ignore[arg-type]
    gc.collect()
    assert said == []


def test_the_view_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        Secret(KEY).reveal()[0] = 1
