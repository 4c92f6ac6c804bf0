"""The faults that every driver has to stand, over real KMEs, between which and the driver they are done."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from qtunnel.drivers import etsi014
from qtunnel.errors import KeySourceError
from qtunnel.keys.source import KeyRef
from tests.drivers.faults import CERTIFICATES, FAULTS, OVER_TLS, certificate
from tests.drivers.front import Exchange, Fault, Front, front
from tests.drivers.http_faults import SLOW, WORDS, Bench, faults, shows, strike, with_certificate
from tests.support.kme import Pair, driver_options, kme_pair, run

CASES: dict[str, type[KeySourceError] | str] = OVER_TLS

SAYS = WORDS | {"wrong-encoding": "256 bits in hex where base64 is expected"}


def bench(pair: Pair, server: Front, call: str, timeout: str) -> Bench:
    """Alice and Bob, one of them through a front."""
    sae, peer = ("sae-alice", "sae-bob") if call == "enc_keys" else ("sae-bob", "sae-alice")
    hub = etsi014.Hub("metro", driver_options(pair.pki, sae, server.url, timeout=timeout))
    pair.stack.push_async_callback(hub.close)
    source = hub.for_peer(etsi014.PeerOptions(peer_sae_id=peer))
    return Bench(source, pair.source(peer, sae), fresh=call == "enc_keys")


def altered(change: Callable[[bytes], str]) -> Fault:
    """The key of an answer, from its bytes to another text."""

    async def fault(exchange: Exchange) -> None:
        document = exchange.document
        document["keys"][0]["key"] = change(base64.b64decode(document["keys"][0]["key"]))
        await exchange.reply(document)

    return fault


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.mark.parametrize("call", ["enc_keys", "dec_keys"])
@pytest.mark.parametrize("fault", CASES)
def test_a_fault_has_its_name_harms_nobody_else_and_is_got_over(
    pki: Path, tmp_path: Path, fault: str, call: str
) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            upstream, sae = (pair.a, "sae-alice") if call == "enc_keys" else (pair.b, "sae-bob")
            async with front(pki, f"https://{upstream.listen}", sae) as server:
                its = bench(pair, server, call, "3s" if fault in SLOW else "20s")
                await its.ask()
                if fault in CERTIFICATES:
                    struck = with_certificate(its, server, server.context(certificate(fault, pki, tmp_path)))
                else:
                    struck = strike(its, server, fault, faults(altered, encoded, bytes.hex, its.last))
                neighbour = pair.source("sae-alice", "sae-carol")
                error, (ref, key) = await asyncio.gather(struck, neighbour.get_key(32))
                assert type(error) is CASES[fault]
                assert SAYS[fault] in str(error)
                assert error.lost == (0 if fault in CERTIFICATES else 1)
                assert await pair.source("sae-carol", "sae-alice").get_key_by_id(ref) == key
                assert not shows(error, its.last)
                assert await its.ask() is not None, "the same source, without a restart"
                assert set(server.calls) == {f"POST {call}"}

    run(test)


def test_two_hundred_keys_reach_both_ends(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            alice, bob = pair.source("sae-alice", "sae-bob"), pair.source("sae-bob", "sae-alice")
            refs: list[KeyRef] = []
            for _ in range(200):
                ref, key = await alice.get_key(32)
                assert await bob.get_key_by_id(ref) == key
                refs.append(ref)
            assert len({ref.key_id for ref in refs}) == 200

    run(test)


def test_the_list_of_faults_is_the_one_of_all_drivers() -> None:
    assert CASES.keys() == FAULTS.keys() == SAYS.keys()
