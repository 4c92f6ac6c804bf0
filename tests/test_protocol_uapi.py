"""What docs/protocol.md says of the engine's configuration protocol, section 7, is what our engine does."""

from __future__ import annotations

import re

import pytest

from qtunnel.wireguard import limits, uapi
from tests.docs_notation import DOCUMENT
from tests.wireguard.test_psk import install, psk, start
from tests.wireguard.world import pair


def test_uapi_keys() -> None:
    standard = {
        "private_key", "listen_port", "fwmark", "replace_peers", "public_key", "update_only", "remove",
        "preshared_key", "endpoint", "persistent_keepalive_interval", "replace_allowed_ips", "allowed_ip",
        "protocol_version",
    }  # fmt: skip
    rows = DOCUMENT.table("7", "operation").rows
    assert {row["key"] for row in rows if row["operation"] == "set"} == set(uapi.KEYS) - standard
    world, alice, bob = start()
    install(bob, alice, 2)
    ends = f"expires_boottime_msec={round(world.now * 1000) + 1000}"
    install(alice, bob, 2, "record_mode=aes-256-gcm", "epoch_note=second", ends, "handshake=now")
    world.settle()
    shown = alice.get().splitlines()
    world.advance(1)
    shown += alice.get().splitlines()
    ours = {
        name for line in shown if re.search("epoch|record|installed|expires|^packets$", name := line.partition("=")[0])
    }
    assert {row["key"] for row in rows if row["operation"] == "get"} == ours


def _values(words: str) -> tuple[list[str], list[str]]:
    """Values that the words of section 7 allow, and some that they do not."""
    decimal, digits = re.match(r"decimal u(\d+):", words), re.fullmatch(r"(\d+) hexadecimal digits", words)
    if words.startswith("printable ASCII, at most 900 bytes"):
        return ["", "~" * 900], ["~" * 901, "\t", "ä"]
    if decimal:
        return ["0", str(2 ** int(decimal[1]) - 1)], [str(2 ** int(decimal[1])), "-1", "0x1", ""]
    if digits:
        return ["aF" * (int(digits[1]) // 2)], ["0" * (int(digits[1]) - 2), "0" * (int(digits[1]) + 2)]
    if " or " in words:
        allowed = re.findall(r"[\w-]+", words.partition("(")[0].replace(" or ", ", "))
        return allowed, [words, allowed[0].upper(), "true", ""]
    return [words], [f"{words} ", words.upper(), "false", ""]


def test_uapi_values() -> None:
    rows = DOCUMENT.table("7", "operation").rows
    for row in rows:
        if row["operation"] == "set":
            good, bad = _values(row["value"])
            for value in good:
                uapi.parse_assignment(f"{row['key']}={value}".encode(), lambda _: 0)
            for value in bad:
                with pytest.raises(uapi.UapiError):
                    uapi.parse_assignment(f"{row['key']}={value}".encode(), lambda _: 0)
    (form,) = [row["value"].partition(":")[0] for row in rows if row["key"] == "epoch_time_sec"]
    _, alice, _ = start()
    pattern = form.replace(".", r"\.").replace("S", r"\d+").replace("N", r"\d")
    assert re.search(rf"^epoch_time_sec={pattern}$", alice.get(), re.MULTILINE)


def test_uapi_shows_a_session_as_long_as_it_sends() -> None:
    world, alice, _ = start()
    world.lose = lambda source, destination, data: True
    world.advance(limits.REJECT_AFTER_TIME - 3)  # a second has passed since the start
    assert "epoch=1\n" in alice.get()
    world.advance(3)
    assert "\nepoch" not in alice.get()


def test_uapi_previous_psk_ends() -> None:
    world, alice, bob = start()
    alice.set_peer(bob.public, f"preshared_key={psk(2)}", f"previous_preshared_key={psk(1)}")
    world.advance(limits.REJECT_AFTER_TIME - 1)
    assert alice.peer(bob).previous_psk is not None
    world.advance(2)
    assert alice.peer(bob).previous_psk is None


def test_uapi_sections_and_errors() -> None:
    _, alice, bob = pair()
    section = f"public_key={bob.public.hex()}\n"

    def holds() -> tuple[int, int | None]:
        its = alice.peer(bob).psk
        return int.from_bytes(its.psk.reveal(), "big"), its.epoch

    assert alice.uapi(f"set=1\n{section}preshared_key={psk(1)}\nepoch=1\n\n") == "errno=0\n\n"
    assert alice.uapi(f"set=1\n{section}preshared_key={psk(1)}\n\n") == "errno=0\n\n"
    assert holds() == (1, 1)  # the one in place keeps its label
    assert alice.uapi(f"set=1\n{section}preshared_key={psk(2)}\n{section}epoch=2\n\n") == "errno=-22\n\n"
    assert holds() == (2, None)  # another section is not the same
    assert alice.uapi(f"set=1\n{section}preshared_key={psk(3)}\nepoch=x\nprevious_epoch=1\n\n") == "errno=-22\n\n"
    assert holds() == (2, None)  # what was read before the error does not count either
    for lacking in ("previous_epoch=1", f"previous_preshared_key={psk(1)}\nepoch=2"):
        with_psk = f"preshared_key={psk(4)}\n" if lacking.startswith("previous_epoch") else ""
        assert alice.uapi(f"set=1\n{section}{with_psk}{lacking}\n\n") == "errno=-22\n\n"
        assert holds() == (2, None)
    new = f"set=1\npublic_key={'aa' * 31}09\npreshared_key={psk(1)}\nallowed_ip=::/0\n"
    assert alice.uapi(f"{new}epoch=x\n\n") == "errno=-22\n\n"
    assert list(alice.device.state.peers) == [bob.public]
    assert not alice.device.state.allowed_ips.lookup(bytes(16))
