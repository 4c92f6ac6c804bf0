"""Looks at key sources: within a budget for each, first where nobody has looked, and where a rekey is near."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from qtunnel.daemon import watch as module
from qtunnel.daemon.watch import CALL_GAP, FIRST_AT_ONCE, LOOK_INTERVAL, SOON, Watch


class Bench:
    """A watch over pairs, in virtual time: what was looked at when. rekeys: when each peer does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, str]) -> None:
        self.now = 1000.0
        self.asked: list[tuple[float, str, str]] = []
        self.rekeys: dict[str, float] = {}
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self.resting: set[str] = set()
        self.watch = Watch(self._look, self.rekeys.get, self.resting.__contains__)
        self.watch.heed(pairs)
        self.hangs: set[str] = set()

    async def _look(self, peer: str, name: str) -> None:
        self.asked.append((self.now, peer, name))
        if peer in self.hangs:
            await asyncio.Event().wait()

    async def run(self, seconds: float) -> None:
        """As ``Watch.run`` has it, whose gaps are those of the clock here."""
        end = self.now + seconds
        while self.now < end:
            for name in self.watch._looked:
                self.watch._begin(name)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.now += CALL_GAP

    def end(self) -> None:
        """Of looks that hang."""
        for tasks in self.watch._under_way.values():
            for task in tasks:
                task.cancel()

    def of(self, peer: str) -> list[float]:
        return [at for at, its, _ in self.asked if its == peer]


def test_each_pair_is_looked_at_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, ("bob", "metro"), ("carol", "metro"))
    asyncio.run(bench.run(300))
    for peer in ("bob", "carol"):
        times = bench.of(peer)
        assert 9 <= len(times) <= 300 / LOOK_INTERVAL
        assert all(after - before >= LOOK_INTERVAL for before, after in itertools.pairwise(times))


def test_a_thousand_peers_of_one_kme_all_get_their_turn_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, *((f"p{number}", "metro") for number in range(1000)))
    bench.rekeys |= {f"p{number}": 1000 + 120 * number / 1000 for number in range(1000)}
    asyncio.run(bench.run(600))
    firsts = bench.asked[:1000]
    assert len({peer for _, peer, _ in firsts}) == 1000, "before anybody's second"
    assert len(bench.asked[1000:]) <= 600 / CALL_GAP


def test_first_looks_are_several_at_once_and_one_where_the_source_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        bench = Bench(monkeypatch, *((f"p{number}", "metro") for number in range(20)), ("p0", "reserve"))
        bench.hangs = {f"p{number}" for number in range(20)}
        await bench.run(10)
        assert [peer for _, peer, name in bench.asked if name == "metro"] == [f"p{number}" for number in range(8)]
        assert [peer for _, peer, name in bench.asked if name == "reserve"] == ["p0"]
        bench.watch._under_way["metro"].pop().cancel()
        await asyncio.sleep(0)
        await bench.run(CALL_GAP)
        assert len(bench.asked) == 10, "one for the one that ended"
        bench.watch._under_way["metro"].pop().cancel()
        bench.resting.add("metro")
        await asyncio.sleep(0)
        await bench.run(10)
        assert len(bench.asked) == 10
        bench.end()

    asyncio.run(test())


def test_the_next_first_look_begins_as_soon_as_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the clock, or a hub of a thousand would be a minute at it."""
    asked: list[str] = []
    all_asked = asyncio.Event()

    async def look(peer: str, name: str) -> None:
        asked.append(peer)
        await asyncio.sleep(0)
        if len(asked) == 100:
            all_asked.set()

    async def test() -> None:
        watch = Watch(look, lambda peer: None)
        watch.heed((f"p{number}", "metro") for number in range(100))
        monkeypatch.setattr(module, "CALL_GAP", 60.0)
        task = asyncio.create_task(watch.run())
        await asyncio.wait_for(all_asked.wait(), 30)
        task.cancel()
        assert asked == [f"p{number}" for number in range(100)]

    asyncio.run(test())


def test_a_peer_that_rekeys_soon_comes_before_others_and_none_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, *((f"p{number}", "metro") for number in range(200)))
    asyncio.run(bench.run(200 / FIRST_AT_ONCE * CALL_GAP))
    bench.asked.clear()
    bench.now += LOOK_INTERVAL
    bench.rekeys |= {"p190": bench.now + 9, "p150": bench.now + 5, "p10": bench.now + SOON + 60}
    asyncio.run(bench.run(3))
    first = [peer for _, peer, _ in bench.asked]
    assert [peer for peer in first if peer in bench.rekeys] == ["p150", "p190"]
    assert "p0" in first, "the oldest has its turn between them"


def test_a_look_by_somebody_else_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, ("bob", "metro"))
    bench.watch.looked("bob", "metro")
    asyncio.run(bench.run(LOOK_INTERVAL - 1))
    assert bench.asked == []
    bench.watch.anew("metro", ["bob", "nobody"])
    asyncio.run(bench.run(1))
    assert len(bench.asked) == 1


def test_a_source_that_hangs_keeps_no_other_from_its_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        bench = Bench(monkeypatch, ("bob", "metro"), ("bob", "reserve"), ("carol", "metro"))
        bench.hangs = {"carol"}
        await bench.run(300)
        assert sum(name == "reserve" for _, _, name in bench.asked) >= 9
        assert len(bench.of("carol")) == 1, "one look at a time"
        bench.end()

    asyncio.run(test())


def test_pairs_that_a_reload_takes_away_are_looked_at_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, ("bob", "metro"), ("carol", "metro"))
    asyncio.run(bench.run(5))
    bench.watch.heed([("carol", "metro")])
    asyncio.run(bench.run(100))
    assert len(bench.of("bob")) == 1
    assert bench.watch.choose("gone", bench.now) is None
