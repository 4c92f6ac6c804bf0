"""Labels and derivation."""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.crypto.kdf import Label, derive, expand, frame
from qtunnel.secret import Secret


def test_no_two_uses_share_a_label_or_begin_with_one() -> None:
    values = [label.value for label in Label]
    assert len(set(values)) == len(values)
    # a label ends with a zero byte in the KDF, so that one that is another's beginning would be no clash either
    assert not any(b"\0" in value for value in values)


def test_expand_is_that_of_the_rfc() -> None:
    key = Secret(bytes(range(64)))
    first = hmac.digest(bytes(range(64)), b"info" + b"\x01", "sha512")
    second = hmac.digest(bytes(range(64)), first + b"info" + b"\x02", "sha512")
    assert expand(key, b"info", 100) == Secret((first + second)[:100])


def test_label_and_context_are_apart() -> None:
    key = Secret(bytes(64))
    assert derive(key, Label.EPOCH_PSK, b"", 32) != derive(key, Label.EPOCH_CHAIN, b"", 32)
    assert derive(key, Label.EPOCH_PSK, b"a", 32) != derive(key, Label.EPOCH_PSK, b"b", 32)


@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_frames_of_different_lists_differ(one: list[bytes], other: list[bytes]) -> None:
    assert (frame(*one) == frame(*other)) == (one == other)
