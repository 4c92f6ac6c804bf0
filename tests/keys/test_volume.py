"""Counting what goes through a tunnel from an engine's counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.keys.volume import FAR, LEAST, LEAST_PART, Volume, least_gap

steps = st.lists(st.one_of(st.integers(0, 10**12), st.just("engine"), st.just("rekey")), max_size=40)


@given(st.integers(0, 10**12), steps)
def test_what_passed_since_the_last_rekey_is_counted_whatever_the_engine_does(first: int, run: list[object]) -> None:
    volume = Volume(max_bytes=1)
    total, expected = first, 0
    volume.count(total, total)
    for step in run:
        if step == "rekey":
            volume.restart()
            expected = 0
        elif step == "engine":
            total = 0
            volume.count(total, total)
        else:
            assert isinstance(step, int)
            total += step
            expected += step
            volume.count(total, total)
        assert (volume.bytes, volume.packets) == (expected, expected)


def test_an_interface_that_was_there_before_brings_no_rekey_by_its_past() -> None:
    volume = Volume(max_bytes=1000)
    volume.count(10**12, None)
    assert volume.reached is None
    volume.count(10**12 + 999, None)
    assert volume.reached is None
    volume.count(10**12 + 1000, None)
    assert volume.reached == "bytes"


def test_an_engine_that_was_started_anew_counts_from_nothing() -> None:
    volume = Volume(max_bytes=1000)
    for total in (0, 600, 100, 500):
        volume.count(total, None)
    assert (volume.bytes, volume.reached) == (1100, "bytes")


@pytest.mark.parametrize(
    ("limits", "bytes_", "packets", "reached"),
    [
        ((None, None), 10**18, 10**18, None),
        ((1000, None), 1000, 10**18, "bytes"),
        ((None, 10), 10**18, 10, "packets"),
        ((1000, 10), 999, 9, None),
        ((1000, 10), 1000, 9, "bytes"),
        ((1000, 10), 999, 10, "packets"),
    ],
)
def test_whichever_comes_first(
    limits: tuple[int | None, int | None], bytes_: int, packets: int, reached: str | None
) -> None:
    volume = Volume(*limits)
    volume.count(0, 0)
    volume.count(bytes_, packets)
    assert volume.reached == reached
    volume.restart()
    assert volume.reached is None


@pytest.mark.parametrize("limits", [(1000, None), (None, 1000)])
def test_far_beyond_a_limit(limits: tuple[int | None, int | None]) -> None:
    volume = Volume(*limits)
    volume.count(0, 0)
    volume.count(FAR * 1000 - 1, FAR * 1000 - 1)
    assert volume.reached is not None
    assert volume.far_passed is None
    volume.count(FAR * 1000, FAR * 1000)
    assert volume.far_passed == volume.reached


def test_traffic_shortens_an_interval_only_so_far() -> None:
    assert least_gap(120.0, None) == LEAST_PART * 120.0
    assert least_gap(2.0, None) == LEAST
    assert least_gap(120.0, 30.0) == 30.0
