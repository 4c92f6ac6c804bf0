"""A status that does not come, at first or any more: how long keys wait for it, and that it is shown; real servers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qtunnel.daemon import sources, watch
from qtunnel.drivers import etsi014
from qtunnel.errors import KeySourceUnreachableError
from qtunnel.keys import trust
from qtunnel.rekey.model import Look
from tests.daemon.statuses import Clock, hub, keys, told, works
from tests.daemon.statuses import clock as clock  # a fixture
from tests.daemon.statuses import pki as pki  # a fixture
from tests.daemon.test_sources import WELL, Bench, bench, config_of, key_answer, nobody, served
from tests.drivers.front import Front
from tests.support.kme import answer, broken_server, files, run, until


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
