"""Alarms that come between a key's arrival and its use, and looks that end in another world than they began in."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from qtunnel.daemon.sources import Opened
from qtunnel.errors import ControlError, KeySourceStatusError, KeySourceTimeoutError, KeySourceUnauthorizedError
from qtunnel.keys import trust
from qtunnel.keys.source import SourceStatus
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef
from tests.daemon.statuses import Clock, Said, hub, works
from tests.daemon.statuses import clock as clock  # a fixture
from tests.daemon.statuses import pki as pki  # a fixture
from tests.daemon.test_sources import Bench, bench, config_of, nobody
from tests.drivers.front import Exchange, Front, front
from tests.support.kme import driver_options, kme_pair, run, until

WELL = SourceStatus(True, "well")
OPENED = SourceStatus(False, "opened", alarm="the device was opened")


class Scripted:
    """A source whose status is said by the test, for all peers together."""

    name, description = "metro", "scripted:metro"

    def __init__(self) -> None:
        self.answers: asyncio.Queue[SourceStatus | Exception] = asyncio.Queue()
        self.given = 0

    async def status(self) -> SourceStatus:
        said = await self.answers.get()
        if isinstance(said, Exception):
            raise said
        return said

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        self.given += 1
        key = Secret(os.urandom(size))
        return KeyRef(self.name, f"{id(self)}-{self.given}", size), key

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        raise NotImplementedError


def scripted(its: Bench, config: Any, *peers: str) -> list[Scripted]:
    found = [Scripted() for _ in peers]
    its.sources.adopt(Opened({}, {(peer, "metro"): one for peer, one in zip(peers, found, strict=True)}, config))
    return found


@pytest.mark.parametrize("ends", [False, True])
def test_an_alarm_reaches_a_key_that_waits_for_another_source_s(pki: Path, ends: bool) -> None:
    """ends: the alarm was cleared, and the next look found nothing, before the other source has answered."""

    async def came(its: Bench) -> bool:
        return its.status("metro").keys_taken > 0

    async def test() -> None:
        async with (
            kme_pair(pki) as pair,
            front(pki, f"https://{pair.a.listen}") as metro,
            front(pki, f"https://{pair.a.listen}") as other,
            bench(config_of(**{
                name: driver_options(pki, "sae-alice", its.url) for name, its in (("metro", metro), ("other", other))
            })) as its,
        ):  # fmt: skip
            metro.status_fault = said = Said()

            async def slow(exchange: Exchange) -> None:
                await until(lambda: came(its))
                said.more["sae-bob"] = {"alarm": "Eve"}
                await its.sources._ask("bob", "metro")
                if ends:
                    said.more.clear()
                    its.sources.clear("metro")
                    await its.sources._ask("bob", "metro")
                await exchange.reply()

            other.fault = slow
            got = await its.new("metro", "other")
            assert [ref.source for ref, _ in got.keys] == ["other"]
            assert "an alarm came" in got.failures[0][1]
            assert its.status("metro").keys_lost == 1

    run(test)


def test_a_look_of_before_a_clear_that_ends_with_an_alarm_takes_back_what_came_since(pki: Path) -> None:
    async def test() -> None:
        config = config_of("bob", "carol", metro=nobody(pki))
        async with bench(config) as its:
            bob, carol = scripted(its, config, "bob", "carol")
            bob.answers.put_nowait(OPENED)
            await its.sources._ask("bob", "metro")
            slow = asyncio.create_task(its.sources._ask("carol", "metro"))
            await asyncio.sleep(0)
            its.sources.clear("metro")
            bob.answers.put_nowait(WELL)
            assert await works(its, "bob")
            its.heard.distrusted.clear()
            carol.answers.put_nowait(OPENED)
            await slow
            assert its.status("metro").state == "in quarantine"
            assert ("bob", "metro") in [gone[:2] for gone in its.heard.distrusted]

    run(test)


def test_a_look_at_a_source_of_before_says_nothing_of_the_one_in_its_place(pki: Path) -> None:
    async def asked(server: Front) -> bool:
        return bool(server.requests)

    async def test() -> None:
        async with hub(pki) as (its, old, said), front(pki, old.upstream) as new:
            said.hangs = {"sae-bob"}
            waiting = asyncio.create_task(its.new("metro"))
            await until(lambda: asked(old))
            changed = config_of("bob", "carol", metro=driver_options(pki, "sae-alice", new.url))
            its.sources.adopt(await its.sources.prepare(changed, ["metro"]))
            new.status_fault = eve = Said()
            eve.more["sae-bob"] = {"alarm": "Eve"}
            said.over.set()
            assert not (await waiting).keys
            assert its.towards("metro").state == "not looked at yet"
            assert ("bob", "metro") not in its.heard.vouched
            refused = await its.new("metro")
            assert not refused.keys
            assert "Eve" in refused.failures[0][1]
            assert not new.calls

    run(test)


def test_an_alarm_of_a_source_of_before_counts_all_the_same(pki: Path) -> None:
    async def test() -> None:
        config = config_of(metro=nobody(pki))
        async with bench(config) as its:
            (old,) = scripted(its, config, "bob")
            slow = asyncio.create_task(its.sources._ask("bob", "metro"))
            await asyncio.sleep(0)
            scripted(its, config, "bob")
            old.answers.put_nowait(OPENED)
            await slow
            assert its.status("metro").state == "in quarantine"

    run(test)


def test_an_alarm_reaches_a_key_that_is_on_its_way_also_where_its_source_is_replaced_meanwhile(pki: Path) -> None:
    async def test() -> None:
        config = config_of(metro=nobody(pki))
        async with bench(config) as its:
            (old,) = scripted(its, config, "bob")
            old.answers.put_nowait(WELL)
            asked, over, give = asyncio.Event(), asyncio.Event(), old.get_key

            async def slow(size: int) -> tuple[KeyRef, Secret]:
                asked.set()
                await over.wait()
                return await give(size)

            old.get_key = slow  # type: ignore[method-assign]
            waiting = asyncio.create_task(its.new("metro"))
            await asked.wait()
            old.answers.put_nowait(KeySourceStatusError("metro", "status", "its qber is lots"))
            await its.sources._ask("bob", "metro")
            its.sources.adopt(await its.sources.prepare(config_of(metro=nobody(pki)), ["metro"]))
            over.set()
            got = await waiting
            assert old.given == 1
            assert not got.keys
            assert "an alarm came" in got.failures[0][1]

    run(test)


def test_that_a_driver_fails_at_each_look_shows_as_a_status_that_is_not_known(pki: Path, clock: Clock) -> None:
    """Not with an error of a key source, but with one that nobody thought of."""

    async def test() -> None:
        config = config_of(metro=nobody(pki))
        async with bench(config) as its:
            (bob,) = scripted(its, config, "bob")
            bob.answers.put_nowait(WELL)
            await its.sources._ask("bob", "metro")
            assert its.towards("metro").state == "no alarm"
            clock.ahead += trust.SILENT_AFTER
            bob.answers.put_nowait(ZeroDivisionError())
            await its.sources._ask("bob", "metro")
            shown = its.towards("metro")
            assert shown.state == "status not known"
            assert "ZeroDivisionError" in (shown.problem or "")
            bob.answers.put_nowait(WELL)
            await its.sources._ask("bob", "metro")
            assert its.towards("metro").state == "no alarm"

    run(test)


def test_a_clear_that_is_refused_changes_nothing(pki: Path) -> None:
    async def test() -> None:
        config = config_of(metro=nobody(pki))
        async with bench(config) as its:
            (bob,) = scripted(its, config, "bob")
            bob.answers.put_nowait(KeySourceStatusError("metro", "status", "its qber is lots"))
            await its.sources._ask("bob", "metro")
            for peer in ("bob", None):
                with pytest.raises(ControlError, match="not in quarantine"):
                    its.sources.clear("metro", peer)
                assert its.towards("metro").state == "status unreadable"

    run(test)


@pytest.mark.parametrize("failure", [KeySourceTimeoutError, KeySourceUnauthorizedError])
def test_a_status_that_hangs_or_is_forbidden_keeps_nobody_s_keys_for_good(
    pki: Path, monkeypatch: pytest.MonkeyPatch, failure: type[KeySourceTimeoutError | KeySourceUnauthorizedError]
) -> None:
    """Of many peers there is always a look that failed just now: no rest may come of it."""
    monkeypatch.setattr(trust, "HOLD", 0.0)

    async def test() -> None:
        peers = ("bob", "carol", "dave", "erin")
        config = config_of(*peers, metro=nobody(pki))
        async with bench(config) as its:
            found = scripted(its, config, *peers)
            for _ in range(3):
                for peer, source in zip(peers, found, strict=True):
                    source.answers.put_nowait(failure("metro", "status", "no"))
                    await its.sources._ask(peer, "metro")
            assert its.status("metro").state == "failing"
            for peer in peers:
                assert await works(its, peer)
                assert its.towards("metro", peer).state == "status not known"

    run(test)


@pytest.mark.parametrize("failure", [KeySourceTimeoutError, KeySourceUnauthorizedError])
def test_one_peer_without_keys_puts_the_source_to_rest_for_nobody_else(
    pki: Path, failure: type[KeySourceTimeoutError | KeySourceUnauthorizedError]
) -> None:
    """A KME that does not know one of the SAEs, or whose own link to that peer's KME hangs."""

    async def fails(size: int) -> tuple[KeyRef, Secret]:
        raise failure("metro", "get_key", "no")

    async def test() -> None:
        peers = ("bob", "carol", "dave")
        config = config_of(*peers, metro=nobody(pki))
        async with bench(config) as its:
            found = scripted(its, config, *peers)
            for peer, source in zip(peers, found, strict=True):
                source.answers.put_nowait(WELL)
                await its.sources._ask(peer, "metro")
            found[1].get_key = fails  # type: ignore[method-assign]  # a fault of this one's
            for _ in range(4):
                assert not (await its.new("metro", peer="carol")).keys
            assert await works(its, "bob")
            found[2].get_key = fails  # type: ignore[method-assign]
            for peer in ("carol", "dave", "carol", "dave"):
                assert not (await its.new("metro", peer=peer)).keys
            assert its.status("metro").state == "resting", "two of them are everybody"

    run(test)
