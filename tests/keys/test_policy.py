"""Judging epochs, keys in hand, and the schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.keys.held import HeldKeys
from qtunnel.keys.policy import Protection, Shortfall, judge, level, satisfies, sources_required
from qtunnel.keys.schedule import LONGEST_RETRY, Schedule
from qtunnel.secret import Secret
from qtunnel.terms import ChainPolicy, KeyRef, Policy, QkdPolicy

policies = st.builds(
    Policy, st.sampled_from(QkdPolicy), min_sources=st.integers(0, 5), chain=st.sampled_from(ChainPolicy)
)


@given(policies, policies, st.integers(0, 6), st.booleans(), st.booleans())
def test_no_epoch_passes_below_either_policy(a: Policy, b: Policy, sources: int, chained: bool, had: bool) -> None:
    verdict = judge(a, b, sources, chained=chained, had_epochs=had)
    for policy in (a, b):
        if policy.qkd is QkdPolicy.REQUIRED and sources < max(1, policy.min_sources):
            assert verdict is Shortfall.QKD
    if verdict is None and a.chain is ChainPolicy.REQUIRED:
        assert chained or not had
    if sources >= 5 and chained:
        assert verdict is None


def test_preferred_alone_requires_nothing() -> None:
    assert sources_required(Policy(QkdPolicy.PREFERRED, 3), Policy(QkdPolicy.OFF)) == 0
    assert sources_required(Policy(QkdPolicy.REQUIRED, 3), Policy(QkdPolicy.REQUIRED, 1)) == 3


@pytest.mark.parametrize(
    ("qkd", "sources", "expected", "enough"),
    [
        (QkdPolicy.REQUIRED, 1, Protection.QKD_PQC, True),
        (QkdPolicy.REQUIRED, 0, Protection.PQC_ONLY, False),
        (QkdPolicy.PREFERRED, 0, Protection.PQC_ONLY, True),
        (QkdPolicy.OFF, 0, Protection.PQC_ONLY, True),
    ],
)
def test_levels(qkd: QkdPolicy, sources: int, expected: Protection, enough: bool) -> None:
    policy = Policy(qkd)
    assert level(policy, sources) is expected
    assert satisfies(policy, expected) is enough


def test_nothing_satisfies_without_an_epoch() -> None:
    for qkd in QkdPolicy:
        for protection in (Protection.STARTING, Protection.BLOCKED, Protection.EXPIRED):
            assert not satisfies(Policy(qkd), protection)


def test_held_keys_live_and_are_wiped() -> None:
    held, key = HeldKeys(10.0), Secret(b"k" * 32)
    ref = KeyRef("metro", "1", 32)
    held.put(ref, key, 0.0)
    held.put(ref, again := Secret(b"x" * 32), 5.0)
    assert again.wiped
    assert held.get(ref) is key
    assert held.newest_by_source() == {"metro": ref}
    assert held.expire(9.9) == []
    assert held.expire(10.1) == [ref]
    assert key.wiped
    assert ref not in held


@given(st.floats(1, 86400), st.floats(0, 0.5), st.floats(0, 1, exclude_max=True))
def test_the_schedule_stays_within_its_jitter(interval: float, jitter: float, fraction: float) -> None:
    schedule = Schedule(interval, jitter)
    schedule.after_success(0.0, fraction)  # the one after the start may come sooner
    due = schedule.after_success(0.0, fraction)
    assert interval * (1 - jitter) - 1e-6 <= due <= interval * (1 + jitter) + 1e-6
    assert schedule.overdue(0.0) > interval * (1 + jitter)


@given(st.floats(1, 86400), st.floats(0, 1, exclude_max=True))
def test_retries_slow_down_but_never_below_once_a_minute(interval: float, fraction: float) -> None:
    schedule = Schedule(interval, 0.1)
    delays = [schedule.after_failure(0.0, fraction) for _ in range(20)]
    assert delays == sorted(delays)
    assert 0.5 <= delays[0] <= 1.0
    assert delays[-1] <= LONGEST_RETRY
    schedule.after_success(0.0, fraction)
    assert schedule.after_failure(0.0, fraction) == delays[0]
