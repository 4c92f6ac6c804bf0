"""The numbers of the schedule: when a rekey begins, is tried again, and when the other end takes over."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.keys.pace import STEP, Stock
from qtunnel.keys.schedule import LONGEST_RETRY, Schedule, ceiling, start_delay

NOW = 5000.0
ALMOST = 0.999999
"""A fraction next to the greatest that chance may give."""


def settled(interval: float = 100.0, jitter: float = 0.1, max_age: float = inf) -> Schedule:
    """One that has its first rekey behind it, which comes sooner than others."""
    schedule = Schedule(interval, jitter, max_age)
    schedule.after_success(NOW, 0.0)
    return schedule


def after(schedule: Schedule, fraction: float, crowd: int = 1) -> float:
    return schedule.after_success(NOW, fraction, crowd) - NOW


@pytest.mark.parametrize(("fraction", "delay"), [(0.0, 90.0), (0.25, 95.0), (0.5, 100.0), (ALMOST, 110.0)])
def test_rekeys_are_an_interval_apart_and_jitter_is_even(fraction: float, delay: float) -> None:
    schedule = settled()
    for _ in range(3):
        assert after(schedule, fraction) == pytest.approx(delay, rel=1e-4)


def test_without_jitter_rekeys_are_an_interval_apart_exactly() -> None:
    assert after(settled(jitter=0.0), 0.7) == 100.0


@pytest.mark.parametrize(
    ("crowd", "least"),
    [(0, 45.0), (1, 45.0), (20, 45.0), (40, 22.5), (90, 10.0), (900, 1.0), (100_000, 1.0)],
)
def test_after_a_start_the_next_rekey_is_drawn_from_the_more_the_more_peers_there_are(crowd: int, least: float) -> None:
    assert after(Schedule(100.0, 0.1), 0.0, crowd) == pytest.approx(least)
    assert after(Schedule(100.0, 0.1), 0.5, crowd) == pytest.approx((least + 110.0) / 2)
    assert after(Schedule(100.0, 0.1), ALMOST, crowd) == pytest.approx(110.0, rel=1e-4)


def test_an_interval_below_the_first_retry_is_not_made_longer_by_a_crowd() -> None:
    assert after(Schedule(0.5, 0.2), 0.0, 1000) == pytest.approx(0.4)


def test_one_that_a_failure_went_before_is_spread_like_one_after_a_start_and_the_next_is_not() -> None:
    schedule = settled()
    schedule.after_failure(NOW, 0.0)
    assert after(schedule, 0.0) == 45.0
    assert after(schedule, 0.0) == 90.0


def test_the_pace_is_told_of_a_rekey_that_comes_earlier_and_never_of_a_longer_interval() -> None:
    early, late = Schedule(100.0, 0.1), Schedule(100.0, 0.1)
    early.after_success(NOW, 0.0)
    late.after_success(NOW, ALMOST)
    assert (early.pace.shown, late.pace.shown) == (45.0, 100.0)
    early.pace.shown = None
    early.after_success(NOW, 0.0)
    assert early.pace.shown is None, "an ordinary one"


def test_the_interval_that_the_supply_asks_for_is_the_one_that_is_drawn_from() -> None:
    schedule = Schedule(100.0, 0.1, shortest=50.0, longest=200.0)
    schedule.after_success(NOW, 0.0)
    schedule.pace.tell(Stock("metro", 0, 100))
    schedule.pace.advance()
    assert schedule.pace.interval == 100.0 * STEP
    assert [after(schedule, fraction) for fraction in (0.0, 0.5)] == pytest.approx([112.5, 125.0])
    schedule = Schedule(100.0, 0.1, shortest=50.0, longest=200.0)
    schedule.pace.tell(Stock("metro", 100, 100))
    schedule.pace.advance()
    schedule.after_success(NOW, 0.0)
    assert [after(schedule, fraction) for fraction in (0.0, 0.5)] == pytest.approx([72.0, 80.0])


@pytest.mark.parametrize(
    ("interval", "most"),
    [
        (3600.0, [1, 2, 4, 8, 16, 32, 60, 60]),
        (12.0, [1, 2, 4, 8, 12, 12, 12, 12]),
        (0.25, [1] * 8),  # never sooner than the first retry, however short the interval
    ],
)
def test_retries_double_up_to_a_minute_or_an_interval_and_half_of_each_is_chance(
    interval: float, most: list[float]
) -> None:
    sooner, later = Schedule(interval, 0.1), Schedule(interval, 0.1)
    assert [sooner.after_failure(NOW, 0.0) - NOW for _ in most] == pytest.approx([each / 2 for each in most])
    assert [later.after_failure(NOW, 0.5) - NOW for _ in most] == pytest.approx([each * 0.75 for each in most])
    assert sooner.failures == len(most)


def test_an_outage_of_weeks_ends_with_a_retry_within_a_minute() -> None:
    schedule = Schedule(86_400.0, 0.1)
    for _ in range(20_000):
        due = schedule.after_failure(NOW, ALMOST)
    assert NOW < due <= NOW + LONGEST_RETRY


@pytest.mark.parametrize("agreed", [lambda it: it.after_success(NOW, 0.0), lambda it: it.overdue(NOW)])
def test_retries_begin_anew_once_the_two_have_agreed_whoever_began(agreed: Callable[[Schedule], float]) -> None:
    schedule = Schedule(100.0, 0.1)
    for _ in range(5):
        schedule.after_failure(NOW, 0.0)
    agreed(schedule)
    assert schedule.failures == 0
    assert schedule.after_failure(NOW, 0.0) == NOW + 0.5


def takes_over(schedule: Schedule, *gaps: float) -> list[float]:
    """Seconds from each rekey until the end that watches takes over; gaps: seconds between rekeys."""
    now, found = NOW, [schedule.overdue(NOW) - NOW]
    for gap in gaps:
        now += gap
        found.append(schedule.overdue(now) - now)
    return found


def test_the_other_end_takes_over_half_an_interval_late_and_slack() -> None:
    assert takes_over(Schedule(100.0, 0.1), 100.0, 90.0, 110.0) == pytest.approx([170.0] * 4)
    assert takes_over(Schedule(100.0, 0.0), 100.0) == pytest.approx([160.0] * 2)


def test_a_gap_that_jitter_explains_is_none_and_an_interval_below_a_second_is_taken_as_it_is() -> None:
    assert takes_over(Schedule(100.0, 0.25), 125.0, 124.0) == pytest.approx([185.0] * 3)
    assert takes_over(Schedule(0.5, 0.0), 0.5) == pytest.approx([10.75] * 2)


def test_a_gap_beyond_the_jitter_is_taken_for_the_shortest_draw_of_a_longer_interval() -> None:
    """Were it taken for less, an initiator that stretches would seem gone; back it goes by a step a rekey."""
    schedule = Schedule(100.0, 0.1)
    expected = [100.0, 200.0, 160.0, 128.0, 102.4, 100.0]
    found = takes_over(schedule, 180.0, 100.0, 100.0, 100.0, 100.0)
    assert found == pytest.approx([each * 1.6 + 10 for each in expected])
    assert schedule.expected == 100.0


def test_a_gap_counts_from_a_rekey_of_its_own_too() -> None:
    schedule = settled()
    schedule.overdue(NOW + 180.0)
    assert schedule.expected == pytest.approx(200.0)


def test_the_other_end_takes_over_in_time_for_the_age_limit() -> None:
    schedule = Schedule(100.0, 0.1, max_age=300.0)
    assert takes_over(schedule, 1000.0)[-1] == pytest.approx(270.0)  # 30 s before it
    assert schedule.expected == ceiling(0.1, 300.0) == pytest.approx(162.5)


def test_an_age_limit_too_short_for_stretching_leaves_the_usual_interval() -> None:
    assert takes_over(Schedule(100.0, 0.1, max_age=120.0), 1000.0) == pytest.approx([170.0] * 2)


@given(st.floats(0, 0.5), st.floats(100, 1e6))
def test_the_longest_interval_leaves_both_ends_their_turn_before_the_age_limit(jitter: float, max_age: float) -> None:
    at_most = ceiling(jitter, max_age)
    schedule = Schedule(1.0, jitter, max_age, longest=inf)
    assert schedule.pace.bounds.longest == max(1.0, at_most)
    assert at_most * (1.5 + jitter) + 10 + 30 == pytest.approx(max_age)


def test_the_bounds_of_the_pace_are_those_that_were_configured() -> None:
    bounds = Schedule(100.0, 0.1, 1000.0, 20.0, 400.0).pace.bounds
    assert (bounds.usual, bounds.shortest, bounds.longest) == (100.0, 20.0, 400.0)
    bounds = Schedule(100.0, 0.1, 300.0, 20.0, 400.0).pace.bounds
    assert [bounds.usual, bounds.shortest, bounds.longest] == pytest.approx([100.0, 20.0, 162.5])


def test_keys_are_scarce_by_what_is_known_here_and_for_the_end_that_watches_by_what_it_saw() -> None:
    schedule = Schedule(100.0, 0.1)
    assert [schedule.scarce(initiates=its) for its in (True, False)] == [False, False]
    takes_over(schedule, 180.0)
    assert [schedule.scarce(initiates=its) for its in (True, False)] == [False, True]
    known = Schedule(100.0, 0.1)
    known.pace.tell(Stock("metro", 0, 100))
    assert [known.scarce(initiates=its) for its in (True, False)] == [True, True]


def test_a_changed_configuration_keeps_what_was_known_and_not_what_it_changed() -> None:
    before = settled()
    before.pace.tell(Stock("metro", 0, 100))
    before.after_failure(NOW, 0.0)
    after_it = Schedule(50.0, 0.1)
    after_it.go_on(before)
    assert after_it.scarce(initiates=True)
    assert (after_it.pace.interval, after_it.expected, after_it.failures) == (50.0, 50.0, 0)
    assert after(after_it, 0.0) == 45.0, "the tunnel was up before: this is no start"
    again = Schedule(50.0, 0.1)
    again.go_on(settled())
    again.overdue(NOW + 90.0)
    assert again.expected == pytest.approx(100.0), "the gap counts from the rekey before the change"


def stretched() -> Schedule:
    """That of an end whose peer keeps 180 s where 100 are configured, and may have drawn them from 200."""
    schedule = Schedule(100.0, 0.1)
    takes_over(schedule, 180.0)
    return schedule


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Schedule(100.0, 0.1), 200.0),
        (Schedule(50.0, 0.1), 200.0),
        (Schedule(300.0, 0.1), 300.0),
        (Schedule(100.0, 0.1, longest=120.0), 200.0),  # which bounds what this end does itself, not what the peer does
        (Schedule(100.0, 0.1, max_age=300.0), 162.5),  # later would be too late
        (Schedule(100.0, 0.1, max_age=120.0), 100.0),
    ],
)
def test_a_changed_configuration_does_not_take_a_peer_that_stretches_for_silent(
    settings: Schedule, expected: float
) -> None:
    settings.go_on(stretched())
    assert settings.expected == pytest.approx(expected)
    assert settings.scarce(initiates=False) == (expected > settings.interval)
    for _ in range(3):  # asked again, as at each change: it is no rekey, after which less would be expected
        assert settings.takes_over(NOW) - NOW == pytest.approx(expected * 1.6 + 10)


def test_many_peers_are_begun_with_at_200_a_second() -> None:
    assert [start_delay(peers, 1.0) for peers in (0, 1, 2, 201, 1001)] == [0.0, 0.0, 0.005, 1.0, 5.0]
    assert start_delay(1001, 0.5) == 2.5
