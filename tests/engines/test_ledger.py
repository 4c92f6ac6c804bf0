from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.engines.ledger import MAX_INSTALLED, SESSION_TIME, EpochLedger


def test_nothing_is_in_force_without_a_handshake() -> None:
    ledger = EpochLedger()
    ledger.installed(1, 100.0)
    assert ledger.in_force(None, 99.0) is None


def test_a_handshake_before_the_first_installation_is_no_epochs() -> None:
    ledger = EpochLedger()
    ledger.installed(1, 100.0)
    assert ledger.in_force(99.0, 99.0) is None
    assert ledger.in_force(100.001, 100.001) == 1


def test_a_handshake_is_put_down_to_the_oldest_key_that_it_can_be_of() -> None:
    ledger = EpochLedger()
    ledger.installed(1, 100.0)
    assert ledger.in_force(100.5, 100.6) == 1
    ledger.installed(2, 220.0)
    # The response was made with key 1 at 219.9; the initiator's first packet got lost, and the next one came at 221.5.
    assert ledger.in_force(221.5, 221.6) == 1
    assert ledger.in_force(220.0 + SESSION_TIME, 401.0) == 1
    assert ledger.in_force(220.1 + SESSION_TIME, 401.0) == 2


def test_a_key_is_certain_at_once_where_there_was_none_before() -> None:
    ledger = EpochLedger()
    ledger.installed(1, 100.0)
    assert ledger.in_force(150.0, 150.0) == 1
    ledger.blocked()
    ledger.installed(2, 200.0)
    assert ledger.in_force(200.1, 200.1) == 2


def test_the_same_handshake_never_moves_to_a_later_epoch() -> None:
    ledger = EpochLedger()
    ledger.installed(1, 100.0)
    assert ledger.in_force(150.0, 150.0) == 1
    ledger.installed(2, 120.0)  # even where the clock was set back
    assert ledger.in_force(150.0, 150.0) == 1


def test_blocking_takes_every_epoch_out_of_force() -> None:
    ledger = EpochLedger()
    ledger.installed(1, 100.0)
    assert ledger.in_force(101.0, 101.0) == 1
    ledger.blocked()
    assert ledger.in_force(101.0, 101.0) is None
    ledger.installed(2, 200.0)
    assert ledger.in_force(101.0, 101.0) is None
    assert ledger.in_force(200.1, 200.1) == 2


def newest(ledger: EpochLedger) -> int | None:
    """Read anew each time."""
    return ledger.newest


def test_the_newest_epoch_that_a_handshake_can_be_of_is_told_as_well() -> None:
    ledger = EpochLedger()
    assert newest(ledger) is None
    ledger.installed(1, 100.0)
    ledger.installed(2, 220.0)
    assert (ledger.in_force(221.5, 221.6), newest(ledger)) == (1, 2)
    ledger.installed(3, 340.0)
    assert (ledger.in_force(221.5, 341.0), newest(ledger)) == (1, 2), "judged before there was the third"
    ledger.installed(4, 460.0)  # the engine used it, and the answer to the call came after the handshake
    assert (ledger.in_force(459.9, 461.0), newest(ledger)) == (2, 4)
    ledger.blocked()
    assert newest(ledger) is None


def test_a_dead_peer_does_not_fill_the_memory() -> None:
    ledger = EpochLedger()
    for epoch in range(10 * MAX_INSTALLED):
        ledger.installed(epoch, float(epoch))
    assert len(ledger._installed) == MAX_INSTALLED


@given(
    st.lists(st.floats(0.01, 300.0), min_size=1, max_size=20),
    st.lists(st.tuples(st.floats(0.0, 3000.0), st.floats(0.0, SESSION_TIME)), max_size=20),
)
def test_never_claims_a_newer_epoch_than_the_session_has(
    gaps: list[float], handshakes: list[tuple[float, float]]
) -> None:
    """handshakes: when the response was made, and how much later it was confirmed."""
    ledger = EpochLedger()
    at, installed = 0.0, []
    for epoch, gap in enumerate(gaps, start=1):
        at += gap
        installed.append((epoch, at))
        ledger.installed(epoch, at)
    last = 0
    for counted, made in sorted((made + later, made) for made, later in handshakes):
        claimed = ledger.in_force(counted, counted)
        used = [epoch for epoch, moment in installed if moment < made]
        if used:  # before the first installation the key was a random one, which makes no session
            assert claimed is not None
            assert claimed <= used[-1] <= (ledger.newest or 0)
        assert (claimed or 0) >= last
        last = claimed or 0
        if used and counted > installed[-1][1] + SESSION_TIME:
            assert claimed == installed[-1][0]


def test_there_is_a_session_from_its_handshake_until_it_is_over() -> None:
    ledger = EpochLedger()
    assert not ledger.has_session(100.0)
    ledger.in_force(100.0, 101.0)
    assert ledger.has_session(100.0 + SESSION_TIME - 1)
    assert not ledger.has_session(100.0 + SESSION_TIME)
    ledger.blocked()
    assert not ledger.has_session(101.0)
