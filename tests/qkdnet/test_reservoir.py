"""A store's books, and the monitor that watches its link."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.qkdnet.monitor import MOST_PIECES, Monitor
from qtunnel.qkdnet.reservoir import Reservoir, ShortageError

STEPS = st.one_of(
    st.tuples(st.just("grow"), st.floats(0, 5000)),
    st.tuples(st.just("take"), st.integers(0, 3000)),
    st.tuples(st.just("discard"), st.floats(0, 3000)),
)


@given(st.lists(STEPS, max_size=40), st.integers(1, 10_000))
def test_no_bit_is_lost_from_the_books_and_none_is_used_twice(steps: list[tuple[str, float]], capacity: int) -> None:
    store = Reservoir(capacity)
    used: list[tuple[int, int]] = []
    grown = 0.0
    for what, amount in steps:
        if what == "grow":
            store.grow(amount)
            grown += amount
        elif what == "take":
            try:
                first = store.take(int(amount))
            except ShortageError:
                assert amount > store.stored
            else:
                used.append((first, first + int(amount)))
        else:
            stored = store.stored
            store.discard(amount)
            grown += amount
            assert store.stored == stored
        assert store.made == store.used + store.stored + store.overflowed + store.discarded
        assert 0 <= store.stored <= capacity
        assert store.made <= grown + 1e-6
    ends = [end for _, end in used]
    assert [begin for begin, _ in used] == [0, *ends][: len(used)]  # one after the other, without overlap


def test_parts_of_bits_add_up() -> None:
    store = Reservoir(100)
    for _ in range(80):
        store.grow(0.125)
    assert store.made == 10


def test_what_is_thrown_away_is_never_stored() -> None:
    store = Reservoir(1000)
    store.grow(300.5)
    assert store.discard(200.5) == 201
    assert (store.made, store.stored, store.discarded) == (501, 300, 201)


CHANGES = st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 3000)), max_size=8)


@given(st.floats(0, 0.5), CHANGES, st.floats(0, 0.5), st.floats(0.001, 0.4))
def test_the_monitor_says_beforehand_when_it_crosses_a_limit(
    begin: float, changes: list[tuple[float, float]], error: float, limit: float
) -> None:
    monitor = Monitor(1000.0)
    monitor.begin(begin)
    for earlier, bits in changes:
        monitor.take(bits, earlier)
        assert min(begin, *(one for one, _ in changes)) <= monitor.estimate + 1e-12
    above = monitor.estimate <= limit
    left = monitor.bits_until(limit, error, above=above)
    if left == math.inf:
        monitor.take(1e9, error)
        assert monitor.estimate == error
        assert (error > limit) != above
    else:
        assert left <= 1001
        monitor.take(left, error)
        assert (monitor.estimate > limit) == above or monitor.estimate == pytest.approx(limit)


@given(st.sampled_from([0.07, 0.1, 0.25]), st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 3000)), max_size=8))
def test_an_error_that_is_the_limit_itself_is_not_above_it(limit: float, changes: list[tuple[float, float]]) -> None:
    monitor = Monitor(1000.0)
    monitor.begin(limit)
    for number, (error, bits) in enumerate(changes):
        monitor.take(bits, min(error, limit), 0.1 * (number % 3))
        assert monitor.estimate <= limit
    monitor.take(700.3, 0.5)
    assert monitor.estimate > limit
    monitor.take(monitor.bits_until(limit, limit, above=False), limit)
    assert monitor.estimate <= limit


@given(st.lists(st.tuples(st.sampled_from([0.01, 0.05, 0.2]), st.floats(0, 400)), min_size=1, max_size=100))
def test_the_estimate_is_the_mean_over_the_window_and_a_key_leaves_it_with_its_bits(
    taken: list[tuple[float, float]],
) -> None:
    monitor = Monitor(1000.0)
    monitor.begin(0.01)
    came, left = 0.0, 0.0
    before: list[tuple[float, float]] = [(0.01, 1000.0)]
    for error, bits in taken:
        left += sum(piece.key for piece in monitor.take(bits, error, 0.5))
        came += bits
        before.append((error, bits))
        assert left == pytest.approx(max(0.0, came - 1000) / 2, abs=1e-6)
        assert left + monitor.key == pytest.approx(came / 2, abs=1e-6)
        room, errors = 1000.0, 0.0
        for its, some in reversed(before):
            part = min(room, some)
            room, errors = room - part, errors + part * its
        within = 0.02 if len(before) > MOST_PIECES else 1e-9  # where neighbours became one
        assert monitor.estimate == pytest.approx(errors / 1000, abs=within)


def test_the_mean_over_the_window_moves_in_a_straight_line() -> None:
    monitor = Monitor(1000.0)
    monitor.begin(0.02)
    assert monitor.settled(0.02)
    monitor.take(500, 0.12)
    assert monitor.estimate == pytest.approx(0.07)
    assert not monitor.settled(0.12)
    assert monitor.bits_until_settled(0.12) == 500
    monitor.take(500, 0.12)
    assert monitor.estimate == 0.12
    assert monitor.settled(0.12)


def test_light_that_fades_at_every_bit_is_remembered_in_few_pieces() -> None:
    monitor = Monitor(1000.0)
    monitor.begin(0.02)
    for number in range(5000):
        monitor.take(1.0, 0.02 + number % 7 / 100, 0.25)
    assert len(monitor._pieces) <= MOST_PIECES
    assert monitor.estimate == pytest.approx(0.05, abs=1e-3)
    assert monitor.key == pytest.approx(250)
