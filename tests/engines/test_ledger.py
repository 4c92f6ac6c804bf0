"""One clock ages here, and another, which somebody may set, is that in which handshakes are told."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.engines.clocks import Clocks, Moment
from qtunnel.engines.ledger import GRAIN, MAX_INSTALLED, SESSION_TIME, EpochLedger

HOUR = 3600.0


def at(now: float, ahead: float = 0.0) -> Moment:
    """A look that takes no time; ahead: of the wall clock."""
    return Moment(now, now + ahead, now)


def made() -> EpochLedger:
    return EpochLedger(at(0.0))


def test_nothing_is_in_force_without_a_handshake() -> None:
    ledger = made()
    ledger.installed(1, 100.0)
    assert ledger.in_force(None, at(101.0)) is None


def test_a_handshake_before_the_first_installation_is_no_epochs() -> None:
    ledger = made()
    ledger.installed(1, 100.0)
    assert ledger.in_force(99.0, at(101.0)) is None
    assert ledger.in_force(101.001, at(101.001)) == 1


def test_a_handshake_is_put_down_to_the_oldest_key_that_it_can_be_of() -> None:
    ledger = made()
    ledger.installed(1, 100.0)
    assert ledger.in_force(100.5, at(100.6)) == 1
    ledger.installed(2, 220.0)
    # The response was made with key 1 at 219.9; the initiator's first packet got lost, and the next one came at 221.5.
    assert ledger.in_force(221.5, at(221.6)) == 1
    assert ledger.in_force(220.0 + SESSION_TIME, at(400.05)) == 1
    assert ledger.in_force(220.1 + SESSION_TIME, at(401.0)) == 2


def test_a_key_is_certain_at_once_where_there_was_none_before() -> None:
    ledger = made()
    ledger.installed(1, 100.0)
    assert ledger.in_force(150.0, at(150.0)) == 1
    ledger.blocked()
    ledger.installed(2, 200.0)
    assert ledger.in_force(200.1, at(200.1)) == 2


def test_the_same_handshake_never_moves_to_a_later_epoch() -> None:
    ledger = made()
    ledger.installed(1, 100.0)
    assert ledger.in_force(150.0, at(150.0)) == 1
    ledger.installed(2, 160.0)
    for ahead in (0.0, -HOUR, HOUR):  # wherever the clock is set to
        assert (ledger.in_force(150.0, at(161.0, ahead)), ledger.newest) == (1, 1)


def test_blocking_takes_every_epoch_out_of_force() -> None:
    ledger = made()
    ledger.installed(1, 100.0)
    assert ledger.in_force(101.0, at(101.0)) == 1
    ledger.blocked()
    assert ledger.in_force(101.0, at(101.0)) is None
    ledger.installed(2, 200.0)
    assert ledger.in_force(101.0, at(101.0)) is None
    assert ledger.in_force(200.1, at(200.1)) == 2


def newest(ledger: EpochLedger) -> int | None:
    """Read anew each time."""
    return ledger.newest


def test_the_newest_epoch_that_a_handshake_can_be_of_is_told_as_well() -> None:
    ledger = made()
    assert newest(ledger) is None
    ledger.installed(1, 100.0)
    ledger.installed(2, 220.0)
    assert (ledger.in_force(221.5, at(221.6)), newest(ledger)) == (1, 2)
    ledger.installed(3, 340.0)
    assert (ledger.in_force(221.5, at(341.0)), newest(ledger)) == (1, 2), "judged before there was the third"
    ledger.installed(4, 460.0)  # the engine used it, and the answer to the call came after the handshake
    assert (ledger.in_force(459.9, at(461.0)), newest(ledger)) == (2, 4)
    ledger.blocked()
    assert newest(ledger) is None


def test_a_dead_peer_does_not_fill_the_memory() -> None:
    ledger = made()
    for epoch in range(10 * MAX_INSTALLED):
        ledger.installed(epoch, float(epoch))
    assert len(ledger._installed) == MAX_INSTALLED


@dataclass(frozen=True)
class Handshake:
    """made: when the response was; counted: when it was confirmed; told: that by the wall clock; used: which key."""

    made: float
    counted: float
    told: float
    used: int


@given(
    st.lists(st.floats(0.01, 300.0), min_size=1, max_size=20),
    st.lists(st.tuples(st.floats(0.0, 3000.0), st.floats(0.0, SESSION_TIME)), max_size=20),
    st.lists(
        st.tuples(st.floats(0.01, 300.0), st.just(0.0) | st.floats(-2 * HOUR, 2 * HOUR), st.floats(0.0, 1.0)),
        min_size=1,
        max_size=30,
    ),
)
def test_never_claims_more_than_the_session_has_wherever_the_clock_is_set_to(
    gaps: list[float], confirmed: list[tuple[float, float]], looks: list[tuple[float, float, float]]
) -> None:
    """gaps: between installations. confirmed: when the response was made, and how much later it was confirmed. looks:
    how long after the one before; by how much the clock was set meanwhile, and after which part of that time."""
    ledger = made()
    waiting, installed, now = [], [], 0.0
    for epoch, gap in enumerate(gaps, start=1):
        now += gap
        waiting.append((epoch, now))
        installed.append((epoch, now))
    now = ahead = before = 0.0
    last, seen, known, calm = 0, None, 0.0, False
    for gap, step, part in looks:
        before, now = now, now + gap
        handshakes = [
            Handshake(response, counted, counted + ahead + (step if counted > before + part * gap else 0.0), used)
            for counted, response in sorted((response + later, response) for response, later in confirmed)
            # before the first installation the key was a random one, which makes no session
            if (used := max((epoch for epoch, moment in installed if moment < response), default=0))
            and before < counted <= now
        ]
        ahead += step
        while waiting and waiting[0][1] <= now:
            ledger.installed(*waiting.pop(0))
        if handshakes:
            seen, known, calm = handshakes[-1], before, not step
        claimed = ledger.in_force(None if seen is None else seen.told, at(now, ahead))
        assert (claimed or 0) >= last or claimed is None
        last = claimed or last
        if seen is None or now - seen.counted >= SESSION_TIME:
            assert claimed is None
            continue
        if claimed is not None:
            assert claimed <= seen.used <= (ledger.newest or 0)
        if now - (seen.counted if calm else known) < SESSION_TIME - 2 * GRAIN:
            assert claimed is not None
        newest = [epoch for epoch, moment in installed if moment <= now][-1]
        if calm and seen.counted > installed[newest - 1][1] + SESSION_TIME + 2 * GRAIN:
            assert claimed == newest or now - seen.counted > SESSION_TIME - 2 * GRAIN


@pytest.mark.parametrize("step", [-HOUR, HOUR, -200.0, 200.0])
def test_a_clock_that_is_set_changes_nothing_of_what_is_in_force(step: float) -> None:
    ledger = made()
    ledger.installed(1, 1000.0)
    assert ledger.in_force(1001.0, at(1002.0)) == 1
    for epoch, start in ((2, 1120.0), (3, 1240.0), (4, 1360.0)):
        ledger.installed(epoch, start)
        for now in (start + 1.0, start + 60.0, start + 119.0):
            told = ledger.in_force(now + step, at(now, step)), ledger.newest
            # the key before it may still be that of a response which this confirms, and is put down to it for as long
            oldest = next(its for its in range(1, epoch + 1) if its == epoch or 1000.0 + 120.0 * its >= now - 180.0)
            assert told == (oldest, epoch), f"{now - 1000.0} s after the first"
    dead = ledger.in_force(1479.0 + step, at(1479.0 + SESSION_TIME - 1.0, step))
    assert (dead, ledger.in_force(1479.0 + step, at(1479.0 + SESSION_TIME, step))) == (3, None)


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_session_is_over_in_its_time_wherever_the_clock_is_set_to(step: float) -> None:
    ledger = made()
    ledger.installed(1, 1000.0)
    assert ledger.in_force(1001.0, at(1002.0)) == 1
    assert ledger.in_force(1001.0, at(1100.0, step)) == 1
    for now in (1001.0 + SESSION_TIME, 1400.0, 1599.0):
        assert ledger.in_force(1001.0, at(now, step)) is None
        assert not ledger.has_session(now)


def test_of_a_handshake_at_no_time_that_the_clock_had_nothing_is_claimed() -> None:
    """As of a program that tells how long ago it was."""
    ledger = made()
    ledger.installed(1, 1000.0)
    assert ledger.in_force(1001.0, at(1002.0)) == 1
    for passed in (1.0, 2.0, 3.0):
        for told in (passed, 9000.0 + passed):  # long ago, and not yet
            assert ledger.in_force(told, at(1002.0 + passed)) is None
            assert not ledger.has_session(1002.0 + passed)
    assert ledger.in_force(1100.0, at(1100.0)) == 1, "and the next good one counts again"


def test_an_answer_that_was_overtaken_says_nothing() -> None:
    ledger = made()
    assert ledger.in_force(90.0, at(91.0)) is None
    ledger.installed(1, 100.0)
    # Asked before the key was there, and answered after: what it tells may be of the sessions that went with it.
    assert ledger.in_force(98.0, Moment(99.0, 101.0, 101.0)) is None
    assert ledger.in_force(102.0, at(103.0)) == 1
    assert ledger.in_force(98.0, Moment(102.5, 104.0, 104.0)) == 1, "older than the look before"
    assert ledger.in_force(102.0, at(105.0)) == 1


def test_a_look_that_takes_long_leaves_room_for_what_may_have_been_meanwhile() -> None:
    ledger = made()
    ledger.installed(1, 100.0)
    assert ledger.in_force(101.0, at(102.0)) == 1
    ledger.installed(2, 220.0)
    # The wall clock was read 4 s after it was asked for: it may have been set back by as much before the answer.
    assert (ledger.in_force(402.0, Moment(402.0, 406.0, 406.0)), newest(ledger)) == (1, 2)
    assert (ledger.in_force(405.0, at(406.0)), newest(ledger)) == (2, 2)


def test_a_moment_is_read_from_both_clocks_the_wall_clock_in_between() -> None:
    reads: list[str] = []

    def reading(name: str, value: float) -> float:
        reads.append(name)
        return value + len(reads)

    clocks = Clocks(lambda: reading("boot", 10.0), lambda: reading("unix", 500.0))
    assert clocks.moment() == Moment(11.0, 502.0, 13.0)
    assert clocks.moment(3.0) == Moment(3.0, 504.0, 15.0)
    assert reads == ["boot", "unix", "boot", "unix", "boot"]


def test_there_is_a_session_from_its_handshake_until_it_is_over() -> None:
    ledger = made()
    assert not ledger.has_session(100.0)
    ledger.in_force(100.0, at(101.0))
    assert ledger.has_session(100.0 + SESSION_TIME - 1)
    assert not ledger.has_session(100.0 + SESSION_TIME)
    ledger.blocked()
    assert not ledger.has_session(101.0)
