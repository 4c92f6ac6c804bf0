"""Sealing a record and cutting it into datagrams."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

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

_COUNTER_STEP = np.arange(MAX_COUNT, dtype=np.uint64)[:, None]
"""From record to record."""


class _Places:
    """Where headers, displaced bytes and words of ``records`` records of ``count`` fragments each are in a buffer, from
    ``at`` on."""

    def __init__(self, buffer: bytearray, size: int, count: int, at: int, records: int, *, parity: bool) -> None:
        self.steps = _FRAGMENT_STEP[:count]
        datagrams = count
        if parity:
            self.steps = np.append(self.steps, np.uint64(PARITY << 8))
            datagrams += 1
        stride = datagrams * size
        self.first_words = np.ndarray((records, datagrams), "<u8", buffer, at, (stride, size))
        self.second_words = np.ndarray((records, datagrams), "<u8", buffer, at + 8, (stride, size))
        self.displaced = np.ndarray((records, count - 1), "V16", buffer, at + size, (stride, size))
        self.kept = np.ndarray((records, count - 1), "V16", buffer, at + HEADER_SIZE, (stride, HEADER_SIZE))
        self.counters = _COUNTER_STEP[:records]
        words = (size - HEADER_SIZE) // 8
        behind = at + HEADER_SIZE
        self.words = np.ndarray((records, count, words), "<u8", buffer, behind, (stride, size, 8))
        if records == 1:  # numpy is faster with one dimension
            self.first_words, self.second_words = self.first_words[0], self.second_words[0]
            self.displaced, self.kept = self.displaced[0], self.kept[0]
        if parity:
            self.parity = np.ndarray((records, words), "<u8", buffer, behind + count * size, (stride, 8))


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
        self._zeros = bytes(size)
        self._places: dict[tuple[int, int, int, bool], _Places] = {}

    def room(self, at: int) -> int:
        """Datagrams that have room from ``at`` on."""
        return (len(self._buffer) - at) // self.size

    def cut(self, seal: Seal, plain: memoryview, index: int, counter: int, *, parity: bool) -> memoryview:
        """The datagrams of the record one after the other, all of ``size`` bytes but, without parity, the last; of a
        record of one fragment both of its size.

        Raises ``ValueError`` where ``plain`` is empty or longer than ``max_plain``, or the counter is used up.
        """
        return self.cut_alike(seal, (plain,), index, counter, parity=parity)

    def cut_alike(
        self, seal: Seal, plains: Sequence[memoryview], index: int, counter: int, *, parity: bool, at: int = 0
    ) -> memoryview:
        """The same for records of equally many bytes under successive counters; of more than one only with parity, of
        two fragments or more, and where there is ``room``. Behind those of earlier calls that end at ``at``."""
        length, records = len(plains[0]), len(plains)
        if not 0 < length <= self.max_plain or not 0 <= counter <= MAX_COUNTER - records + 1:
            raise ValueError(f"a record of {length} bytes with counter {counter} cannot be made")
        size, view = self.size, self._view
        count = fragments(length, size)
        stride = (count + parity) * size
        sealed = length + TAG_SIZE
        start = at + HEADER_SIZE * count
        for number, plain in enumerate(plains, counter):
            seal(_nonce(number), plain, None, view[start : start + sealed])
            start += stride
        end = start - stride + sealed
        last = end - at - (records * stride - parity * size - size)
        first, second = TYPE_RECORD | count << 16 | index << 32, counter | last << 48
        if count == 1:
            _words(self._buffer, at, first, second)
            if not parity:
                return view[:end]
            view[end : 2 * end - at] = view[at:end]
            self._buffer[end + 1] = PARITY
            return view[: 2 * end - at]
        places = self._places.get((count, at, records, parity)) or self._place(count, at, records, parity)
        places.kept[:] = places.displaced
        np.add(places.steps, np.uint64(first), out=places.first_words)
        if records == 1:
            places.second_words[:] = second
        else:
            np.add(places.counters, np.uint64(second), out=places.second_words)
        if not parity:
            return view[:end]
        padding = size - last
        if padding:
            for behind in range(at + count * size, at + records * stride, stride):
                view[behind - padding : behind] = self._zeros[:padding]
        np.bitwise_xor.reduce(places.words, axis=1, out=places.parity)
        return view[: at + records * stride]

    def _place(self, count: int, at: int, records: int, parity: bool) -> _Places:
        if len(self._places) >= _MAX_PLACES:
            self._places.clear()
        made = _Places(self._buffer, self.size, count, at, records, parity=parity)
        self._places[count, at, records, parity] = made
        return made
