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
_FRAGMENT_STEP = np.arange(MAX_COUNT, dtype=np.uint64) << np.uint64(8)
"""The fragment number in the first word of a header."""


class _Places:
    """Where headers, displaced bytes and words of a record of ``count`` fragments are in the cutter's buffer."""

    def __init__(self, buffer: bytearray, size: int, count: int) -> None:
        strides = (size,)
        self.first_words = np.ndarray((count,), "<u8", buffer, 0, strides)
        self.second_words = np.ndarray((count,), "<u8", buffer, 8, strides)
        self.displaced = np.ndarray((count - 1,), "V16", buffer, size, strides)
        self.kept = np.ndarray((count - 1,), "V16", buffer, HEADER_SIZE)
        self.steps = _FRAGMENT_STEP[:count]
        self.words = np.ndarray((count, size // 8), "<u8", buffer)
        self.parity = np.ndarray((size // 8,), "<u8", buffer, count * size)


class RecordCutter:
    """Makes records with datagrams of one size. What ``cut`` returns is valid until the next call.

    size: bytes of a datagram, as ``datagram_size`` gives it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.max_plain = capacity(MAX_COUNT, size)
        """Bytes of plaintext that fit into one record."""
        self._buffer = bytearray((MAX_BUFFER // size + 1) * size)  # the fragments, then the parity
        self._view = memoryview(self._buffer)
        self._places: dict[int, _Places] = {}  # by the count of fragments; 2 kB each

    def cut(self, seal: Seal, plain: memoryview, index: int, counter: int, *, parity: bool) -> memoryview:
        """The datagrams of the record one after the other, all of ``size`` bytes but, without parity, the last.

        Raises ``ValueError`` where ``plain`` is empty or longer than ``max_plain``, or the counter is used up.
        """
        length = len(plain)
        if not 0 < length <= self.max_plain or not 0 <= counter <= MAX_COUNTER:
            raise ValueError(f"a record of {length} bytes with counter {counter} cannot be made")
        size = self.size
        count = fragments(length, size)
        start = HEADER_SIZE * count
        end = start + length + TAG_SIZE
        seal(_nonce(counter), plain, None, self._view[start:end])
        first = TYPE_RECORD | count << 16 | index << 32
        second = counter | end - (count - 1) * size << 48
        if count == 1:
            _words(self._buffer, 0, first, second)
            return self._view[:end]
        places = self._places.get(count)
        if places is None:
            places = self._places[count] = _Places(self._buffer, size, count)
        places.kept[:] = places.displaced
        np.add(places.steps, np.uint64(first), out=places.first_words)
        places.second_words[:] = second
        if not parity:
            return self._view[:end]
        self._view[end : count * size] = bytes(count * size - end)
        np.bitwise_xor.reduce(places.words, axis=0, out=places.parity)
        _words(self._buffer, count * size, first | PARITY << 8, second)
        return self._view[: (count + 1) * size]
