"""The headers of successive packets of one form, laid into a buffer at equal distances."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qtunnel.offload.headers import (
    IPV4_ID,
    TCP,
    TCP_SEQUENCE,
    Form,
    read16,
    read64,
    set_ipv4_checksum,
    write16,
)

Array = np.ndarray[Any, np.dtype[Any]]

_ID_STEP: Final = (1 << 48) - 1
"""From packet to packet: IPv4's ID, the highest 16 of 64 bits, counts up, and the checksum, the lowest, down."""

_add = np.add


class _Word:
    """Eight bytes of the headers, big-endian, that grow by the same from packet to packet."""

    def __init__(self, at: int, step: int, buffer: bytearray, stride: int, most: int) -> None:
        self.at = at
        self.base: Array = np.zeros((), np.uint64)  # as an array: numpy takes 1 us to make one of a number
        self._steps = np.arange(most, dtype=np.uint64) * np.uint64(step)
        self._sums = np.empty(most, np.uint64)
        self._column = np.ndarray((most,), np.dtype("<u8"), buffer, at, (stride,))
        self.use(most)

    def use(self, count: int) -> None:
        self.steps, self.sums, self.column = self._steps[:count], self._sums[:count], self._column[:count]


class Progression:
    """Lays headers that go on from packet to packet: IPv4's ID counts up, its checksum down, and TCP's sequence number
    grows by the payload.

    What changes lies in two words of 64 bits, of which the wrapping parts are the highest. So all packets take one
    addition for each word; their other bytes are one copy of the first one's.
    """

    def __init__(self, form: Form, payload: int, buffer: bytearray, stride: int, most: int) -> None:
        """``payload``: bytes that each packet carries; ``most``: the greatest number of packets."""
        self._form, self._buffer, self._stride = form, buffer, stride
        self._first = bytearray(form.size)
        # an element of a void type is copied in one go, 2.8 times as fast as a row of bytes
        whole = np.dtype(f"V{form.size}")
        self._template: Array = np.ndarray((), whole, self._first)
        self._all: Array = np.ndarray((most,), whole, buffer, 0, (stride,))
        self._id = _Word(IPV4_ID, _ID_STEP, buffer, stride, most) if form.version == 4 else None
        at, step = form.transport + TCP_SEQUENCE, payload << 32
        self._sequence = _Word(at, step, buffer, stride, most) if form.protocol == TCP else None
        self._use(most)

    def _use(self, count: int) -> None:
        """Views of ``count`` packets; kept, since mostly there are as many as the time before."""
        self._count = count
        self._rows = self._all[:count]
        for word in (self._id, self._sequence):
            if word is not None:
                word.use(count)

    def lay(self, first: bytearray, count: int, same_id: bool = False) -> None:
        """Write the headers of ``count`` packets, of which ``first`` is the first one's; ``same_id``: of one IPv4 ID.

        All else, the transport's checksum too, stays as in ``first``.
        """
        if count != self._count:
            self._use(count)
        self._first[:] = first
        self._rows[...] = self._template
        word = self._id
        if word is not None and not same_id:
            number = read64(first, IPV4_ID)[0]
            if (number >> 48) + count > 1 << 16 or number & 0xFFFF < count:
                self._lay_ids(first, count)
            else:
                word.base[()] = number
                _add(word.steps, word.base, word.sums).byteswap(True)
                word.column[...] = word.sums
        word = self._sequence
        if word is not None:
            word.base[()] = read64(first, word.at)[0]
            _add(word.steps, word.base, word.sums).byteswap(True)
            word.column[...] = word.sums

    def _lay_ids(self, first: bytearray, count: int) -> None:
        """IPv4's IDs and checksums one by one, where one of them wraps."""
        for index in range(1, count):
            header = memoryview(self._buffer)[index * self._stride :][: self._form.transport]
            write16(header, IPV4_ID, (read16(first, IPV4_ID)[0] + index) & 0xFFFF)
            set_ipv4_checksum(header, self._form)
