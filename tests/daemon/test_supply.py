"""What KMEs have left, as looks tell it: a failure changes nothing but is shown."""

from __future__ import annotations

from qtunnel.daemon.supply import Supply
from qtunnel.keys.pace import Stock
from qtunnel.keys.source import SourceStatus


class Bench:
    """A supply, and what was told of it."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.told: list[tuple[str, Stock]] = []
        self.supply = Supply(pairs, lambda peer, stock: self.told.append((peer, stock)))

    def looks(self, status: SourceStatus | str, peer: str = "bob") -> None:
        self.supply.told(peer, "metro", status)


def test_a_status_with_numbers_is_told() -> None:
    bench = Bench(("bob", "metro"), ("carol", "metro"))
    bench.looks(SourceStatus(True, "", 7, max_keys=10))
    bench.looks(SourceStatus(True, "", 12, max_keys=100), "carol")
    assert bench.told == [("bob", Stock("metro", 7, 10)), ("carol", Stock("metro", 12, 100))]


def test_a_failure_changes_nothing_and_is_shown() -> None:
    bench = Bench(("bob", "metro"))
    assert bench.supply.words("bob") == ["metro was not asked yet"]
    bench.looks(SourceStatus(True, "", 12, max_keys=100))
    assert bench.supply.words("bob") == ["metro has 12 of 100 keys left"]
    before = list(bench.told)
    bench.looks("metro: status: no answer within 5 s")
    assert bench.told == before
    (line,) = bench.supply.words("bob")
    assert line == "metro has 12 of 100 keys left (the last look failed: metro: status: no answer within 5 s)"
    bench.looks(SourceStatus(True, "", 3, max_keys=100))
    assert bench.supply.words("bob") == ["metro has 3 of 100 keys left"]


def test_a_source_without_numbers_counts_by_what_it_delivers() -> None:
    bench = Bench(("bob", "metro"))
    bench.looks(SourceStatus(True, "fine"))
    assert bench.told == []
    bench.supply.delivered("bob", "metro", key=True)
    bench.supply.delivered("bob", "metro", key=False)
    assert [stock.delivers for _, stock in bench.told] == [True, False]
    bench.looks(SourceStatus(True, "", 50, max_keys=100))
    bench.supply.delivered("bob", "metro", key=False)
    assert len(bench.told) == 3, "numbers say more"


def test_peers_whose_interval_does_not_move_are_not_told_of() -> None:
    bench = Bench()
    bench.looks(SourceStatus(True, "", 12))
    bench.supply.delivered("bob", "metro", key=False)
    assert (bench.told, bench.supply.words("bob")) == ([], [])
