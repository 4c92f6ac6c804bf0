"""A store's books, and the monitor that watches its link."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.qkdnet.monitor import Monitor
from qtunnel.qkdnet.reservoir import Reservoir, ShortageError

STEPS = st.one_of(
    st.tuples(st.just("grow"), st.floats(0, 5000), st.booleans()),
    st.tuples(st.just("take"), st.integers(0, 3000), st.just(False)),
    st.tuples(st.just("confirm"), st.just(0), st.just(False)),
    st.tuples(st.just("distrust"), st.just(0), st.just(False)),
)


@given(st.lists(STEPS, max_size=40), st.integers(1, 10_000))
def test_no_bit_is_lost_from_the_books_and_none_is_used_twice(
    steps: list[tuple[str, float, bool]], capacity: int
) -> None:
    store = Reservoir(capacity)
    used: list[tuple[int, int]] = []
    grown = 0.0
    for what, amount, confirmed in steps:
        if what == "grow":
            store.grow(amount, confirmed=confirmed)
            grown += amount
        elif what == "take":
            try:
                first = store.take(int(amount))
            except ShortageError:
                assert amount > store.stored
            else:
                used.append((first, first + int(amount)))
        elif what == "confirm":
            store.confirm()
        else:
            store.distrust()
        assert store.made == store.used + store.stored + store.overflowed + store.discarded
        assert 0 <= store.unconfirmed <= store.stored <= capacity
        assert store.made <= grown + 1e-6
    ends = [end for _, end in used]
    assert [begin for begin, _ in used] == [0, *ends][: len(used)]  # one after the other, without overlap


def test_parts_of_bits_add_up() -> None:
    store = Reservoir(100)
    for _ in range(80):
        store.grow(0.125)
    assert store.made == 10


def test_an_alarm_throws_the_newest_away_and_keeps_what_was_confirmed() -> None:
    store = Reservoir(1000)
    store.grow(300)
    store.grow(200, confirmed=False)
    store.take(400)
    assert store.distrust() == 100
    assert (store.stored, store.discarded) == (0, 100)


@given(st.floats(0, 0.5), st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 3000)), max_size=8), st.floats(0.001, 0.4))
def test_the_monitor_says_beforehand_when_it_crosses_a_limit(
    begin: float, changes: list[tuple[float, float]], limit: float
) -> None:
    monitor = Monitor(1000.0)
    monitor.begin(begin)
    for error, bits in changes:
        monitor.change(error)
        monitor.take(bits)
        assert min(begin, *(one for one, _ in changes)) <= monitor.estimate + 1e-12
    above = monitor.estimate <= limit
    left = monitor.bits_until(limit, above=above)
    if left == math.inf:
        monitor.take(1e9)
        assert (monitor.estimate > limit) != above
    else:
        assert left <= 1001
        monitor.take(left)
        assert (monitor.estimate > limit) == above or monitor.estimate == pytest.approx(limit)


def test_a_limit_that_was_crossed_already_is_no_bits_away() -> None:
    monitor = Monitor(1000.0)
    monitor.begin(0.2)
    assert monitor.bits_until(0.1, above=True) == 0.0
    assert monitor.bits_until(0.3, above=False) == 0.0
    assert monitor.bits_until(0.3, above=True) == math.inf


def test_the_mean_over_the_window_moves_in_a_straight_line() -> None:
    monitor = Monitor(1000.0)
    monitor.begin(0.02)
    monitor.change(0.12)
    monitor.take(500)
    assert monitor.estimate == pytest.approx(0.07)
    assert not monitor.settled
    monitor.take(500)
    assert monitor.estimate == 0.12
    assert monitor.settled
