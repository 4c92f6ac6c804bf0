"""Whether keys with one peer may be used: not before a look, not after an alarm, and silence holds nobody for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.keys.health import Limits, SourceHealth, SourceState
from qtunnel.keys.source import SourceStatus
from qtunnel.keys.trust import AGAIN, FRESH, HOLD, SILENT_AFTER, Trust, TrustState

WELL = SourceStatus(True, "", for_all=False)
EVE = SourceStatus(False, "", alarm="intercept-resend on link 3", for_all=False)
OPENED = SourceStatus(False, "", alarm="the device was opened")


def trust(quarantine: float | None = None, *, warns: bool = True) -> Trust:
    return Trust("metro", "bob", Limits(0.11, quarantine), warns=warns)


def looks(its: Trust, status: SourceStatus, now: float) -> None:
    its.begins(now)
    its.looked(status, now, now)


def test_no_key_is_used_before_a_look() -> None:
    its = trust()
    assert its.due(0.0)
    assert "waited for" in str(its.refusal(0.0))
    assert "waited for" in str(its.refusal(1e9)), "nobody has begun to look"
    looks(its, WELL, 1.0)
    assert its.refusal(1.0) is None
    assert not its.due(1.0 + FRESH / 2)
    assert its.due(1.0 + FRESH)


def test_silence_holds_the_first_keys_for_a_bounded_time() -> None:
    its = trust()
    its.begins(10.0)
    its.failed("metro: status: no answer within 5 s")
    assert "no answer within 5 s" in str(its.refusal(10.0 + HOLD - 0.1))
    assert not its.due(10.0 + AGAIN / 2)
    assert its.due(10.0 + AGAIN)
    its.begins(10.0 + AGAIN)  # counted from the first
    assert its.refusal(10.0 + HOLD) is None
    assert its.state is TrustState.UNKNOWN
    looks(its, EVE, 20.0)
    assert its.refusal(20.0) is not None


def test_a_source_that_says_that_it_has_no_status_holds_nobody() -> None:
    its = trust()
    its.begins(0.0)
    its.failed("HTTP 404", none=True)
    assert its.refusal(0.0) is None
    assert its.state is TrustState.UNKNOWN


def test_a_driver_that_tells_no_alarm_is_not_waited_for() -> None:
    its = trust(warns=False)
    assert not its.due(0.0)
    assert its.refusal(0.0) is None
    assert its.state is TrustState.UNSEEN


def test_keys_without_a_status_for_long_are_shown() -> None:
    its = trust()
    looks(its, WELL, 0.0)
    assert its.refusal(SILENT_AFTER - 1) is None
    assert its.state.value == "no alarm"
    assert its.refusal(SILENT_AFTER) is None
    assert its.state.value == "status not known"
    looks(its, WELL, SILENT_AFTER + 1)
    assert its.state is TrustState.CLEAR


def test_a_status_that_cannot_be_read_is_no_silence() -> None:
    its = trust()
    looks(its, WELL, 0.0)
    its.failed("its qber is NaN", garbled=True)
    assert its.barred
    assert "NaN" in str(its.refusal(1e9))
    its.failed("no answer")
    assert its.barred, "nor does silence make it better"
    looks(its, WELL, 2.0)
    assert its.refusal(2.0) is None


@pytest.mark.parametrize("qber", [0.12, float("nan"), -1.0, float("inf")])
def test_a_qber_that_is_no_rate_is_above_every_limit(qber: float) -> None:
    """Of a driver that hands on what it was told."""
    its = trust()
    looks(its, SourceStatus(True, "", qber=qber, for_all=False), 0.0)
    assert its.state is TrustState.QUARANTINED


def test_an_alarm_of_the_whole_source_is_not_a_pair_s_matter_and_the_other_way_round() -> None:
    its, health = trust(), SourceHealth("metro", Limits(), 0.0)
    its.looked(OPENED, 0.0, 0.0)
    assert health.looked(OPENED, 0.0)
    assert its.state is TrustState.CLEAR
    assert health.state is SourceState.QUARANTINED
    its, health = trust(), SourceHealth("metro", Limits(), 0.0)
    looks(its, EVE, 0.0)
    assert not health.looked(EVE, 0.0)
    assert its.state is TrustState.QUARANTINED
    assert health.state is SourceState.UNASKED


def test_a_quarantine_ends_by_an_operator_or_in_its_time_and_then_by_a_look() -> None:
    its = trust(quarantine=60.0)
    looks(its, EVE, 0.0)
    assert "sources clear metro --peer bob" in str(its.refusal(0.0))
    looks(its, WELL, 1.0)
    looks(its, WELL, 60.0)
    assert its.barred
    looks(its, WELL, 61.0)
    assert its.state is TrustState.CLEAR
    looks(its, EVE, 70.0)
    assert its.clear()
    assert not its.clear()
    assert its.refusal(70.0) is not None, "no key before the next look"
    assert its.due(70.0)


EVENTS = ["well", "alarm", "garbled", "silent", "none", "clear", "key", "wait"]


@given(st.lists(st.sampled_from(EVENTS), max_size=80))
def test_no_order_of_events_uses_a_key_after_an_alarm_or_an_unreadable_status(events: list[str]) -> None:
    its, now, bad, seen = trust(), 0.0, "", False
    begun: float | None = None
    for event in events:
        now += 50.0 if event == "wait" else 0.1
        if event in ("well", "alarm", "garbled", "silent", "none"):
            its.begins(now)
            begun = now if begun is None else begun
        match event:
            case "well" | "alarm":
                its.looked(WELL if event == "well" else EVE, now, now)
                bad = "alarm" if "alarm" in (event, bad) else ""
                seen = True
            case "garbled" | "silent" | "none":
                its.failed(event, garbled=event == "garbled", none=event == "none")
                bad = bad or ("garbled" if event == "garbled" else "")
                seen = seen or event == "none"
            case "clear":
                its.clear()
                bad, seen, begun = "", False, None
            case "key":
                used = its.refusal(now) is None
                held = not seen and (begun is None or now - begun < HOLD)
                assert used is (not bad and not held)
                seen = seen or used
        assert its.barred is bool(bad)
