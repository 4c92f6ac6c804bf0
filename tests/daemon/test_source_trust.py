"""No key before a look at the source's status towards that peer, and none after an alarm there: with real servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from qtunnel.daemon import clock as clock_module
from qtunnel.daemon import source_book, source_status, sources, watch
from qtunnel.daemon.clock import now
from qtunnel.daemon.reliance import CoreReliance
from qtunnel.drivers import etsi014
from qtunnel.errors import ControlError, KeySourceUnreachableError, UnknownPeerError
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from qtunnel.keys import trust
from qtunnel.rekey.model import Look, Memory, Notice, PeerSettings
from qtunnel.rekey.node import RekeyNode
from qtunnel.secret import Secret
from qtunnel.terms import RESERVOIR, KeyRef, Policy, QkdPolicy
from tests.daemon.test_sources import WELL, Bench, bench, config_of, key_answer, nobody, served, status_answer
from tests.drivers.front import Exchange, Front, front
from tests.support.kme import answer, broken_server, driver_options, files, kme_pair, make_pki, run, until


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("pki"))


class Clock:
    """What the book takes for the present, besides the time that really passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = clock_module.monotonic
        for module in (source_book, source_status, sources):
            monkeypatch.setattr(module, "monotonic", lambda: real() + self.ahead)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def told(its: Bench, kind: str) -> list[tuple[str | None, str]]:
    """Peer and words of the events of that kind."""
    return [(event.peer, str(event.fields.get("detail"))) for event in its.events.history() if event.kind == kind]


def keys(server: Any) -> int:
    """Calls for keys that a server has seen."""
    return sum("c_keys" in line for line in server.lines)


class Said:
    """What the KME behind a front says further in its status, by the SAE that it is about."""

    def __init__(self) -> None:
        self.more: dict[str, dict[str, Any]] = {}
        self.hangs: set[str] = set()
        self.refuses: set[str] = set()
        self.over = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        sae = exchange.path.split("/keys/")[1].split("/")[0]
        if sae in self.hangs:
            await self.over.wait()
        if sae in self.refuses:
            await exchange.reply({"message": "no such call"}, 404)
            return
        extension = {**exchange.document["status_extension"], **self.more.get(sae, {})}
        await exchange.reply({**exchange.document, "status_extension": extension})


@contextlib.asynccontextmanager
async def hub(pki: Path) -> AsyncIterator[tuple[Bench, Front, Said]]:
    """Alice with bob and carol, and her real KME behind a front."""
    async with kme_pair(pki) as pair, front(pki, f"https://{pair.a.listen}") as server:
        options = driver_options(pki, "sae-alice", server.url)
        async with bench(config_of("bob", "carol", metro=options)) as its:
            server.status_fault = said = Said()
            yield its, server, said
            said.over.set()


async def works(its: Bench, peer: str) -> bool:
    return bool((await its.new("metro", peer=peer)).keys)


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


def test_a_status_that_hangs_holds_the_first_keys_up_for_a_bounded_time_and_is_shown(
    pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with hub(pki) as (its, server, said):
            for module in (trust, sources):
                monkeypatch.setattr(module, "HOLD", 0.3)
            said.hangs = {"sae-bob"}
            assert await works(its, "carol"), "another peer's keys do not wait for it"
            assert [one.call for one in server.requests if "sae-bob" in one.path] == []
            got = await its.new("metro")
            assert got.keys
            assert [peer for peer, _ in told(its, "source.unwatched")] == ["bob"]
            assert its.towards("metro").state == "status not known"
            assert ("bob", "metro") not in its.heard.vouched
            said.more["sae-bob"] = {"alarm": "Eve"}
            said.over.set()
            await until(lambda: alarmed(its))
            assert [gone[:2] for gone in its.heard.distrusted] == [("bob", "metro")], "a late word counts all the same"

    async def alarmed(its: Bench) -> bool:
        return its.towards("metro").state == "in quarantine"

    run(test)


def test_within_that_time_no_key_is_used(pki: Path) -> None:
    async def test() -> None:
        replies = [answer("503 Service Unavailable", "{}"), WELL, key_answer("11")]
        async with (
            broken_server(files(pki, "kme-a"), *replies) as server,
            bench(config_of(metro=served(pki, server.port))) as its,
        ):
            refused = await its.new("metro")
            assert "its first status is waited for" in refused.failures[0][1]
            assert "503" in refused.failures[0][1]
            assert not keys(server)

    run(test)


def test_a_kme_that_offers_no_status_is_used_at_once_and_that_is_shown(pki: Path) -> None:
    async def test() -> None:
        async with hub(pki) as (its, server, said):
            said.refuses = {"sae-bob"}
            assert await works(its, "bob")
            ((peer, words),) = told(its, "source.unwatched")
            assert peer == "bob"
            assert "404" in words
            assert its.towards("metro").state == "status not known"
            assert await works(its, "bob")
            assert sum(one.call == "status" for one in server.requests) == 1, "not asked before each key for nothing"

    run(test)


def test_a_status_that_stops_coming_is_told_once_keys_are_used_without(pki: Path, clock: Clock) -> None:
    async def test() -> None:
        async with hub(pki) as (its, _, said):
            assert await works(its, "bob")
            said.refuses = {"sae-bob"}
            clock.ahead += trust.FRESH
            assert await works(its, "bob")
            assert its.towards("metro").state == "no alarm", "one look that failed is no news"
            clock.ahead += trust.SILENT_AFTER
            assert await works(its, "bob")
            assert its.towards("metro").state == "status not known"
            said.refuses.clear()
            clock.ahead += trust.FRESH
            assert await works(its, "bob")
            assert [peer for peer, _ in told(its, "source.watched")] == ["bob"]
            assert its.towards("metro").state == "no alarm"

    run(test)


def test_a_pair_that_no_key_is_asked_for_shows_that_its_status_does_not_come_and_how_old_its_qber_is(
    pki: Path, clock: Clock
) -> None:
    """As one that is fed from its reservoir while its KME is away."""

    async def test() -> None:
        async with hub(pki) as (its, _, said):
            said.more["sae-bob"] = {"qber": 0.05}
            said.more["sae-carol"] = {"qber": 0.02}
            assert await works(its, "bob")
            assert await works(its, "carol")
            found = its.towards("metro")
            assert found.silent_s is None
            assert found.status_age_s is not None
            assert found.status_age_s < 60
            said.refuses = {"sae-bob"}
            clock.ahead += trust.SILENT_AFTER - 30
            await its.sources._ask("bob", "metro")
            assert its.towards("metro").state == "no alarm", "one look that failed is no news"
            clock.ahead += 300
            await its.sources._ask("carol", "metro")
            found = its.towards("metro")
            assert found.state == "status not known"
            assert "404" in (found.problem or "")
            assert found.silent_s is not None
            assert found.silent_s >= 300
            assert found.status_age_s == found.silent_s
            source = its.status("metro")
            assert source.qber == 0.05
            assert (source.qber_age_s or 0.0) >= 300
            assert its.towards("metro", "carol").silent_s is None
            said.refuses.clear()
            await its.sources._ask("bob", "metro")
            assert its.towards("metro").state == "no alarm"
            assert its.towards("metro").silent_s is None
            assert not told(its, "source.unwatched"), "no key was used without one"

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


def test_all_pairs_are_looked_at_without_any_key(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "CALL_GAP", 0.02)

    async def test() -> None:
        async with hub(pki) as (its, server, said):
            said.hangs = {"sae-bob"}
            watching = asyncio.create_task(its.sources.watch())
            try:
                await until(lambda: asked(server, "sae-bob"))
                assert await works(its, "carol"), "a look that hangs keeps no key of another's"
                said.over.set()
                await until(lambda: seen(its))
            finally:
                watching.cancel()

    async def asked(server: Front, sae: str) -> bool:
        return any(sae in one.path for one in server.requests)

    async def seen(its: Bench) -> bool:
        return {one.state for one in its.status("metro").towards} == {"no alarm"}

    run(test)


def test_a_pair_without_a_status_does_not_make_the_source_look_down(pki: Path, clock: Clock) -> None:
    """As where a KME does not know one of the SAEs: the others' looks would make it go up and down without end."""

    async def test() -> None:
        async with hub(pki) as (its, _, said):
            assert await works(its, "bob")
            said.refuses = {"sae-carol"}
            for _ in range(3):
                await its.sources._ask("carol", "metro")
                assert its.status("metro").state == "well"
            assert "404" in str(its.towards("metro", "carol").problem)
            said.refuses.add("sae-bob")
            await its.sources._ask("bob", "metro")
            assert its.status("metro").state == "failing"

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


@pytest.mark.parametrize("how", ["hangs", "away", "rests"])
def test_kept_keys_wait_for_a_status_that_does_not_come_as_long_as_fresh_ones_and_that_is_shown(
    pki: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Both KMEs may be away after a power cut: that is what kept keys are for."""

    async def test() -> None:
        async with hub(pki) as (its, _, said):
            for module in (trust, sources):
                monkeypatch.setattr(module, "HOLD", 0.5)
            monkeypatch.setattr(sources, "AGAIN", 0.05)
            said.hangs = {"sae-bob"}
            if how == "away":
                its.sources._hubs["away"] = away = etsi014.Hub("metro", nobody(pki))
                its.sources._sources["bob", "metro"] = away.for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob"))
            if how == "rests":
                for _ in range(3):
                    its.sources.book.failed("metro", "away", KeySourceUnreachableError("metro", "status", "away"))
                assert its.status("metro").state == "resting"
                dict(its.sources.book)["metro"].health.rests_until += 1000.0
            waiting = asyncio.create_task(its.sources.fetch(Look("bob", 1, ("metro",))))
            await asyncio.sleep(0)
            assert not waiting.done()
            assert its.towards("metro").state == "not looked at yet"
            assert not (await waiting).keys
            assert [peer for peer, _ in told(its, "source.unwatched")] == ["bob"]
            assert its.towards("metro").state == "status not known"
            assert not its.heard.vouched

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
