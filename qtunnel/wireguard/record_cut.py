"""Sealing a record and cutting it into datagrams."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from qtunnel.wireguard.record_format import (
    HEADER_SIZE,
    MAX_BUFFER,
    MAX_COUNT,
    MAX_COUNTER,
    PARITY,
    TAG_SIZE,
    TYPE_RECORD,
    capacity,
    fragments,
)

Seal = Callable[[bytes, memoryview, None, memoryview], int]
"""encrypt_into of an AEAD: nonce, plaintext, no associated data, where the ciphertext goes."""

_nonce = struct.Struct("<4xQ").pack
_words = struct.Struct("<QQ").pack_into
_MAX_PLACES = 256
"""Counts and positions whose views are kept, 2 kB each."""

_FRAGMENT_STEP = np.arange(MAX_COUNT, dtype=np.uint64) << np.uint64(8)
"""The fragment number in the first word of a header."""


class _Places:
    """Where headers, displaced bytes and words of a record of ``count`` fragments are in a buffer, from ``at`` on."""

    def __init__(self, buffer: bytearray, size: int, count: int, at: int) -> None:
        strides = (size,)
        self.first_words = np.ndarray((count,), "<u8", buffer, at, strides)
        self.second_words = np.ndarray((count,), "<u8", buffer, at + 8, strides)
        self.displaced = np.ndarray((count - 1,), "V16", buffer, at + size, strides)
        self.kept = np.ndarray((count - 1,), "V16", buffer, at + HEADER_SIZE)
        self.steps = _FRAGMENT_STEP[:count]
        self.words = np.ndarray((count, size // 8), "<u8", buffer, at)
        self.parity = np.ndarray((size // 8,), "<u8", buffer, at + count * size)


class RecordCutter:
    """Makes records with datagrams of one size, one or several side by side. What it returns is valid until the next
    call that begins at 0.

    size: bytes of a datagram, as ``datagram_size`` gives it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.max_plain = capacity(MAX_COUNT, size)
        """Bytes of plaintext that fit into one record."""
        self._buffer = bytearray(2 * (MAX_BUFFER // size + 1) * size)
        self._view = memoryview(self._buffer)
        self._places: dict[tuple[int, int], _Places] = {}

    def room(self, plain: int, at: int) -> bool:
        """Whether a record of ``plain`` bytes has room from ``at`` on."""
        return at + (fragments(plain, self.size) + 1) * self.size <= len(self._buffer)

    def cut(self, seal: Seal, plain: memoryview, index: int, counter: int, *, parity: bool, at: int = 0) -> memoryview:
        """The datagrams of the record one after the other, all of ``size`` bytes but, without parity, the last; behind
        those of earlier calls that end at ``at``.

        Raises ``ValueError`` where ``plain`` is empty or longer than ``max_plain``, or the counter is used up.
        """
        length = len(plain)
        if not 0 < length <= self.max_plain or not 0 <= counter <= MAX_COUNTER:
            raise ValueError(f"a record of {length} bytes with counter {counter} cannot be made")
        size = self.size
        count = fragments(length, size)
        start = at + HEADER_SIZE * count
        end = start + length + TAG_SIZE
        seal(_nonce(counter), plain, None, self._view[start:end])
        first = TYPE_RECORD | count << 16 | index << 32
        second = counter | end - at - (count - 1) * size << 48
        if count == 1:
            _words(self._buffer, at, first, second)
            return self._view[:end]
        places = self._places.get((count, at)) or self._place(count, at)
        places.kept[:] = places.displaced
        np.add(places.steps, np.uint64(first), out=places.first_words)
        places.second_words[:] = second
        if not parity:
            return self._view[:end]
        behind = at + count * size
        self._view[end:behind] = bytes(behind - end)
        np.bitwise_xor.reduce(places.words, axis=0, out=places.parity)
        _words(self._buffer, behind, first | PARITY << 8, second)
        return self._view[: behind + size]

    def _place(self, count: int, at: int) -> _Places:
        if len(self._places) >= _MAX_PLACES:
            self._places.clear()
        made = self._places[count, at] = _Places(self._buffer, self.size, count, at)
        return made
