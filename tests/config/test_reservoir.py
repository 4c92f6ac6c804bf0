"""The reservoir's own options: where its keys are kept, and what is wrong with the key for that."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qtunnel.config import load_config
from qtunnel.daemon.settings import load_public, settings_of
from qtunnel.errors import ConfigError
from tests.config.conftest import MINIMAL, write_secret

Write = Callable[[str], Path]


def with_reservoir(text: str) -> str:
    return MINIMAL + f"      reservoir: {text}\n"


@pytest.fixture
def key(site: Path) -> bytes:
    made = os.urandom(32)
    write_secret(site / "a.store", base64.b64encode(made).decode() + "\n")
    return made


def store_key(path: Path, **environ: str) -> bytes:
    config = load_config(path, environ=environ)
    secret = settings_of(config.peer("bob"), load_public(config)["bob"]).store_key
    assert secret is not None
    return bytes(secret.reveal())


def test_the_key_comes_from_a_file_or_a_credential(site: Path, write: Write, key: bytes) -> None:
    assert store_key(write(with_reservoir("{depth: 4, store: a.store}"))) == key
    (site / "credentials").mkdir()
    os.rename(site / "a.store", site / "credentials" / "reservoir")
    path = write(with_reservoir("{depth: 4, store: 'credential:reservoir'}"))
    assert store_key(path, CREDENTIALS_DIRECTORY=str(site / "credentials")) == key


def test_without_a_store_there_is_no_key(write: Write) -> None:
    for text in ("4", "{depth: 4}"):
        config = load_config(write(with_reservoir(text)), environ={})
        assert settings_of(config.peer("bob"), load_public(config)["bob"]).store_key is None


def test_who_only_looks_for_the_socket_needs_no_credential(write: Write) -> None:
    path = write(with_reservoir("{depth: 4, store: 'credential:reservoir'}"))
    assert load_config(path, environ={}, check_files=False).node.name == "alice"


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("missing.store", "no such file"),
        ("missing.store", "make one with: (umask 077; openssl rand"),
        ("'credential:reservoir'", "$CREDENTIALS_DIRECTORY is not set: write LoadCredential=reservoir:FILE"),
        ("'credential:../x'", "takes a name of letters"),
        ("'credential:..'", "takes a name of letters"),
        ("open.store", "others may use this secret file (mode 0644); run: chmod 600"),
    ],
)
def test_what_is_wrong_with_the_key_is_said(
    site: Path, errors_of: Callable[[str], list[str]], store: str, said: str
) -> None:
    (site / "open.store").write_text(base64.b64encode(bytes(32)).decode())
    (site / "open.store").chmod(0o644)
    (found,) = errors_of(with_reservoir(f"{{depth: 4, store: {store}}}"))
    assert "peers[0].qkd.reservoir.store: " in found
    assert said in found


def test_a_store_without_a_depth_keeps_nothing(errors_of: Callable[[str], list[str]], key: bytes) -> None:
    (found,) = errors_of(with_reservoir("{store: a.store}"))
    assert "has a store and no depth" in found


@pytest.mark.parametrize(
    ("content", "said"),
    [("hello", "is not one line of base64"), ("not base64!", "is not one line of base64"), ("YWJj", "holds 3 bytes")],
)
def test_a_key_that_is_none_is_an_error_and_says_how_to_make_one(
    site: Path, errors_of: Callable[[str], list[str]], content: str, said: str
) -> None:
    write_secret(site / "a.store", content)
    (found,) = errors_of(with_reservoir("{depth: 4, store: a.store}"))
    assert f"peers[0].qkd.reservoir.store: {site}/a.store: {said}" in found
    assert "make one with: (umask 077; openssl rand -base64 32 > FILE)" in found
    assert content not in found


def test_a_key_that_goes_bad_after_the_check_is_an_error_too(site: Path, write: Write, key: bytes) -> None:
    config = load_config(write(with_reservoir("{depth: 4, store: a.store}")), environ={})
    write_secret(site / "a.store", "YWJj")
    with pytest.raises(ConfigError, match=r"holds 3 bytes instead of 32; make one with: "):
        settings_of(config.peer("bob"), load_public(config)["bob"])
