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
_FRAGMENT_STEP = np.arange(MAX_COUNT, dtype=np.uint64) << np.uint64(8)
"""The fragment number in the first word of a header."""


class RecordCutter:
    """Makes records with datagrams of one size. What ``cut`` returns is valid until the next call.

    size: bytes of a datagram, as ``datagram_size`` gives it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.max_plain = capacity(MAX_COUNT, size)
        """Bytes of plaintext that fit into one record."""
        rows = MAX_BUFFER // size
        buffer = bytearray((rows + 1) * size)  # the parity datagram, then the fragments
        self._view = memoryview(buffer)
        strides = (size,)
        self._first_word = np.ndarray((rows,), "<u8", buffer, size, strides)
        self._second_word = np.ndarray((rows,), "<u8", buffer, size + 8, strides)
        self._displaced = np.ndarray((rows,), "V16", buffer, size, strides)
        self._kept = np.ndarray((rows,), "V16", buffer, size, (HEADER_SIZE,))
        self._words = np.ndarray((rows, size // 8), "<u8", buffer, size)
        self._parity = np.ndarray((size // 8,), "<u8", buffer, 0)

    def cut(self, seal: Seal, plain: memoryview, index: int, counter: int, *, parity: bool) -> memoryview:
        """The datagrams of the record one after the other, all of ``size`` bytes but the last.

        Raises ``ValueError`` where ``plain`` is empty or longer than ``max_plain``, or the counter is used up.
        """
        length = len(plain)
        if not 0 < length <= self.max_plain or not 0 <= counter <= MAX_COUNTER:
            raise ValueError(f"a record of {length} bytes with counter {counter} cannot be made")
        size = self.size
        count = fragments(length, size)
        start = size + HEADER_SIZE * count
        end = start + length + TAG_SIZE
        last = end - count * size  # one size for the parity datagram in front
        seal(_nonce(counter), plain, None, self._view[start:end])
        first = TYPE_RECORD | count << 16 | index << 32
        second = counter | last << 48
        if count > 1:
            self._kept[1:count] = self._displaced[1:count]
            np.add(_FRAGMENT_STEP[:count], np.uint64(first), out=self._first_word[:count])
            self._second_word[:count] = second
            if parity:
                return self._with_parity(first, second, count, end)
        else:
            self._first_word[0] = first
            self._second_word[0] = second
        return self._view[size:end]

    def _with_parity(self, first: int, second: int, count: int, end: int) -> memoryview:
        """The same with the parity datagram in front."""
        self._view[end : (count + 1) * self.size] = bytes((count + 1) * self.size - end)
        np.bitwise_xor.reduce(self._words[:count], axis=0, out=self._parity)
        self._parity[0] = first | PARITY << 8
        self._parity[1] = second
        return self._view[:end]
