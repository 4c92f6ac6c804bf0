from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.engines.ledger import MAX_INSTALLED, ROUND_TRIP, EpochLedger


def test_nothing_is_in_force_without_a_handshake() -> None:
    ledger = EpochLedger()
    ledger.installed(1, 100.0)
    assert ledger.in_force(None, 99.0) is None


def test_a_handshake_before_the_first_installation_is_no_epochs() -> None:
    ledger = EpochLedger()
    ledger.installed(1, 100.0)
    assert ledger.in_force(99.0, 99.0) is None
    assert ledger.in_force(100.001, 100.001) == 1


def test_a_handshake_within_a_round_trip_belongs_to_the_key_before() -> None:
    ledger = EpochLedger()
    ledger.installed(1, 100.0)
    ledger.installed(2, 200.0)
    assert ledger.in_force(200.0 + ROUND_TRIP / 2, 200.0 + ROUND_TRIP / 2) == 1
    assert ledger.in_force(200.0 + 2 * ROUND_TRIP, 200.0 + 2 * ROUND_TRIP) == 2


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


def test_a_dead_peer_does_not_fill_the_memory() -> None:
    ledger = EpochLedger()
    for epoch in range(10 * MAX_INSTALLED):
        ledger.installed(epoch, float(epoch))
    assert len(ledger._installed) == MAX_INSTALLED


@given(
    st.lists(st.floats(0.01, 50.0), min_size=1, max_size=20),
    st.lists(st.floats(0.0, 1000.0), max_size=20),
)
def test_never_claims_an_epoch_that_was_not_installed_before_the_handshake(
    gaps: list[float], handshakes: list[float]
) -> None:
    ledger = EpochLedger()
    at, installed = 0.0, []
    for epoch, gap in enumerate(gaps, start=1):
        at += gap
        installed.append((epoch, at))
    for epoch, moment in installed:
        ledger.installed(epoch, moment)
    last = 0
    for handshake in sorted(handshakes):
        claimed = ledger.in_force(handshake, handshake)
        before = [epoch for epoch, moment in installed if moment < handshake]
        assert claimed is None if not before else claimed in before
        assert (claimed or 0) >= last
        last = claimed or 0
        if before and handshake > installed[before[-1] - 1][1] + ROUND_TRIP:
            assert claimed == before[-1]
