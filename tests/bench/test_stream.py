"""The receiver's count of a numbered stream."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.bench.stream import MAX_SERIAL, Count

SERIALS = st.one_of(st.integers(0, 1 << 21), st.integers(0, (1 << 64) - 1))


@given(size=st.integers(8, 200), reads=st.lists(st.lists(SERIALS, max_size=5), max_size=20))
def test_different_serial_numbers_count_once_however_the_kernel_joins_them(size: int, reads: list[list[int]]) -> None:
    reads = [[serial for serial in read if serial < 1 << 22 or serial >= MAX_SERIAL] for read in reads]
    count = Count(size)
    for read in reads:
        count.take(memoryview(b"".join(struct.pack("<Q", serial) + bytes(size - 8) for serial in read)))
    good = [serial for read in reads for serial in read if serial < MAX_SERIAL]
    assert count.different == len(set(good))
    assert count.packets == len(good)


@given(size=st.integers(9, 200), data=st.binary(min_size=1, max_size=500))
def test_what_is_not_a_whole_number_of_payloads_is_ignored(size: int, data: bytes) -> None:
    count = Count(size)
    if len(data) % size:
        count.take(memoryview(data))
        assert (count.different, count.packets) == (0, 0)
