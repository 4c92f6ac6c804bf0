"""Looking at what KMEs have left: seldom, one call at a time, and a failure changes nothing but is shown."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from qtunnel.daemon import supply as module
from qtunnel.daemon.supply import CALL_GAP, LOOK_INTERVAL, Supply
from qtunnel.keys.pace import Stock
from qtunnel.keys.source import SourceStatus


class Bench:
    """A supply whose clock and sleep are virtual: what was asked when, and what was told of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, str]) -> None:
        self.now, self.end = 0.0, 0.0
        self.asked: list[tuple[float, str, str]] = []
        self.told: list[tuple[str, Stock]] = []
        self.answer: SourceStatus | str = SourceStatus(True, "", 12, max_keys=100)
        self.under_way: dict[str, int] = {}
        self.supply = Supply(pairs, self._ask, lambda peer, stock: self.told.append((peer, stock)))
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr("qtunnel.daemon.supply.asyncio.sleep", self._sleep)

    async def _ask(self, peer: str, name: str) -> SourceStatus | str:
        self.under_way[name] = self.under_way.get(name, 0) + 1
        assert self.under_way[name] == 1, "two calls at once for one KME"
        self.asked.append((self.now, peer, name))
        self.under_way[name] -= 1
        return self.answer

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.end:
            raise asyncio.CancelledError

    def run(self, seconds: float) -> None:
        self.end = self.now + seconds
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(self.supply.watch())


Make = Callable[..., Bench]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda *pairs: Bench(monkeypatch, *pairs)


def test_each_peer_is_asked_about_at_most_every_so_often(make: Make) -> None:
    bench = make(("bob", "metro"), ("carol", "metro"))
    bench.run(300)
    for peer in ("bob", "carol"):
        times = [at for at, its, _ in bench.asked if its == peer]
        assert 9 <= len(times) <= 300 / LOOK_INTERVAL
        assert all(after - before >= LOOK_INTERVAL for before, after in itertools.pairwise(times))
    assert bench.told[0] == ("bob", Stock("metro", 12, 100))


def test_a_thousand_peers_of_one_kme_all_get_their_turn_at_its_rate(make: Make) -> None:
    bench = make(*((f"p{number}", "metro") for number in range(1000)))
    bench.run(600)
    assert len({peer for _, peer, _ in bench.asked}) == 1000
    assert len(bench.asked) <= 600 / CALL_GAP


def test_a_status_that_was_just_looked_at_is_not_asked_for_again(make: Make) -> None:
    bench = make(("bob", "metro"))
    bench.supply.told("bob", "metro", SourceStatus(True, "", 7, max_keys=10))
    bench.run(LOOK_INTERVAL - 1)
    assert bench.asked == []
    assert bench.told == [("bob", Stock("metro", 7, 10))]


def test_a_failure_changes_nothing_and_is_shown(make: Make) -> None:
    bench = make(("bob", "metro"))
    assert bench.supply.words("bob") == ["metro was not asked yet"]
    bench.run(10)
    assert bench.supply.words("bob") == ["metro has 12 of 100 keys left"]
    before = list(bench.told)
    bench.answer = "metro: status: no answer within 5 s"
    bench.run(40)
    assert bench.told == before
    (line,) = bench.supply.words("bob")
    assert line == "metro has 12 of 100 keys left (the last look failed: metro: status: no answer within 5 s)"
    bench.answer = SourceStatus(True, "", 3, max_keys=100)
    bench.run(40)
    assert bench.supply.words("bob") == ["metro has 3 of 100 keys left"]


def test_a_source_without_numbers_counts_by_what_it_delivers(make: Make) -> None:
    bench = make(("bob", "metro"))
    bench.supply.told("bob", "metro", SourceStatus(True, "fine"))
    assert bench.told == []
    bench.supply.delivered("bob", "metro", key=True)
    bench.supply.delivered("bob", "metro", key=False)
    assert [stock.delivers for _, stock in bench.told] == [True, False]
    bench.supply.told("bob", "metro", SourceStatus(True, "", 50, max_keys=100))
    bench.supply.delivered("bob", "metro", key=False)
    assert len(bench.told) == 3, "numbers say more"


def test_peers_whose_interval_does_not_move_are_not_asked_about(make: Make) -> None:
    bench = make()
    bench.supply.told("bob", "metro", SourceStatus(True, "", 12))
    bench.supply.delivered("bob", "metro", key=False)
    bench.run(100)
    assert (bench.asked, bench.told, bench.supply.words("bob")) == ([], [], [])


def test_a_source_that_a_reload_takes_away_in_the_moment_of_its_turn_ends_nothing(make: Make) -> None:
    bench = make(("bob", "metro"))
    asyncio.run(bench.supply._next("gone"))
    assert bench.asked == []
