"""The interval that follows the supply of keys: within its bounds, against the level, without flapping."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.keys.pace import BAND, ENOUGH, FEW, HIGH, LOW, STEP, Bounds, Pace, Stock, moved, wanted

levels = st.floats(0, 1)
NEAR = 1e-9
"""Relative, for what floats do to powers."""


@st.composite
def bounds(draw: st.DrawFn) -> Bounds:
    usual = draw(st.floats(1, 86_400))
    return Bounds(usual, usual / draw(st.floats(1, 100)), usual * draw(st.floats(1, 100)))


@st.composite
def positions(draw: st.DrawFn) -> tuple[Bounds, float]:
    """Bounds, and an interval within them."""
    its = draw(bounds())
    part = draw(levels)
    return its, its.shortest + part * (its.longest - its.shortest)


@given(bounds(), levels, levels)
def test_a_fuller_source_never_asks_for_a_longer_interval(its: Bounds, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert wanted(high, its) <= wanted(low, its) * (1 + NEAR)


@given(bounds(), levels)
def test_what_is_asked_for_lies_within_the_bounds(its: Bounds, level: float) -> None:
    assert its.shortest * (1 - NEAR) <= wanted(level, its) <= its.longest * (1 + NEAR)
    if LOW <= level <= HIGH:
        assert wanted(level, its) == its.usual


@given(bounds())
def test_empty_and_full_ask_for_the_bounds_themselves(its: Bounds) -> None:
    assert wanted(0.0, its) == pytest.approx(its.longest)
    assert wanted(1.0, its) == pytest.approx(its.shortest)


@given(positions(), levels, levels)
def test_the_next_interval_falls_as_the_level_rises_whatever_the_present_one(
    position: tuple[Bounds, float], one: float, other: float
) -> None:
    its, interval = position
    low, high = sorted((one, other))
    assert moved(interval, wanted(high, its), its) <= moved(interval, wanted(low, its), its) * (1 + NEAR)


@given(positions(), levels)
def test_a_step_stays_within_the_bounds_and_is_no_longer_than_a_step(
    position: tuple[Bounds, float], level: float
) -> None:
    its, interval = position
    after = moved(interval, wanted(level, its), its)
    assert its.shortest * (1 - NEAR) <= after <= its.longest * (1 + NEAR)
    assert interval / STEP * (1 - NEAR) <= after <= interval * STEP * (1 + NEAR)


@given(positions(), levels)
def test_a_level_that_stays_brings_the_interval_to_rest(position: tuple[Bounds, float], level: float) -> None:
    its, interval = position
    target = wanted(level, its)
    run = [interval]
    for _ in range(60):
        run.append(moved(run[-1], target, its))
    assert run[-1] == run[-2], "it moves for ever"
    assert abs(run[-1] - target) <= BAND * run[-1] * (1 + NEAR)
    changes = [after - before for before, after in itertools.pairwise(run) if after != before]
    assert all(change > 0 for change in changes) or all(change < 0 for change in changes), "it goes back and forth"
    if target == its.usual:
        assert run[-1] == its.usual, "it never quite comes back"


def feed(pace: Pace, stocks: list[Stock]) -> list[float]:
    """The interval after each rekey, with four looks between two."""
    found = []
    for stock in stocks:
        for _ in range(4):
            pace.tell(stock)
        pace.advance()
        found.append(pace.interval)
    return found


def wide() -> Pace:
    return Pace(Bounds(120.0, 40.0, 360.0))


@pytest.mark.parametrize("edge", [2, 7])
def test_a_key_more_and_a_key_less_at_the_edge_of_a_small_store_move_nothing(edge: int) -> None:
    """Of ten keys one is a tenth: without smoothing and band, the interval would change by every rekey."""
    pace = wide()
    intervals = []
    for number in range(200):
        pace.tell(Stock("metro", edge + number % 2, 10))
        pace.advance()
        intervals.append(pace.interval)
    assert len([1 for before, after in itertools.pairwise(intervals[20:]) if before != after]) <= 1


def test_a_store_that_empties_and_fills_stretches_and_comes_back() -> None:
    pace = wide()
    emptying = feed(pace, [Stock("metro", keys, 100) for keys in range(60, -1, -4)])
    assert emptying == sorted(emptying)
    assert (emptying[0], emptying[-1] > 300) == (120.0, True)
    assert pace.reason == "metro has 0 of 100 keys left"
    filling = feed(pace, [Stock("metro", keys, 100) for keys in range(0, 62, 4)])
    assert filling == sorted(filling, reverse=True)
    assert (pace.interval, pace.reason) == (120.0, "")


def test_a_full_store_shortens_the_interval() -> None:
    pace = wide()
    feed(pace, [Stock("metro", 100, 100)] * 8)
    assert pace.interval == 40.0
    assert pace.reason == "metro has 100 of 100 keys left"


@pytest.mark.parametrize(("low", "high"), [(0, 1000), (1000, 0)])
def test_the_scarcest_source_decides(low: int, high: int) -> None:
    pace = wide()
    for _ in range(10):
        pace.tell(Stock("metro", low, 1000))
        pace.tell(Stock("backup", high, 1000))
        pace.advance()
    assert pace.interval == 360.0
    assert pace.reason.startswith("metro" if low == 0 else "backup")


def test_where_nothing_is_told_nothing_moves() -> None:
    pace = wide()
    assert not any(pace.advance() for _ in range(10))
    assert pace.interval == 120.0


def test_without_bounds_nothing_moves() -> None:
    pace = Pace(Bounds.of(120.0, None, None, 350.0))
    assert set(feed(pace, [Stock("metro", 0, 10)] * 5 + [Stock("metro", 10, 10)] * 5)) == {120.0}


@pytest.mark.parametrize(
    ("stock", "level"),
    [
        (Stock("m", 50, 100), 0.5),
        (Stock("m", 200, 100), 1.0),
        (Stock("m", 0, None), 0.0),
        (Stock("m", FEW, None), LOW),
        (Stock("m", 10_000, None), ENOUGH),
        (Stock("m", 10_000, 0), ENOUGH),
        (Stock("m", delivers=True), ENOUGH),
        (Stock("m", delivers=False), 0.0),
    ],
)
def test_levels_by_what_a_source_tells(stock: Stock, level: float) -> None:
    assert stock.level == level
    assert stock.words.startswith("m ")


def test_a_source_that_tells_no_numbers_goes_by_what_it_delivers() -> None:
    pace = wide()
    feed(pace, [Stock("m", delivers=False)] * 8)
    assert (pace.interval, pace.reason) == (360.0, "m has no keys")
    feed(pace, [Stock("m", delivers=True)] * 8)
    assert pace.interval == 120.0


def test_the_first_number_counts_at_once() -> None:
    pace = wide()
    pace.tell(Stock("m", delivers=True))
    pace.tell(Stock("m", 0, 100))
    assert pace.advance()


def test_bounds_never_leave_the_usual_interval_out_and_heed_the_ceiling() -> None:
    assert Bounds.of(120.0, 40.0, 360.0, 300.0) == Bounds(120.0, 40.0, 300.0)
    assert Bounds.of(120.0, 200.0, 60.0, 300.0) == Bounds(120.0, 120.0, 120.0)
    assert Bounds.of(120.0, None, 360.0, 20.0) == Bounds(120.0, 120.0, 120.0)
