"""The ledger of a pad, and the files' formats, by themselves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.drivers import file_ledger
from qtunnel.drivers.file_format import (
    _IMPRINT,
    HEADER_SIZE,
    IMPRINT_SIZE,
    MAX_PAD,
    MIN_PAD,
    Imprint,
    PadInfo,
    Side,
    _digest,
)
from qtunnel.drivers.file_ledger import (
    MAX_GAPS,
    SLOT_SIZE,
    Ledger,
    PadMismatchError,
    PadRefusalError,
    PadUsedUpError,
    joined,
    newest,
    without,
)
from qtunnel.errors import PadError

INFO = PadInfo("ab" * 16, 1 << 20, 1 << 19)
SIDES: list[Side] = ["a", "b"]
sides = st.sampled_from(SIDES)
ranges = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=12)
infos = st.builds(
    lambda pad_id, size, share: PadInfo(pad_id.hex(), size, int(size * share)),
    st.binary(min_size=16, max_size=16),
    st.integers(MIN_PAD, MAX_PAD),
    st.floats(0, 1),
)


def members(found: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> set[int]:
    return {at for start, stop in found for at in range(start, stop)}


@given(infos)
def test_a_header_comes_back(info: PadInfo) -> None:
    assert len(info.encode()) == HEADER_SIZE
    assert PadInfo.decode(info.encode()) == info
    low, high = info.lane("a"), info.lane("b")
    assert (low[0], low[1], high[1]) == (0, high[0], info.size)


@given(infos, st.integers(0, 75), st.integers(1, 255))
def test_no_changed_header_is_read(info: PadInfo, at: int, change: int) -> None:
    data = bytearray(info.encode())
    data[at] ^= change
    with pytest.raises(PadError):
        PadInfo.decode(data)


@pytest.mark.parametrize("data", [b"", b"QTUNPAD\0", bytes(HEADER_SIZE), b"-----BEGIN PRIVATE KEY-----"])
def test_what_is_no_pad_is_told(data: bytes) -> None:
    with pytest.raises(PadError, match=r"not a pad|damaged"):
        PadInfo.decode(data)


@given(infos, sides, st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16), st.integers(0, IMPRINT_SIZE - 1))
def test_an_imprint_comes_back_and_no_changed_one(
    info: PadInfo, side: Side, generation: int, mark: bytes, at: int
) -> None:
    imprint = Imprint(side, generation, mark)
    data = bytearray(imprint.encode(info))
    assert len(data) == IMPRINT_SIZE
    assert Imprint.decode(data, info) == imprint
    assert Imprint.decode(bytes(IMPRINT_SIZE), info) is None
    for at, value in ((0, 0), (7, 3)):  # no imprint, or of a side that there is not, with a right digest
        other = bytearray(data[: _IMPRINT.size])
        other[at] = value
        with pytest.raises(PadError, match="none of this version"):
            Imprint.decode(bytes(other) + _digest(info, bytes(other)), info)
    data[at] ^= 1
    with pytest.raises(PadError):
        Imprint.decode(data, info)
    with pytest.raises(PadError):
        Imprint.decode(imprint.encode(info), replace(info, share_a=info.share_a ^ 1))


@given(ranges)
def test_joined_ranges_hold_the_same(found: list[tuple[int, int]]) -> None:
    result = joined(found)
    assert members(result) == members(found)
    assert all(one[1] < other[0] for one, other in pairwise(result))


@given(st.tuples(st.integers(0, 100), st.integers(100, 200)), ranges)
def test_a_difference_of_ranges(whole: tuple[int, int], taken: list[tuple[int, int]]) -> None:
    taken = [(start, stop) for start, stop in taken if start <= stop]
    assert members(without(whole, taken)) == members([whole]) - members(taken)


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    ledger = Ledger.fresh(INFO, draw(sides))
    if draw(st.booleans()):
        ledger = ledger.begun(draw(st.binary(min_size=16, max_size=16)))
    for _ in range(draw(st.integers(0, 20))):
        if draw(st.booleans()):
            ledger, _ = ledger.take(draw(st.integers(16, 64)))
        else:
            ledger = ledger.give(ledger.reached + draw(st.integers(0, 4000)), draw(st.integers(16, 64)))
        if draw(st.booleans()):
            ledger = ledger.overwritten(ledger.to_overwrite((0, 0), draw(st.integers(0, 5000))))
    return ledger


@given(ledgers())
def test_a_ledger_comes_back(ledger: Ledger) -> None:
    slot = ledger.encode()
    assert len(slot) == SLOT_SIZE
    assert Ledger.decode(slot) == ledger


@given(ledgers(), st.integers(0, SLOT_SIZE - 1), st.integers(1, 255))
def test_a_changed_slot_counts_as_never_written(ledger: Ledger, at: int, change: int) -> None:
    """Changed blanks at its end are no change."""
    slot = bytearray(ledger.encode())
    slot[at] ^= change
    assert Ledger.decode(slot) in (None, ledger)
    assert Ledger.decode(slot[: SLOT_SIZE - 1]) is None


def test_the_largest_ledger_fits_into_its_slot() -> None:
    info = PadInfo("ab" * 16, MAX_PAD, MAX_PAD // 2)
    ledger = Ledger.fresh(info, "a").begun(bytes(16))
    at = MAX_PAD - 100_000
    for _ in range(3 * MAX_GAPS):
        ledger = ledger.give(at, 16)
        at += 32
    assert len(ledger.gaps) == MAX_GAPS
    assert Ledger.decode(ledger.encode()) == ledger


def test_the_newer_slot_counts() -> None:
    one = Ledger.fresh(INFO, "a")
    two = replace(one, sequence=1)
    assert newest(one, two) is newest(two, one) is newest(None, two) is two
    assert newest(None, None) is None


def test_one_side_draws_its_half_to_the_last_key() -> None:
    info = PadInfo("ab" * 16, 4096, 1024)
    for side, start, count in (("a", 0, 32), ("b", 1024, 96)):
        ledger = Ledger.fresh(info, "a" if side == "a" else "b")
        for number in range(count):
            ledger, offset = ledger.take(32)
            assert offset == start + 32 * number
        with pytest.raises(PadUsedUpError, match="0 bytes are left"):
            ledger.take(32)


@pytest.mark.parametrize(
    ("offset", "size", "said"),
    [
        (0, 32, "of this end's own half"),
        (INFO.share_a - 16, 32, "of this end's own half"),
        (INFO.size - 16, 32, "outside of the pad"),
        (INFO.size + 32, 32, "outside of the pad"),
        (INFO.share_a, 32, "used already"),
        (INFO.share_a + 16, 32, "used already"),
        (INFO.share_a + 64, 64, "used already"),
        (INFO.share_a + 32, 8, "gives 16 to"),
        (INFO.share_a + 32, 1 << 20, "gives 16 to"),
    ],
)
def test_the_peer_gets_what_is_there_once(offset: int, size: int, said: str) -> None:
    """Used are 0 to 32 and 96 to 128 of the peer's half; 32 to 96 was skipped."""
    start = INFO.share_a
    ledger = Ledger.fresh(INFO, "a").give(start, 32).give(start + 96, 32)
    with pytest.raises(PadRefusalError, match=said):
        ledger.give(offset, size)
    assert ledger.give(start + 32, 32).give(start + 64, 32).gaps == ()


def test_what_was_skipped_is_lost_when_it_is_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_ledger, "WINDOW", 256)
    start = INFO.share_a
    ledger = Ledger.fresh(INFO, "a").give(start + 64, 32)
    assert ledger.gaps == ((start, start + 64),)
    ledger = ledger.give(start + 256, 32)  # so that what lies below 32 is behind the window
    assert (ledger.gaps, ledger.lost) == (((start + 32, start + 64), (start + 96, start + 256)), 32)
    with pytest.raises(PadRefusalError):
        ledger.give(start, 32)
    assert (start, start + 32) in ledger.dirty, "it is overwritten like what was used"
    assert ledger.give(start + 32, 32).lost == 32


def test_of_too_many_gaps_the_oldest_are_lost() -> None:
    ledger, start = Ledger.fresh(INFO, "a"), INFO.share_a
    for number in range(MAX_GAPS + 3):
        ledger = ledger.give(start + 64 * number + 32, 32)
    assert (len(ledger.gaps), ledger.lost, ledger.gaps[0][0]) == (MAX_GAPS, 3 * 32, start + 3 * 64)


def test_which_imprints_belong_to_a_ledger() -> None:
    first, second = bytes(16), bytes(range(16))
    begun = Ledger.fresh(INFO, "a").begun(first)
    assert begun.matched(None, False).opening, "cut before the imprint"
    assert begun.matched(None, True).opening, "cut while it was written"
    assert not begun.matched(Imprint("a", 1, first), False).opening
    opened = begun.settled()
    again = opened.begun(second)
    assert again.matched(Imprint("a", 1, first), False).begun(first).generation == 2
    for ledger, imprint, torn, said in (
        (opened, None, False, "it is an older copy: it was opened 0 times, and the ledger says 1"),
        (opened, None, True, "damaged"),
        (opened, Imprint("a", 2, second), False, "the ledger is older than the pad: it says 1 openings, and the pad 2"),
        (opened, Imprint("a", 1, second), False, "another copy of it was used"),
        (again, None, False, "it is an older copy"),
        (again, Imprint("a", 3, second), False, "the ledger is older"),
    ):
        with pytest.raises(PadMismatchError, match=said):
            ledger.matched(imprint, torn)
