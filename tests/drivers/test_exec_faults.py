"""Every fault of faults.py that can come to a vendor's program, with a real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qtunnel.drivers import program
from qtunnel.errors import (
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
)
from qtunnel.keys.quality import SeenKeys, defect
from qtunnel.secret import Secret
from tests.drivers.faults import FAULTS
from tests.support.kme import run
from tests.support.vendor import make_device

DELIVERED = "delivered as it is, and refused for all drivers by qtunnel/keys/quality.py: see the test below"
NO_TLS = "a program on this machine has no certificate; what it does over a network is its own"

CASES: dict[str, type[KeySourceError] | str] = {
    "slow": KeySourceTimeoutError,
    "cut": KeySourceProtocolError,
    "wrong-size": KeySourceProtocolError,
    "wrong-encoding": KeySourceProtocolError,
    "repeated-key": DELIVERED,
    "all-zero": DELIVERED,
    "low-entropy": DELIVERED,
    "huge": KeySourceProtocolError,
    "slow-loris": KeySourceTimeoutError,
    "expired-certificate": NO_TLS,
    "wrong-certificate": NO_TLS,
    "name-mismatch": NO_TLS,
    "restart": KeySourceUnavailableError,
    "clock-skew": NO_TLS,
}
REAL = [name for name, kind in CASES.items() if not isinstance(kind, str)]


def hub_of(directory: Path, timeout: str = "14s") -> program.Hub:
    path = make_device(directory)
    command = [str(path), str(directory / "device"), "{call}", "{peer}", "{size_bits}", "{key_id}"]
    return program.Hub("vendor", program.Options.model_validate({"command": command, "timeout": timeout}))


def test_every_fault_has_its_case() -> None:
    assert CASES.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", REAL)
def test_a_fault_is_a_named_error_and_passes(tmp_path: Path, fault: str) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    device = tmp_path / "one" / "device"

    async def test() -> None:
        hub, other = hub_of(tmp_path / "one"), hub_of(tmp_path / "other")
        source = hub.for_peer(program.PeerOptions(peer="bob"))
        await source.get_key(32)
        (device / "fault").write_text(fault)
        if CASES[fault] is KeySourceTimeoutError:
            hub.options = hub.options.model_copy(update={"timeout": 1.0})
        with pytest.raises(KeySourceError) as caught:
            await source.get_key(32)
        assert type(caught.value) is CASES[fault], caught.value
        assert caught.value.lost == 1
        assert str(caught.value).isprintable()
        assert str(caught.value).startswith(f"vendor ({tmp_path}/one/getkey): get_key: ")
        await other.for_peer(program.PeerOptions(peer="bob")).get_key(32)
        (device / "fault").unlink()
        hub.options = hub.options.model_copy(update={"timeout": 14.0})
        ref, key = await source.get_key(32)
        assert await source.get_key_by_id(ref) == key
        assert len((device / "calls").read_text().splitlines()) == 4, "a consuming call is never repeated"
        await hub.close()
        await other.close()

    run(test)


@pytest.mark.parametrize(
    ("fault", "said"), [("all-zero", "it is all zeros"), ("low-entropy", "it repeats itself after 4 bytes")]
)
def test_bad_keys_are_delivered_and_found(tmp_path: Path, fault: str, said: str) -> None:
    async def test() -> None:
        hub = hub_of(tmp_path)
        (tmp_path / "device" / "fault").write_text(fault)
        _, key = await hub.for_peer(program.PeerOptions(peer="bob")).get_key(32)
        assert defect(key) == said

    run(test)


def test_a_repeated_key_is_delivered_and_found(tmp_path: Path) -> None:
    async def test() -> None:
        hub, seen = hub_of(tmp_path), SeenKeys(Secret(os.urandom(32)))
        source = hub.for_peer(program.PeerOptions(peer="bob"))
        (tmp_path / "device" / "fault").write_text("repeated-key")
        (one, first), (other, second) = await source.get_key(32), await source.get_key(32)
        assert one.key_id != other.key_id
        assert (defect(first), seen.taken_for(one.key_id, first)) == (None, None)
        assert seen.taken_for(other.key_id, second) == one.key_id

    run(test)
