"""Putting records together again from datagrams that may be late, doubled, missing or forged."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qtunnel.wireguard.record_format import (
    HEADER,
    HEADER_SIZE,
    MAX_BUFFER,
    MAX_COUNT,
    MAX_COUNTER,
    MIN_SIZE,
    PARITY,
    SIZE_STEP,
    TAG_SIZE,
    TYPE_RECORD,
)

MAX_PARTIAL = 8
"""Records of one session that wait for datagrams. Datagrams of two records overtake each other only where paths
differ by more than a record takes, 0.1 ms; eight of them are half a megabyte."""

_NUMBERS = bytes(range(MAX_COUNT))
_MAX_HEALED = 64
"""Records healed a moment ago whose missing fragment may come late."""

_MAX_PLACES = 256
"""Combinations of offset, count and datagram size whose views are kept: a few of each, half a kilobyte."""

Pieces = npt.NDArray[np.void]
"""Pieces of 16 bytes at equal distances."""


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record: its ciphertext with tag is ``buffer[start:end]``."""

    counter: int
    buffer: memoryview
    start: int
    end: int
    expected: int
    """Its fragments."""
    received: int
    """As many of them as had arrived."""
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


def whole_record(buffer: ReceiveBuffer, offset: int, length: int, size: int) -> Record | None:
    """The record, where ``buffer[offset : offset + length]`` holds just its fragments in order, each but the last of
    ``size`` bytes, or all of its datagrams with parity; None where it is anything else, with nothing changed.

    This is the usual case on a link that keeps UDP_SEGMENT bursts together. The ciphertext is put right in place.
    """
    kind, fragment, count, reserved, _, tail = HEADER.unpack_from(buffer.bytes, offset)
    last = tail >> 48
    if kind != TYPE_RECORD or fragment or reserved or not 0 < count <= MAX_COUNT or length > MAX_BUFFER + size:
        return None
    end = (count - 1) * size + last
    if count == 1:
        plausible = last == length and last >= HEADER_SIZE + TAG_SIZE
    else:
        whole = length == end or (length == (count + 1) * size and buffer.bytes[offset + count * size + 1] == PARITY)
        fits = MIN_SIZE <= size <= MAX_BUFFER // count and size % SIZE_STEP == 0 and HEADER_SIZE < last <= size
        plausible = whole and fits and _in_order(buffer, offset, count, size, tail)
    if not plausible:
        return None
    buffer.restore(offset, count, size)
    start = offset + HEADER_SIZE * count
    return Record(tail & MAX_COUNTER, buffer.view, start, offset + end, count, count, length)


def _in_order(buffer: ReceiveBuffer, offset: int, count: int, size: int, tail: int) -> bool:
    """Whether all are fragments of one record, each in its place."""
    if buffer.bytes[offset + 1 : offset + (count - 1) * size + 2 : size] != _NUMBERS[:count]:
        return False
    words = np.ndarray((count,), "<u8", buffer.bytes, offset + 8, (size,))
    return words.tobytes() == tail.to_bytes(8, "little") * count


class _Partial:
    """A record of which something is missing."""

    __slots__ = ("arrived", "buffer", "count", "fragments", "last", "parity", "size", "tail")

    def __init__(self, buffer: ReceiveBuffer, count: int, last: int) -> None:
        self.buffer = buffer
        self.count = count
        self.last = last
        self.fragments = 0  # a bit for each that is there
        self.size = last if count == 1 else 0  # of a datagram; 0: only the last fragment is there, which does not tell
        self.tail = b""  # the last fragment as long as its place is not known
        self.parity = b""
        self.arrived = 0  # bytes

    @property
    def received(self) -> int:
        return self.fragments.bit_count()

    def add(self, fragment: int, data: memoryview) -> None:
        """One datagram; what does not fit to the others is ignored."""
        length = len(data)
        final = fragment == self.count - 1
        if not final or length != self.last:
            # All but the last have the full size, and with parity the last one, too.
            if not self._is_size(length):
                return
            data = data[: self.last] if final else data
        if fragment == PARITY:
            if not self.parity:
                self.parity = bytes(data)
                self.arrived += length
        elif not self.fragments >> fragment & 1:
            if final and not self.size:
                self.tail = bytes(data)
                self.fragments |= 1 << fragment
            else:
                self._put(fragment, data)
            self.arrived += length

    def _is_size(self, length: int) -> bool:
        """Whether a datagram that is not the last may be so long; the first one decides."""
        if not self.size:
            fits = MIN_SIZE <= length <= MAX_BUFFER // self.count and length >= self.last and length % SIZE_STEP == 0
            if not fits:
                return False
            self.size = length
            if self.tail:
                self._put(self.count - 1, memoryview(self.tail))
        return length == self.size

    def _put(self, fragment: int, data: memoryview) -> None:
        at = fragment * self.size
        self.buffer.view[at : at + len(data)] = data
        self.fragments |= 1 << fragment

    def missing(self) -> int:
        """The fragments that are not there, as bits."""
        return ~self.fragments & (1 << self.count) - 1

    def complete(self) -> bool:
        """Whether all fragments are there, or all but one and the parity."""
        missing = self.missing()
        if not missing:
            return self.size > 0
        return not missing & (missing - 1) and bool(self.parity)

    def heal(self) -> None:
        """Make the one missing fragment of the others and the parity."""
        missing = self.missing().bit_length() - 1
        size, count = self.size, self.count
        view = self.buffer.view
        end = (count - 1) * size + self.last
        view[end : count * size] = bytes(count * size - end)
        view[missing * size : (missing + 1) * size] = self.parity
        rows = np.ndarray((count, size // 8), "<u8", self.buffer.bytes)
        np.bitwise_xor.reduce(rows, axis=0, out=rows[missing])
        self.fragments |= 1 << missing


@dataclass(slots=True)
class JoinCounters:
    """Fragments of the records that were whole in the end and authentic."""

    expected: int = 0
    received: int = 0


class RecordJoiner:
    """The records of one session that wait for datagrams: at most ``MAX_PARTIAL``. Who has the fewest fragments gives
    way, the oldest of them first, so that forged datagrams push out each other.

    seen: whether a record of that counter was delivered already. make_buffer: a buffer of MAX_BUFFER bytes.
    """

    def __init__(self, seen: Callable[[int], bool], make_buffer: Callable[[], ReceiveBuffer]) -> None:
        self.counters = JoinCounters()
        self._seen = seen
        self._make_buffer = make_buffer
        self._partial: OrderedDict[int, _Partial] = OrderedDict()
        self._healed: OrderedDict[int, int] = OrderedDict()  # counter: the fragment that was missing
        self._free: list[ReceiveBuffer] = []

    def add(self, datagram: memoryview) -> Record | None:
        """A datagram of this session; the record that it completes. Valid until the next call."""
        if len(datagram) <= HEADER_SIZE:
            return None
        kind, fragment, count, reserved, _, tail = HEADER.unpack_from(datagram)
        counter, last = tail & MAX_COUNTER, tail >> 48
        plausible = (
            kind == TYPE_RECORD
            and not reserved
            and 0 < count <= MAX_COUNT
            and HEADER_SIZE < last <= MAX_BUFFER // count
        )
        if not plausible or (fragment >= count and (fragment != PARITY or count == 1)):
            return None
        partial = self._partial.get(counter)
        if partial is None:
            if self._seen(counter):
                self._late(counter, fragment)
                return None
            partial = self._begin(counter, count, last)
        elif partial.count != count or partial.last != last:
            return None
        partial.add(fragment, datagram)
        if not partial.complete():
            return None
        del self._partial[counter]
        self._free.append(partial.buffer)
        received = partial.received
        missing = partial.missing()
        if missing:
            self._healed[counter] = missing.bit_length() - 1
            if len(self._healed) > _MAX_HEALED:
                self._healed.popitem(last=False)
            partial.heal()
        partial.buffer.restore(0, partial.count, partial.size)
        end = (partial.count - 1) * partial.size + partial.last
        start = HEADER_SIZE * partial.count
        return Record(counter, partial.buffer.view, start, end, partial.count, received, partial.arrived)

    def authentic(self, expected: int, received: int) -> None:
        """A record's tag was right: what arrived of its fragments counts."""
        self.counters.expected += expected
        self.counters.received += received

    def _late(self, counter: int, fragment: int) -> None:
        """A datagram of a record that was delivered: not lost, if it was the one that had to be healed."""
        if self._healed.get(counter) == fragment:
            del self._healed[counter]
            self.counters.received += 1

    def _begin(self, counter: int, count: int, last: int) -> _Partial:
        if len(self._partial) >= MAX_PARTIAL:
            poorest = min(self._partial, key=lambda waiting: self._partial[waiting].received)
            self._free.append(self._partial.pop(poorest).buffer)
        buffer = self._free.pop() if self._free else self._make_buffer()
        made = self._partial[counter] = _Partial(buffer, count, last)
        return made
