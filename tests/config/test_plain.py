"""Plain WireGuard peers in a configuration: only where somebody wrote the word, and never in another's place."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from qtunnel.config import load_config, warnings
from tests.config.conftest import MINIMAL, identity, write_secret
from tests.config.conftest import errors_of as errors_of
from tests.config.conftest import site as site
from tests.config.conftest import write as write

KEY = base64.b64encode(bytes(range(32))).decode()
PHONE = f"""\
plain_peers:
  - name: phone
    protection: wireguard-only
    public_key: {KEY}
    allowed_ips: [10.77.0.9/32]
"""


def test_it_is_what_was_written_and_warned_of(write: Callable[[str], Path]) -> None:
    config = load_config(write(MINIMAL + PHONE), environ={})
    (phone,) = config.plain_peers
    assert (phone.public_key, phone.preshared_key, phone.endpoint) == (bytes(range(32)), None, None)
    assert any("phone" in line and "wireguard-only" in line for line in warnings(config))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    protection: wireguard-only\n", "", "protection: is missing; for example protection: wireguard-only"),
        ("wireguard-only", "qkd", "must be one of: wireguard-only"),
        (KEY, KEY[:-4], "not a WireGuard public key"),
        (KEY, base64.b64encode(identity("bob").public.wireguard).decode(), "is the WireGuard key of bob"),
        (KEY, base64.b64encode(identity("alice").public.wireguard).decode(), "is this node's own WireGuard key"),
        ("name: phone", "name: bob", "peers[0] has this name too"),
        ("name: phone", "name: alice", "is this node's own name"),
        ("10.77.0.9/32", "10.77.0.2/32", "peers[0] has this network already"),
        ("allowed_ips", "preshared_key: phone.psk\n    allowed_ips", "no such file"),
        ("allowed_ips", "preshared_key: open.psk\n    allowed_ips", "others may use this secret file"),
        ("allowed_ips", "preshared_key: short.psk\n    allowed_ips", "holds 3 bytes instead of 32"),
        ("allowed_ips", "qkd: off\n    allowed_ips", "unknown key 'qkd'"),
    ],
)
def test_mistakes_are_named(site: Path, errors_of: Callable[[str], list[str]], old: str, new: str, words: str) -> None:
    (site / "open.psk").write_text(KEY)
    (site / "open.psk").chmod(0o644)
    write_secret(site / "short.psk", "YWJj\n")
    assert old in PHONE
    (line,) = errors_of(MINIMAL + PHONE.replace(old, new))
    assert words in line
    assert KEY not in line


def test_two_of_the_same_key_are_one_too_many(errors_of: Callable[[str], list[str]]) -> None:
    second = PHONE.partition("\n")[2].replace("phone", "tablet").replace("10.77.0.9", "10.77.0.8")
    (line,) = errors_of(MINIMAL + PHONE + second)
    assert "plain_peers[0] has the same key" in line
