"""The Internet checksum against RFC 1071 done word by word."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from qtunnel.offload import checksum
from tests.offload.reference import internet_checksum
from tests.offload.strategies import content

BUFFER = bytearray(80000)


@given(st.one_of(st.integers(1, 100), st.integers(2000, 2100), st.integers(65000, 65535)), st.integers(2, 999))
def test_a_total_complements_to_the_checksum(size: int, seed: int) -> None:
    data = content(size, seed)
    assume(any(data))
    assert -checksum.total(data) % checksum.MODULUS == internet_checksum(data)


@given(st.binary(min_size=1, max_size=64))
def test_small_totals(data: bytes) -> None:
    value = internet_checksum(data)
    assert -checksum.total(data) % checksum.MODULUS == (value if any(data) else 0)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 200), st.integers(1, 60), st.integers(0, 999))
def test_rows_sum_as_each_alone(offset: int, gap: int, width: int, count: int, seed: int) -> None:
    stride = width + gap
    BUFFER[:] = content(len(BUFFER), seed)
    rows = checksum.Rows(BUFFER, offset, stride, count, width)
    sums = rows.sums(0, count)
    for index, value in enumerate(sums.tolist()):
        at = offset + index * stride
        assert checksum.swap(value % 0xFFFF) % 0xFFFF == checksum.total(BUFFER[at : at + width])


@given(
    st.lists(st.one_of(st.integers(0, 0x7FFFFFFF), st.integers(0, 9).map(0xFFFF.__mul__)), min_size=1), st.booleans()
)
def test_complements_bring_sums_to_zero(sums: list[int], zero: bool) -> None:
    made = checksum.complements(np.array(sums, np.uint32), zero).tolist()
    for value, field in zip(sums, made, strict=True):
        assert (value + field) % 0xFFFF == 0
        assert 0 <= field <= 0xFFFE if zero else 1 <= field <= 0xFFFF
