"""The faults that every driver has to stand, at a real SKIP key provider."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from qtunnel.errors import KeySourceError, KeySourceTimeoutError, KeySourceUnreachableError
from tests.drivers.faults import CERTIFICATES, FAULTS, OVER_TLS, certificate
from tests.drivers.http_faults import SLOW, WORDS, Bench, cut, faults, never, shows, strike, with_certificate
from tests.support.errors import failing
from tests.support.kme import run
from tests.support.skip import Exchange, Fault, key_providers, server_context

CASES: dict[str, type[KeySourceError] | str] = OVER_TLS

SAYS = WORDS | {
    "wrong-encoding": "seems to be base64 where hexadecimal is expected",
    "name-mismatch": "its certificate is for another IP address; set server_hostname",
}


def altered(change: Callable[[bytes], str]) -> Fault:
    """The key of an answer, from its bytes to another text."""

    async def fault(exchange: Exchange) -> None:
        await exchange.reply(key=change(bytes.fromhex(exchange.document["key"])))

    return fault


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.mark.parametrize("call", ["new", "by id"])
@pytest.mark.parametrize("fault", CASES)
def test_a_fault_has_its_name_harms_nobody_else_and_is_got_over(
    pki: Path, tmp_path: Path, fault: str, call: str
) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair, key_providers(pki) as others:
            mine, theirs, provider = ("Alice", "Bob", pair.alice) if call == "new" else ("Bob", "Alice", pair.bob)
            source = pair.source(mine, timeout="3s" if fault in SLOW else "20s")
            its = Bench(source, pair.source(theirs), fresh=call == "new")
            await its.ask()
            if fault in CERTIFICATES:
                context = server_context(certificate(fault, pki, tmp_path))
                struck = with_certificate(its, provider, context)
            else:
                struck = strike(its, provider, fault, faults(altered, bytes.hex, encoded, its.last))
            error, (ref, key) = await asyncio.gather(struck, others.source("Alice").get_key(32))
            assert type(error) is CASES[fault]
            assert SAYS[fault] in str(error)
            assert error.lost == (0 if fault in CERTIFICATES else 1)
            assert await others.source("Bob").get_key_by_id(ref) == key, "another source goes on"
            assert not shows(error, its.last)
            assert await its.ask() is not None, "the same source, without a restart"

    run(test)


def test_capabilities_that_are_slow_or_cut_cost_no_key(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            alice = pair.source("Alice", timeout="3s")
            for fault, kind in ((never, KeySourceTimeoutError), (cut, KeySourceUnreachableError)):
                pair.alice.faults["capabilities"] = fault
                error = await failing(lambda: alice.get_key(32))
                assert (type(error), error.lost) == (kind, 0)
            pair.alice.faults.clear()
            assert not pair.alice.asked("key")
            await alice.get_key(32)

    run(test)


def test_the_list_of_faults_is_the_one_of_all_drivers() -> None:
    assert CASES.keys() == FAULTS.keys() == SAYS.keys()
