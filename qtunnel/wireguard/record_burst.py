"""Records in the memory that datagrams are received into: found, healed and put right where they lie."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from qtunnel.wireguard.record_format import (
    HEADER,
    HEADER_SIZE,
    MAX_BUFFER,
    MAX_COUNT,
    MAX_COUNTER,
    MIN_SIZE,
    NUMBERS,
    PARITY,
    SIZE_STEP,
    TAG_SIZE,
    TYPE_RECORD,
)

_MAX_PLACES: Final = 512
"""Combinations of offset, count and datagram size whose views are kept: of 64 offsets a few each, half a kilobyte."""

_ALL_BUT_FRAGMENT: Final = np.array((0xFFFFFFFF_FFFF00FF, 0xFFFFFFFF_FFFFFFFF), np.uint64)
"""What a header has in common in all datagrams of a record."""

Pieces = npt.NDArray[np.void]
"""Pieces of 16 bytes at equal distances."""


class Record(NamedTuple):
    """A whole record: its ciphertext with tag is ``buffer[start:end]``."""

    counter: int
    buffer: memoryview
    start: int
    end: int
    expected: int
    """Its fragments."""
    missing: int
    """The fragment that was made of the others and the parity; -1 where all had arrived."""
    size: int
    """Bytes of the datagrams that had arrived."""


class ReceiveBuffer:
    """Memory that datagrams are received into, and where headers and displaced bytes of a record in it are."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.view = memoryview(self.bytes)
        self._places: dict[tuple[int, int, int], tuple[Pieces, Pieces]] = {}

    def restore(self, offset: int, count: int, size: int) -> None:
        """Put the displaced 16 bytes of ciphertext back where the headers stood. offset: of the first datagram."""
        if count > 1:
            headers, kept = self._places.get((offset, count, size)) or self._place(offset, count, size)
            headers[:] = kept

    def _place(self, offset: int, count: int, size: int) -> tuple[Pieces, Pieces]:
        if len(self._places) >= _MAX_PLACES:
            self._places.clear()
        made = self._places[offset, count, size] = (
            np.ndarray((count - 1,), "V16", self.bytes, offset + size, (size,)),
            np.ndarray((count - 1,), "V16", self.bytes, offset + HEADER_SIZE),
        )
        return made

    def heal(self, offset: int, count: int, size: int, missing: int) -> None:
        """Make the fragment ``missing`` of the others and of the parity, which stands in its place."""
        if count > 1:
            rows = np.ndarray((count, size // 8), "<u8", self.bytes, offset)
            np.bitwise_xor.reduce(rows, axis=0, out=rows[missing])


def stretches(buffer: ReceiveBuffer, offset: int, length: int, size: int) -> list[tuple[int, int]]:
    """Where in ``buffer[offset : offset + length]``, datagrams of ``size`` bytes but the last, those of one record
    follow each other: offsets and lengths. The headers of a stretch differ in the fragment number alone, as far as
    it matters: what the AEAD tells anyway is not looked at where that saves time.

    Datagrams that are too short for a header may stand at the end, and in a stretch of their own everywhere.
    """
    if length <= size:
        return [(offset, length)]
    count = -(-length // size)
    headed = count if length - (count - 1) * size >= HEADER_SIZE else count - 1
    if headed < 2 or size < HEADER_SIZE:
        return [(at, min(size, offset + length - at)) for at in range(offset, offset + length, size)]
    if headed == count and 0 <= count - buffer.bytes[offset + 2] <= 1:  # most of the time one record: half is looked at
        tails = np.ndarray((count,), "<u8", buffer.bytes, offset + 8, (size,)).tobytes()
        if tails == tails[:8] * count:
            return [(offset, length)]
    words = np.ndarray((headed, 2), "<u8", buffer.bytes, offset, (size, 8))
    heads = (words & _ALL_BUT_FRAGMENT).tobytes()
    found = []
    first = 0
    while first < headed:
        at = first * HEADER_SIZE
        head = heads[at : at + HEADER_SIZE]
        run = min(head[2], headed - first)  # all fragments, a guess
        if not run or heads[at : at + run * HEADER_SIZE] != head * run:
            run = 1
        while heads[at + run * HEADER_SIZE : at + (run + 1) * HEADER_SIZE] == head:
            run += 1
        start = first * size
        first += run
        found.append((offset + start, min(first * size, length) - start))
    if headed < count:
        found.append((offset + headed * size, length - headed * size))
    return found


def whole_record(buffer: ReceiveBuffer, offset: int, length: int, size: int) -> Record | None:
    """The record, where the stretch ``buffer[offset : offset + length]`` holds just its datagrams in order, or all of
    them but one that the others make up for; None where it is anything else, with nothing changed.

    This is the usual case, also where some datagrams are lost. The ciphertext is put right in place.
    """
    data = buffer.bytes
    kind, first, count, reserved, _, tail = HEADER.unpack_from(data, offset)
    last = tail >> 48
    if kind != TYPE_RECORD or reserved or not 0 < count <= MAX_COUNT:
        return None
    counter = tail & MAX_COUNTER
    if count == 1:  # its parity is the same again
        if last != min(size, length) or last < HEADER_SIZE + TAG_SIZE or first not in (0, PARITY) or length > 2 * size:
            return None
        return Record(counter, buffer.view, offset + HEADER_SIZE, offset + last, 1, 0 if first else -1, length)
    if not (MIN_SIZE <= size <= MAX_BUFFER // count and size % SIZE_STEP == 0 and HEADER_SIZE < last <= size):
        return None
    numbers = data[offset + 1 : offset + length : size]
    end = (count - 1) * size + last
    missing = -1
    if length == count * size and numbers[-1] == PARITY:
        missing = _gap(numbers, count)
        if missing < 0:
            return None
        view = buffer.view
        behind = offset + count * size
        parity = bytes(view[behind - size : behind])
        view[offset + (missing + 1) * size : behind] = view[offset + missing * size : behind - size]
        view[offset + missing * size : offset + (missing + 1) * size] = parity
        buffer.heal(offset, count, size, missing)
    elif length in (end, count * size):  # in the latter case the parity is what was lost
        if numbers != NUMBERS[:count]:
            return None
    elif length != (count + 1) * size or numbers[-1] != PARITY or numbers[:-1] != NUMBERS[:count]:
        return None
    buffer.restore(offset, count, size)
    return Record(counter, buffer.view, offset + HEADER_SIZE * count, offset + end, count, missing, length)


def counter_of_one(buffer: ReceiveBuffer, offset: int, length: int, size: int) -> int:
    """The counter in the first header at ``buffer[offset : offset + length]``, if that is of a record with as many
    bytes; else -1."""
    _, _, count, _, _, tail = HEADER.unpack_from(buffer.bytes, offset)
    fits = length in ((count - 1) * size + (tail >> 48), count * size, (count + 1) * size)
    return tail & MAX_COUNTER if fits else -1


def _gap(numbers: bytearray, count: int) -> int:
    """The one fragment that is not there, where the others are in order and the parity follows them; else -1."""
    missing = 0
    while numbers[missing] == missing:
        missing += 1
    return missing if numbers[missing:-1] == NUMBERS[missing + 1 : count] else -1
