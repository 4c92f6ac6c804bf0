"""When a source may be asked: it rests when it is down, and is left alone after an alarm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.keys.health import (
    DAY,
    FAILURES,
    FIRST_REST,
    LONGEST_REST,
    REST_SHARE,
    WINDOW,
    Consumption,
    Limits,
    SourceHealth,
    SourceState,
    days_left,
)
from qtunnel.keys.source import SourceStatus

WELL = SourceStatus(True, "")
EVE = SourceStatus(False, "", alarm="intercept-resend on link 3")


def health(quarantine: float | None = None) -> SourceHealth:
    return SourceHealth("metro", Limits(0.11, quarantine), 0.0)


def test_a_source_that_is_down_rests_ever_longer_and_is_tried_again() -> None:
    its, now, rests = health(), 0.0, []
    for _ in range(FAILURES - 1):
        its.failed(now, down=True)
        assert its.refusal(now) is None
    for _ in range(8):
        its.failed(now, down=True)
        refusal = its.refusal(now)
        assert refusal is not None
        assert "times in a row" in refusal
        rests.append(its.rests_until - now)
        now = its.rests_until
        assert its.refusal(now) is None  # one call goes through
    assert rests[:3] == [FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST]
    assert rests[-1] == LONGEST_REST
    its.delivered(1, now)
    assert its.state is SourceState.WELL
    its.failed(now, down=True)
    assert its.refusal(now) is None  # counted anew


def test_it_rests_no_longer_than_a_share_of_the_time_between_rekeys() -> None:
    its, now = SourceHealth("metro", Limits(), 0.0, interval=2.0), 0.0
    for _ in range(12):
        its.failed(now, down=True)
        if its.refusal(now) is not None:
            assert its.rests_until - now <= 2.0 * REST_SHARE
            now = its.rests_until
            assert its.refusal(now) is None
    assert now > 0


def test_calls_from_before_the_rest_do_not_make_it_longer() -> None:
    its = health()
    for _ in range(50):
        its.failed(0.0, down=True)
    assert its.rests_until == FIRST_REST


def test_refusals_of_single_keys_do_not_make_it_rest() -> None:
    its = health()
    for _ in range(50):
        its.failed(0.0, down=False)
    assert its.state is SourceState.FAILING
    assert its.refusal(0.0) is None


def test_a_look_that_finds_it_well_ends_the_rest() -> None:
    its = health()
    for _ in range(FAILURES):
        its.failed(0.0, down=True)
    its.delivered(0, 0.1)
    assert its.refusal(0.1) is None
    assert its.taken == 0


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (EVE, "intercept-resend on link 3"),
        (SourceStatus(True, "", qber=0.12), "QBER 12.0%, above its limit of 11.0%"),
    ],
)
def test_an_alarm_or_a_qber_above_the_limit_is_quarantine(status: SourceStatus, said: str) -> None:
    its = health()
    its.delivered(1, 0.0)
    assert its.looked(status, 1.0)
    assert not its.looked(status, 2.0)  # told once
    its.delivered(1, 3.0)  # a call that was under way
    its.failed(3.0, down=True)
    refusal = its.refusal(4.0)
    assert refusal is not None
    assert said in refusal
    assert "an operator has to clear it (qtunnel sources clear metro)" in refusal


def test_a_qber_at_its_limit_is_none() -> None:
    its = health()
    assert not its.looked(SourceStatus(True, "", qber=0.11), 0.0)
    assert its.refusal(0.0) is None


def test_quarantine_stays_after_the_alarm_until_an_operator_clears_it() -> None:
    its = health()
    its.looked(EVE, 0.0)
    assert not its.looked(WELL, 1e9)
    assert its.refusal(1e9) is not None
    assert its.clear()
    assert not its.clear()
    assert its.refusal(1e9) is None
    assert its.looked(EVE, 1e9 + 1)  # it goes on


def test_quarantine_ends_by_itself_where_the_configuration_says_so() -> None:
    its = health(quarantine=60.0)
    its.looked(EVE, 0.0)
    assert not its.looked(WELL, 1.0)
    assert not its.looked(WELL, 60.0)
    assert not its.looked(EVE, 60.5)  # counted from the last alarm
    assert not its.looked(WELL, 100.0)
    assert not its.looked(WELL, 159.5)
    assert its.looked(WELL, 160.0)
    assert its.refusal(160.0) is None


def test_time_in_which_nobody_could_look_does_not_count_as_without_alarm() -> None:
    its = health(quarantine=60.0)
    its.looked(EVE, 0.0)
    its.failed(30.0, down=True)
    assert not its.looked(WELL, 1000.0)
    assert its.refusal(1000.0) is not None
    assert its.looked(WELL, 1060.0)


def test_a_failed_look_does_not_end_a_quarantine() -> None:
    its = health(quarantine=60.0)
    its.looked(EVE, 0.0)
    its.failed(1e6, down=True)
    assert its.state is SourceState.QUARANTINED


def test_lost_keys_are_booked_in_every_state() -> None:
    its = health()
    its.failed(0.0, down=True, lost=1)
    its.looked(EVE, 0.0)
    its.failed(0.0, down=False, lost=2)
    assert its.lost == 3


def test_consumption_is_counted_over_a_window() -> None:
    its = Consumption(0.0)
    assert its.per_day(30.0) is None
    for second in range(0, 7200, 120):
        its.took(1, float(second))
    found = its.per_day(7200.0)
    assert found is not None
    assert found == pytest.approx(DAY / 120, rel=0.05)
    assert its.per_day(7200 + 2 * WINDOW) == 0


def test_days_of_supply() -> None:
    assert days_left(None, 1.0, 1.0) is None
    assert days_left(10, None, 1.0) is None
    assert days_left(100, 10.0, None) == 10
    assert days_left(100, 20.0, 10.0) == 10
    assert days_left(100, 10.0, 10.0) == float("inf")


@given(st.lists(st.sampled_from(["ok", "down", "refused", "alarm", "well", "clear", "ask", "wait"]), max_size=60))
def test_no_order_of_events_breaks_the_table_or_lets_a_quarantined_source_be_asked(events: list[str]) -> None:
    its, now, quarantined = health(), 0.0, False
    for event in events:
        now += 20.0 if event == "wait" else 0.1
        match event:
            case "ok":
                its.delivered(1, now)
            case "down" | "refused":
                its.failed(now, down=event == "down")
            case "alarm" | "well":
                its.looked(EVE if event == "alarm" else WELL, now)
                quarantined |= event == "alarm"
            case "clear":
                its.clear()
                quarantined = False
            case "ask":
                assert not quarantined or its.refusal(now) is not None
        assert (its.state is SourceState.QUARANTINED) == quarantined
        if its.state is SourceState.RESTING:
            assert its.rests_until - now <= LONGEST_REST
