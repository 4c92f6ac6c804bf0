"""Looks at key sources: within a budget for each, first where nobody has looked, and where a rekey is near."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from qtunnel.daemon import watch as module
from qtunnel.daemon.watch import CALL_GAP, LOOK_INTERVAL, SOON, Watch


class Bench:
    """A watch over pairs, in virtual time: what was looked at when. rekeys: when each peer does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, str]) -> None:
        self.now = 1000.0
        self.asked: list[tuple[float, str, str]] = []
        self.rekeys: dict[str, float] = {}
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self.watch = Watch(self._look, self.rekeys.get)
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
    assert len({peer for _, peer, _ in bench.asked}) == 1000
    assert len(bench.asked) <= 600 / CALL_GAP


def test_a_peer_that_rekeys_soon_comes_before_others_and_none_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, *((f"p{number}", "metro") for number in range(200)))
    asyncio.run(bench.run(100))
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
        for task in bench.watch._under_way.values():
            task.cancel()

    asyncio.run(test())


def test_pairs_that_a_reload_takes_away_are_looked_at_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, ("bob", "metro"), ("carol", "metro"))
    asyncio.run(bench.run(5))
    bench.watch.heed([("carol", "metro")])
    asyncio.run(bench.run(100))
    assert len(bench.of("bob")) == 1
    assert bench.watch.choose("gone", bench.now) is None
