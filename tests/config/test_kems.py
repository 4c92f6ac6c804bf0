"""``kem`` and ``combiner`` of a peer: one KEM or several, and keys that an identity lacks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qtunnel.config import load_config, warnings
from qtunnel.config.kems import suite_of
from qtunnel.crypto.kem_set import find_kem
from qtunnel.daemon.settings import all_settings, load_public
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from tests.config.conftest import MINIMAL

Errors = Callable[[str], list[str]]
Write = Callable[[str], Path]


def with_kem(kem: str, further: str = "") -> str:
    return MINIMAL.replace("    public: bob.public\n", f"    public: bob.public\n    kem: {kem}\n{further}")


def make(site: Path, *names: str, of: tuple[str, ...] = ("alice", "bob")) -> None:
    """Identities with these keys in the place of the site's."""
    for name in of:
        made = Identity.create(os.urandom, [find_kem(kem) for kem in names])
        for file in site.glob(f"{name}.identity*"):
            file.unlink()
        made.save(site / f"{name}.identity")
        (site / f"{name}.public").write_text(made.public.to_text())


def test_one_name_or_a_list(write: Write) -> None:
    assert load_config(write(MINIMAL), environ={}).peers[0].kem == ("ml-kem-1024",)
    for kem in ("ml-kem-768", "[ml-kem-768]"):
        (peer,) = load_config(write(with_kem(kem)), environ={}).peers
        assert peer.kem == ("ml-kem-768",)
        assert suite_of(peer) is SUITES[3]
    (peer,) = load_config(write(with_kem("[ml-kem-768, ml-kem-1024]", "    combiner: catkdf\n")), environ={}).peers
    assert suite_of(peer).name == "ml-kem-1024+ml-kem-768+chacha20-poly1305+catkdf"


@pytest.mark.parametrize(
    "kem,expected",
    [
        ("[]", "peers[0].kem: is an empty list; the usual is ml-kem-1024"),
        ("ml-kem-1025", "peers[0].kem: is 'ml-kem-1025'; must be one of: ml-kem-1024, ml-kem-768, or of liboqs's: "),
        ("[ml-kem-768, ml-kem-76]", "peers[0].kem[1]: is 'ml-kem-76'; must be one of: ml-kem-1024, ml-kem-768, or"),
        ("7", "peers[0].kem: is '7'; must be one of"),
        ("{a: b}", "peers[0].kem: must be one of"),
        ("[ml-kem-768, ml-kem-768]", "peers[0].kem: names ml-kem-768 twice"),
        ("ml-kem-768\n    combiner: xor", "peers[0].combiner: is 'xor'; must be one of: hkdf, catkdf"),
    ],
)
def test_mistakes(errors_of: Errors, kem: str, expected: str) -> None:
    (line,) = errors_of(with_kem(kem))
    assert expected in line


def test_two_kems_of_which_one_is_liboqs(site: Path, write: Write, liboqs: None) -> None:
    make(site, "hqc-256")
    config = load_config(write(with_kem("[ml-kem-1024, hqc-256]")), environ={})
    (settings,) = all_settings(config, load_public(config))
    assert settings.suite.name == "hqc-256+ml-kem-1024+chacha20-poly1305"
    assert [line for line in warnings(config) if "hqc-256" in line and "proof" in line]


def test_keys_that_are_missing(site: Path, errors_of: Errors, liboqs: None) -> None:
    text = with_kem("[ml-kem-1024, sntrup761]")
    assert [line.partition("peers[0].")[2] for line in errors_of(text)] == [
        f"kem: {whose} has no sntrup761 key; an identity gets one when it is made: qtunnel identity new FILE "
        "--kem sntrup761"
        for whose in ("node.identity", "the peer's public file")
    ]
    make(site, "sntrup761", of=("alice",))
    (line,) = errors_of(text)
    assert "the peer's public file has no sntrup761 key" in line


def test_classic_mceliece(site: Path, write: Write, errors_of: Errors, liboqs: None) -> None:
    make(site, "classic-mceliece-348864")
    (line,) = errors_of(with_kem("classic-mceliece-348864"))
    assert (
        "serves with static keys only and needs another KEM beside it: [classic-mceliece-348864, ml-kem-1024]" in line
    )
    config = load_config(write(with_kem("[classic-mceliece-348864, ml-kem-1024]")), environ={})
    (said,) = [line for line in warnings(config) if "classic-mceliece" in line]
    assert "protects as long as neither gateway's key is stolen" in said


def test_kems_that_no_message_holds(site: Path, errors_of: Errors, liboqs: None) -> None:
    make(site, "frodokem-1344-aes", "frodokem-1344-shake")
    (line,) = errors_of(with_kem("[frodokem-1344-aes, frodokem-1344-shake]"))
    assert "bytes in one message of the handshake, which holds 65,535: leave a KEM out" in line
