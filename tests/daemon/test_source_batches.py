"""Keys for the reservoir come several at a time where the driver can: within a KME's limits, and none lost unbooked."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qtunnel.daemon import sources as module
from qtunnel.errors import KeyNotFoundError, KeySourceError, KeySourceTimeoutError, KeySourceUnavailableError
from qtunnel.keys.source import KeyRef, SourceStatus
from qtunnel.rekey.model import FetchAhead, FetchById, Fetched
from qtunnel.secret import Secret
from tests.daemon.test_sources import Bench, bench, config_of
from tests.drivers.front import Exchange, Front, front
from tests.support.kme import Pair, driver_options, kme_pair, make_pki, run


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("pki"))


class Site:
    """Alice's sources, with a front before her KME; bob has his by the driver alone."""

    def __init__(self, pair: Pair, server: Front, its: Bench) -> None:
        self.pair, self.server, self.bench = pair, server, its
        self.bob = pair.source("sae-bob", "sae-alice")

    async def ahead(self, number: int) -> Fetched:
        return await self.bench.sources.fetch(FetchAhead("bob", 1, "metro", number, 32))

    async def by_ids(self, refs: Sequence[KeyRef]) -> Fetched:
        return await self.bench.sources.fetch(FetchById("bob", 1, tuple(refs)))

    @property
    def calls(self) -> list[str]:
        """Those that consume."""
        return [call.split()[1] for call in self.server.calls if call.endswith("c_keys")]

    @property
    def lost(self) -> int:
        return self.bench.status("metro").keys_lost


@contextlib.asynccontextmanager
async def site(pki: Path, **key: Any) -> AsyncIterator[Site]:
    async with (
        kme_pair(pki, **key) as pair,
        front(pki, f"https://{pair.a.listen}") as server,
        bench(config_of(metro=driver_options(pki, "sae-alice", server.url))) as its,
    ):
        yield Site(pair, server, its)


def test_one_call_at_each_end_where_the_kme_allows_it(pki: Path) -> None:
    async def test() -> None:
        async with site(pki) as its:
            made = await its.ahead(16)
            assert (len(made.keys), made.failures, its.calls) == (16, (), ["enc_keys"])
            assert await its.bob.get_keys_by_ids([ref for ref, _ in made.keys]) == [key for _, key in made.keys]
            theirs = await its.bob.get_keys(32, 16)
            given = await its.by_ids([ref for ref, _ in theirs])
            assert given == Fetched(tuple(theirs))
            assert its.calls == ["enc_keys", "dec_keys"]
            assert its.bench.status("metro").keys_taken == 32

    run(test)


@pytest.mark.parametrize(("most", "calls"), [(5, 4), (1, 16)])
def test_no_more_at_once_than_the_kme_gives(pki: Path, most: int, calls: int) -> None:
    async def test() -> None:
        async with site(pki, max_per_request=most) as its:
            made = await its.ahead(16)
            assert (len(made.keys), made.failures, its.calls) == (16, (), ["enc_keys"] * calls)
            theirs = [pair for _ in range(16) for pair in await its.bob.get_keys(32, 1)]
            assert (await its.by_ids([ref for ref, _ in theirs])).keys == tuple(theirs)
            assert its.calls[calls:] == ["dec_keys"] * calls
            assert its.lost == 0

    run(test)


def test_a_kme_with_fewer_keys_than_are_wanted_gives_those_that_it_has(pki: Path) -> None:
    """It refuses more as a whole, so that a slow link would never fill a reservoir."""

    async def test() -> None:
        async with site(pki, max_count=3, rate=0.001) as its:
            made = await its.ahead(16)
            assert len(made.keys) == 3
            assert len(made.failures) == 1
            assert its.lost == 0
            assert its.bench.told().count("source.down") == 1

    run(test)


def test_one_key_that_is_not_there_costs_no_other(pki: Path) -> None:
    async def test() -> None:
        async with site(pki) as its:
            theirs = await its.bob.get_keys(32, 9)
            refs = [ref for ref, _ in theirs]
            refs.insert(4, KeyRef("metro", "00000000-0000-4000-8000-000000000000", 32))
            given = await its.by_ids(refs)
            assert given.keys == tuple(theirs)
            assert len(given.failures) == 1
            assert its.lost == 0

    run(test)


@pytest.mark.parametrize("call", ["enc_keys", "dec_keys"])
def test_an_answer_that_is_lost_costs_the_whole_batch_once(pki: Path, call: str) -> None:
    async def dropped(exchange: Exchange) -> None:
        exchange.writer.transport.abort()

    async def test() -> None:
        async with site(pki) as its:
            refs = [ref for ref, _ in await its.bob.get_keys(32, 7)]
            its.server.fault = dropped
            got = await (its.ahead(7) if call == "enc_keys" else its.by_ids(refs))
            assert got.keys == ()
            assert len(got.failures) == 1
            assert its.calls == [call], "it is not asked for again"
            assert its.lost == 7

    run(test)


def test_a_key_of_a_batch_that_is_not_random_is_lost_alone(pki: Path) -> None:
    async def spoilt(exchange: Exchange) -> None:
        keys = exchange.document["keys"]
        keys[2]["key"] = base64.b64encode(bytes(32)).decode()
        await exchange.reply({"keys": keys})

    async def test() -> None:
        async with site(pki) as its:
            its.server.fault = spoilt
            got = await its.ahead(5)
            assert len(got.keys) == 4
            assert "all zeros" in got.failures[0][1]
            assert (its.lost, its.calls) == (1, ["enc_keys"])

    run(test)


class Slow:
    """A source whose answers do not come."""

    name, description = "metro", "slow:metro"

    async def status(self) -> SourceStatus:
        return SourceStatus(True, "well")

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        return (await self.get_keys(size, 1))[0]

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        return (await self.get_keys_by_ids([ref]))[0]

    async def get_keys(self, size: int, number: int) -> list[tuple[KeyRef, Secret]]:
        await asyncio.sleep(600)
        raise AssertionError

    async def get_keys_by_ids(self, refs: Sequence[KeyRef]) -> list[Secret]:
        await asyncio.sleep(600)
        raise AssertionError


@pytest.mark.parametrize("call", ["ahead", "by_ids"])
def test_a_batch_that_takes_too_long_is_booked_whole(pki: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with site(pki) as its:
            its.bench.sources._sources["bob", "metro"] = Slow()
            monkeypatch.setattr(module, "CALL_LIMIT", 0.1)
            refs = [KeyRef("metro", f"k-{number}", 32) for number in range(6)]
            assert (await (its.ahead(6) if call == "ahead" else its.by_ids(refs))).keys == ()
            # Of those that the peer named nobody knows whether they exist: it could make the count what it likes.
            assert its.lost == (6 if call == "ahead" else 0)

    run(test)


class Costly(Slow):
    """A source that refuses, and has consumed keys all the same."""

    def __init__(self) -> None:
        self.calls = 0

    async def get_keys(self, size: int, number: int) -> list[tuple[KeyRef, Secret]]:
        self.calls += 1
        raise KeySourceUnavailableError("metro", "get_keys", "had them, and dropped them", lost=number)

    async def get_keys_by_ids(self, refs: Sequence[KeyRef]) -> list[Secret]:
        self.calls += 1
        raise KeyNotFoundError("metro", "get_keys_by_ids", "one was not there, the others are gone", lost=len(refs) - 1)


@pytest.mark.parametrize(("call", "lost"), [("ahead", 6), ("by_ids", 5)])
def test_a_refusal_that_cost_keys_is_not_asked_once_more(pki: Path, call: str, lost: int) -> None:
    async def test() -> None:
        async with site(pki) as its:
            source = its.bench.sources._sources["bob", "metro"] = Costly()
            refs = [KeyRef("metro", f"k-{number}", 32) for number in range(6)]
            assert len((await (its.ahead(6) if call == "ahead" else its.by_ids(refs))).failures) == 1
            assert (source.calls, its.lost) == (1, lost)

    run(test)


class Odd(Slow):
    """A driver with a defect: nothing, where a batch has one key at least."""

    async def get_keys(self, size: int, number: int) -> list[tuple[KeyRef, Secret]]:
        return [] if number > 1 else [(KeyRef("metro", "k", size), Secret(os.urandom(size)))]

    async def get_keys_by_ids(self, refs: Sequence[KeyRef]) -> list[Secret]:
        if len(refs) > 1:
            return []
        raise KeySourceError("metro", "get_key_by_id", "not here")


def test_a_driver_that_gives_nothing_does_not_keep_the_daemon_busy_for_ever(pki: Path) -> None:
    async def test() -> None:
        async with site(pki) as its:
            its.bench.sources._sources["bob", "metro"] = Odd()
            assert len((await its.ahead(4)).keys) == 4
            refs = [KeyRef("metro", f"k-{number}", 32) for number in range(4)]
            assert (await its.by_ids(refs)).keys == ()

    run(test)


class Defective(Odd):
    """With a defect that shows once the device has answered."""

    async def get_keys(self, size: int, number: int) -> list[tuple[KeyRef, Secret]]:
        raise IndexError

    async def get_keys_by_ids(self, refs: Sequence[KeyRef]) -> list[Secret]:
        raise IndexError


def test_a_drivers_defect_books_what_the_call_may_have_cost(pki: Path) -> None:
    async def test() -> None:
        async with site(pki) as its:
            its.bench.sources._sources["bob", "metro"] = Defective()
            assert (await its.ahead(4)).keys == ()
            assert its.bench.status("metro").keys_lost == 4
            refs = [KeyRef("metro", f"k-{number}", 32) for number in range(3)]
            assert (await its.by_ids(refs)).keys == ()
            assert its.bench.status("metro").keys_lost == 7

    run(test)


class Single:
    """A source without batches, which sees how many are asked for at a time."""

    name, description = "metro", "single:metro"
    under_way, most = 0, 0

    async def status(self) -> SourceStatus:
        return SourceStatus(True, "")

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        raise NotImplementedError

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _ in range(5):
            await asyncio.sleep(0)
        self.under_way -= 1
        if ref.key_id == "k-3":
            raise KeyNotFoundError("metro", "get_key_by_id", "no such key")
        return Secret(os.urandom(ref.size))


def test_a_peer_that_announces_many_keys_takes_one_turn_at_a_time(pki: Path) -> None:
    async def test() -> None:
        async with site(pki) as its:
            source = its.bench.sources._sources["bob", "metro"] = Single()
            got = await its.by_ids([KeyRef("metro", f"k-{number}", 32) for number in range(16)])
            assert (len(got.keys), len(got.failures), source.most) == (15, 1, 1)

    run(test)


class Waiting(Single):
    """Waits for keys that never come, until its time is up."""

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        return KeyRef("metro", "fresh", size), Secret(os.urandom(size))

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        raise KeySourceTimeoutError("metro", "get_key_by_id", "no answer in time", lost=1)


def test_keys_that_never_come_put_the_source_to_rest_only_where_two_peers_wait_in_vain(pki: Path) -> None:
    async def test() -> None:
        async with site(pki) as its:
            sources = its.bench.sources
            sources._sources["bob", "metro"] = sources._sources["mallory", "metro"] = Waiting()

            async def offers(peer: str) -> None:
                await sources.fetch(FetchById(peer, 1, (KeyRef("metro", "none", 32),)))

            for _ in range(5):
                await offers("mallory")
            assert its.bench.status("metro").state == "failing"
            assert (await its.bench.new("metro")).keys
            for peer in ("mallory", "bob", "mallory", "bob"):
                await offers(peer)
            assert its.bench.status("metro").state == "resting"
            del sources._sources["mallory", "metro"]
            sources.book._known["metro"].health.delivered(0, 0.0)
            for _ in range(3):
                await offers("bob")
            assert its.bench.status("metro").state == "resting", "nobody else is disturbed"

    run(test)
