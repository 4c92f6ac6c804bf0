"""Engines that tell how long ago a handshake was make one date of it, however often and slowly they are asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.engines.clocks import Moment
from qtunnel.engines.dates import FIRST_DATE, Dates

PEER, OTHER = b"k" * 32, b"o" * 32
AHEAD = 1_800_000_000.0


def look(asked: float, took: float = 0.0, ahead: float = AHEAD) -> Moment:
    return Moment(asked, asked + took + ahead, asked + took)


def test_dates_and_none_stay_what_they_are() -> None:
    dates = Dates()
    assert dates.of(PEER, None, look(10.0)) is None
    assert dates.of(PEER, AHEAD + 7.25, look(10.0)) == AHEAD + 7.25
    assert dates.of(PEER, FIRST_DATE, look(10.0)) == FIRST_DATE


@given(
    handshake=st.floats(1000.0, 2000.0),
    looks=st.lists(st.tuples(st.floats(0.0, 400.0), st.floats(0.0, 5.0), st.floats(0.0, 1.0)), min_size=1, max_size=8),
)
def test_one_handshake_has_one_date(handshake: float, looks: list[tuple[float, float, float]]) -> None:
    """Also where answers take seconds, of which the engine may have read its clock at any moment."""
    dates, found = Dates(), set[float | None]()
    first = None
    for later, took, share in sorted(looks):
        asked = handshake + later
        told = asked + took * share - handshake
        found.add(dates.of(PEER, told, look(asked, took)))
        first = first or took
    (date,) = found
    assert date is not None
    assert handshake - 0.001 <= date - AHEAD <= handshake + (first or 0.0) + 0.001


def test_another_handshake_has_another_date() -> None:
    dates = Dates()
    assert dates.of(PEER, 2.0, look(1002.0, 0.1)) == AHEAD + 1000.1
    assert dates.of(PEER, 3.0, look(1003.0, 0.1)) == AHEAD + 1000.1
    assert dates.of(PEER, 0.5, look(1006.0)) == AHEAD + 1005.5
    assert dates.of(OTHER, 6.0, look(1006.0)) == AHEAD + 1000.0
    assert dates.of(PEER, None, look(1007.0)) is None
    assert dates.of(PEER, 1.0, look(1007.0)) == AHEAD + 1006.0


def test_a_clock_that_is_set_makes_no_new_handshake() -> None:
    dates = Dates()
    assert dates.of(PEER, 2.0, look(1002.0)) == AHEAD + 1000.0
    assert dates.of(PEER, 4.0, look(1004.0, ahead=AHEAD + 3600)) == AHEAD + 1000.0


def test_a_peer_that_was_taken_out_begins_anew() -> None:
    dates = Dates()
    assert dates.of(PEER, 2.0, look(1002.0, 5.0)) == AHEAD + 1005.0
    dates.forget(PEER)
    assert dates.of(PEER, 3.0, look(1003.0)) == AHEAD + 1000.0
