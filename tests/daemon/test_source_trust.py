"""No key before a look at the source's status towards that peer, and none after an alarm there: with real servers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from qtunnel.daemon.clock import now
from qtunnel.daemon.reliance import CoreReliance
from qtunnel.errors import ControlError, UnknownPeerError
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from qtunnel.keys import trust
from qtunnel.rekey.model import Look, Memory, Notice, PeerSettings
from qtunnel.rekey.node import RekeyNode
from qtunnel.secret import Secret
from qtunnel.terms import RESERVOIR, KeyRef, Policy, QkdPolicy
from tests.daemon.statuses import Clock, hub, keys, told, works
from tests.daemon.statuses import clock as clock  # a fixture
from tests.daemon.statuses import pki as pki  # a fixture
from tests.daemon.test_sources import bench, config_of, key_answer, served, status_answer
from tests.drivers.front import Exchange, Front
from tests.support.kme import answer, broken_server, driver_options, files, run, until


@pytest.mark.parametrize(
    ("extension", "why"),
    [({"alarm": "intercept-resend on link 3"}, "intercept-resend"), ({"qber": 0.2}, "QBER 20.0%")],
    ids=["alarm", "qber"],
)
def test_an_alarm_on_the_link_to_one_peer_stops_its_keys_and_no_other_s(
    pki: Path, clock: Clock, extension: dict[str, Any], why: str
) -> None:
    """Carol is not the first peer of the configuration, the only one that used to be looked at."""

    async def test() -> None:
        async with hub(pki) as (its, server, said):
            assert await works(its, "bob")
            assert await works(its, "carol")
            said.more["sae-carol"] = extension
            clock.ahead += trust.FRESH
            calls = len(server.calls)
            refused = await its.new("metro", peer="carol")
            assert not refused.keys
            assert why in refused.failures[0][1]
            assert "qtunnel sources clear metro --peer carol" in refused.failures[0][1]
            assert len(server.calls) == calls, "no key was asked for, and so none is lost"
            assert await works(its, "bob")
            assert [peer for peer, _ in told(its, "source.quarantined")] == ["carol"]
            assert [gone[:2] for gone in its.heard.distrusted] == [("carol", "metro")]
            found = its.status("metro")
            assert (found.state, found.healthy) == ("partly in quarantine", False)
            assert "towards carol: " in str(found.alarm)
            assert [its.towards("metro", peer).state for peer in ("bob", "carol")] == ["no alarm", "in quarantine"]

            with pytest.raises(ControlError, match="not in quarantine towards bob"):
                its.sources.clear("metro", "bob")
            with pytest.raises(UnknownPeerError, match="there are: bob, carol"):
                its.sources.clear("metro", "dave")
            its.sources.clear("metro", "carol")
            assert [peer for peer, _ in told(its, "source.cleared")] == ["carol"]
            assert not await works(its, "carol"), "it goes on, which the look before the key shows"
            said.more.clear()
            its.sources.clear("metro")
            assert await works(its, "carol")
            assert its.status("metro").state == "well"

    run(test)


def test_an_alarm_that_comes_while_a_key_is_fetched_takes_it_back(pki: Path, clock: Clock) -> None:
    async def test() -> None:
        async with hub(pki) as (its, server, said):
            assert await works(its, "bob")
            said.more["sae-bob"] = {"alarm": "a device was opened"}

            async def meanwhile(exchange: Exchange) -> None:
                await its.sources._ask("bob", "metro")
                await exchange.reply()

            server.fault = meanwhile
            got = await its.new("metro")
            assert not got.keys
            assert "an alarm came while the key was fetched" in got.failures[0][1]
            assert its.status("metro").keys_lost == 1

    run(test)


@pytest.mark.parametrize(
    "qber",
    [
        "NaN",
        '"3%"',
        '"lots"',
        "-1",
        "1.5",
        "true",
        "[0.3]",
        "Infinity",
        '""',
        '"status_extension": [{"qber": 0.4}]',
        '"Stored_Key_Count": 7',
    ],
)
def test_a_qber_that_cannot_be_read_stops_the_keys_until_one_can(pki: Path, clock: Clock, qber: str) -> None:
    async def test() -> None:
        extension = f'"status_extension": {{"qber": {qber}}}' if ":" not in qber else qber
        garbled = answer("200 OK", f'{{"stored_key_count": 7, {extension}}}')
        async with (
            broken_server(files(pki, "kme-a"), garbled, status_answer(qber=0.03), key_answer("11")) as server,
            bench(config_of(metro=served(pki, server.port))) as its,
        ):
            refused = await its.new("metro")
            assert not refused.keys
            assert "its qber is" in refused.failures[0][1] or ":" in qber
            assert [peer for peer, _ in told(its, "source.unreadable")] == ["bob"]
            assert its.status("metro").healthy is False
            assert its.towards("metro").state == "status unreadable"
            assert its.heard.distrusted, "what came since the last good look is in doubt"
            assert not keys(server)
            clock.ahead += trust.AGAIN
            assert await works(its, "bob")
            assert [peer for peer, _ in told(its, "source.watched")] == ["bob"]

    run(test)


def test_no_key_comes_before_the_first_look_nor_after_a_clear_before_the_next(pki: Path) -> None:
    async def test() -> None:
        async with hub(pki) as (its, server, said):
            assert await works(its, "bob")
            assert [one.call for one in server.requests[:2]] == ["status", "enc_keys"]
            assert ("bob", "metro") in its.heard.vouched
            said.more["sae-bob"] = {"alarm": "Eve"}
            await its.sources._ask("bob", "metro")
            said.more.clear()
            said.hangs = {"sae-bob"}
            its.sources.clear("metro")
            waiting = asyncio.create_task(its.new("metro"))
            await until(lambda: one_more(server, "status"))
            assert server.requests[-1].call == "status"
            calls = len(server.calls)
            assert not waiting.done()
            said.over.set()
            assert (await waiting).keys
            assert len(server.calls) == calls + 1

    async def one_more(server: Front, call: str) -> bool:
        return server.requests[-1].call == call

    run(test)


def test_a_reload_keeps_what_was_cleared_by_nobody(pki: Path) -> None:
    async def test() -> None:
        async with hub(pki) as (its, server, said):
            said.more["sae-carol"] = {"alarm": "Eve"}
            await its.sources._ask("carol", "metro")
            options = driver_options(pki, "sae-alice", server.url, timeout="3s")
            changed = config_of("bob", "carol", metro=options)
            its.sources.adopt(await its.sources.prepare(changed, ["metro"]))
            assert its.towards("metro", "carol").state == "in quarantine"
            assert its.towards("metro", "bob").state == "not looked at yet"

    run(test)


def test_kept_keys_wait_for_a_look_and_hear_of_its_alarm_first(pki: Path) -> None:
    async def test() -> None:
        async with hub(pki) as (its, server, said):
            assert not (await its.sources.fetch(Look("bob", 1, ("metro",)))).keys
            assert its.heard.vouched == [("bob", "metro")]
            assert not server.calls, "no key was asked for"
            calls = len(server.requests)
            await its.sources.fetch(Look("bob", 2, ("metro",)))
            assert len(server.requests) == calls, "once is enough"
            said.more["sae-carol"] = {"alarm": "Eve"}
            await its.sources.fetch(Look("carol", 3, ("metro",)))
            assert [gone[:2] for gone in its.heard.distrusted] == [("carol", "metro")]

    run(test)


def test_what_looks_find_reaches_the_keys_that_the_core_holds() -> None:
    alice, bob = Identity.create(os.urandom), Identity.create(os.urandom)
    node, flushed = RekeyNode(alice, os.urandom), list[bool]()
    policy = Policy(QkdPolicy.REQUIRED)
    settings = PeerSettings(
        "bob",
        bob.public,
        SUITES[1],
        policy,
        10.0,
        0.1,
        600.0,
        sources=("metro",),
        reservoir=8,
        reservoir_low=2,
        capabilities=RESERVOIR,
    )
    node.add_peer(settings, Memory(), now())
    reservoir = node.peers["bob"].ahead.reservoir
    reliance = CoreReliance(lambda: node, lambda: flushed.append(True))
    before, after = (KeyRef("metro", name, 32) for name in ("before", "after"))
    reservoir.put(before, Secret(os.urandom(32)), now().mono)
    reliance.vouch("bob", "metro", now().mono)
    reservoir.put(after, Secret(os.urandom(32)), now().mono + 1)
    reliance.distrust("bob", "metro", "Eve")
    assert reservoir.refs == (before,)
    assert flushed == [True]
    (notice,) = [effect for effect in node.take_effects() if isinstance(effect, Notice)]
    assert (notice.kind, notice.fields) == ("key.distrusted", {"source": "metro", "number": 1, "detail": "Eve"})
    assert reliance.next_rekey("bob") == node.peers["bob"].view().next_rekey is not None
    reliance.vouch("nobody", "metro", 0.0)  # a reload took it away meanwhile
    reliance.distrust("nobody", "metro", "Eve")
    assert reliance.next_rekey("nobody") is None
