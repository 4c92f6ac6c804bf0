"""Every fault of qtunnel's list that can come to this driver, against a real agent that has it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from agent import Site, two_sites
from faults import FAULTS

from qtunnel.errors import (
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnreachableError,
)
from qtunnel.keys.quality import SeenKeys, defect
from qtunnel.secret import Secret

DELIVERED = "delivered as it is, and refused for all drivers by the daemon: see the test below"
NO_TLS = "a socket on this machine has no certificate; which user listens is looked at instead"

CASES: dict[str, type[KeySourceError] | str] = {
    "slow": KeySourceTimeoutError,
    "cut": KeySourceUnreachableError,
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
    "restart": KeySourceUnreachableError,
    "clock-skew": NO_TLS,
}
REAL = [fault for fault, kind in CASES.items() if not isinstance(kind, str)]


def test_every_fault_has_its_case() -> None:
    assert CASES.keys() == FAULTS.keys()


async def mend(site: Site) -> None:
    if site.agent.fault == "restart":
        await site.agent.start()
    site.agent.release.set()
    site.agent.fault = ""
    site.hub.options = site.hub.options.model_copy(update={"timeout": 5.0})


@pytest.mark.parametrize("fault", REAL)
@pytest.mark.parametrize("number", [1, 4])
def test_a_fault_is_a_named_error_and_passes(tmp_path: Path, fault: str, number: int) -> None:
    async def test() -> None:
        async with two_sites(tmp_path) as (alice, bob):
            await alice.source.get_key(32)
            alice.agent.fault = fault
            if CASES[fault] is KeySourceTimeoutError:
                alice.hub.options = alice.hub.options.model_copy(update={"timeout": 0.5})
            call = asyncio.create_task(alice.source.get_keys(32, number))
            if fault == "restart":
                for _ in range(2):
                    await alice.agent.arrived.get()
                await alice.agent.stop()
            with pytest.raises(KeySourceError) as caught:
                await call
            assert type(caught.value) is CASES[fault], caught.value
            assert caught.value.lost == number, "all that may be gone is named"
            assert str(caught.value).startswith(f"vault ({alice.agent.path}): fresh: ")
            assert str(caught.value).isprintable()
            assert len(alice.agent.asked) == 2, "a call that consumes was repeated"
            await bob.source.get_key(32)  # another source goes on meanwhile
            await mend(alice)
            ref, key = await alice.source.get_key(32)  # and so does this one, without a restart
            assert await bob.source.get_key_by_id(ref) == key

    asyncio.run(test())


@pytest.mark.parametrize("fault", ["all-zero", "low-entropy", "repeated-key"])
def test_bad_keys_are_delivered_and_found(tmp_path: Path, fault: str) -> None:
    async def test() -> None:
        async with two_sites(tmp_path) as (alice, _):
            alice.agent.fault = fault
            (one, first), (other, second) = await alice.source.get_keys(32, 2)
            if fault != "repeated-key":
                assert defect(first) is not None
                return
            seen = SeenKeys(Secret(os.urandom(32)))
            assert seen.taken_for(one.key_id, first) is None
            assert seen.taken_for(other.key_id, second) == one.key_id

    asyncio.run(test())
