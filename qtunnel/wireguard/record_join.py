"""Putting records together again from datagrams that may be late, doubled, missing or forged."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from weakref import WeakSet

from qtunnel.wireguard.record_burst import ReceiveBuffer, Record
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
    TYPE_RECORD,
)

MAX_PARTIAL = 8
"""Records of one session that wait for datagrams. Datagrams of two records overtake each other only where paths
differ by more than a record takes, 0.1 ms; eight of them are half a megabyte."""

MAX_BUFFERS = 1024
"""Of all sessions of a device together, 84 MB: one for each of a hub's 1,000 peers at the same moment. Each of their
sessions could have eight, and each of the peers four sessions, which would be gigabytes."""

MAX_NEWER = 64
"""Records that may begin to wait after one, until it is taken for lost: enough that a flow of forged beginnings pushes
out none that is under way, few enough that what will never be whole is not in the way for long."""

_MAX_HEALED = 64
"""Records healed a moment ago whose missing fragment may come late."""


class JoinBuffers:
    """The buffers of a device's sessions; one is there for as long as somebody has it."""

    def __init__(self, most: int = MAX_BUFFERS) -> None:
        self._most = most
        self._living: WeakSet[ReceiveBuffer] = WeakSet()

    def make(self) -> ReceiveBuffer | None:
        """One of MAX_BUFFER bytes; None where all are in use."""
        if len(self._living) >= self._most:
            return None
        made = ReceiveBuffer(MAX_BUFFER)
        self._living.add(made)
        return made


class _Partial:
    """A record of which something is missing."""

    __slots__ = ("arrived", "begun", "buffer", "count", "fragments", "last", "parity", "size", "tail")

    def __init__(self, buffer: ReceiveBuffer, count: int, last: int, begun: int) -> None:
        self.buffer = buffer
        self.begun = begun  # its number among those that ever waited
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

    def add_run(self, first: int, count: int, datagrams: memoryview, size: int) -> None:
        """``count`` fragments from ``first`` on, ``size`` bytes each, but perhaps the last of the record."""
        full = min(count if first + count < self.count else count - 1, len(datagrams) // size)
        bits = (1 << full) - 1 << first
        if full > 1 and not self.fragments & bits and self._is_size(size):
            at = first * size
            self.buffer.view[at : at + full * size] = datagrams[: full * size]
            self.fragments |= bits
            self.arrived += full * size
            first, datagrams = first + full, datagrams[full * size :]
            count -= full
        for number in range(count):
            self.add(first + number, datagrams[number * size : (number + 1) * size])

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

    def heal(self) -> int:
        """Make the fragment that is missing of the others and the parity; -1 where none is."""
        missing = self.missing().bit_length() - 1
        if missing >= 0:
            size, count = self.size, self.count
            view = self.buffer.view
            end = (count - 1) * size + self.last
            view[end : count * size] = bytes(count * size - end)
            view[missing * size : (missing + 1) * size] = self.parity
            self.buffer.heal(0, count, size, missing)
        return missing


@dataclass(slots=True)
class JoinCounters:
    """Fragments of the records that were whole in the end and authentic; records that were whole, but not authentic."""

    expected: int = 0
    received: int = 0
    spoiled: int = 0


_Key = tuple[int, int, int, Hashable]
"""Counter, count of fragments, bytes of the last: what the headers of a record say of it. And where its datagrams came
from, so that somebody who sees them, but cannot send from where the peer does, adds nothing to the peer's records."""


class RecordJoiner:
    """The records of one session that wait for datagrams: at most ``MAX_PARTIAL``. What waits for longest gives way if
    ``MAX_NEWER`` came after it; else who has the fewest fragments, the oldest of them first, so that forged datagrams
    push out each other. One whose header tells another count or size is another record: both wait, until the tag tells.

    seen: whether a record of that counter was delivered already. make_buffer: a buffer of MAX_BUFFER bytes, None where
    there is no room; then the oldest gives way.
    """

    def __init__(self, seen: Callable[[int], bool], make_buffer: Callable[[], ReceiveBuffer | None]) -> None:
        self.counters = JoinCounters()
        self._seen = seen
        self._make_buffer = make_buffer
        self._partial: OrderedDict[_Key, _Partial] = OrderedDict()
        self._begun = 0
        self._healed: OrderedDict[int, int] = OrderedDict()  # counter: the fragment that was missing
        self._free: list[ReceiveBuffer] = []

    def __contains__(self, counter: int) -> bool:
        """Whether datagrams of that record wait for others."""
        return any(key[0] == counter for key in self._partial)

    def add(self, datagram: memoryview, source: Hashable = None) -> Record | None:
        """A datagram of this session; the record that it completes. Valid until the next call."""
        return self.add_stretch(datagram, len(datagram), bytes(datagram[1:2]), source)

    def add_stretch(
        self, datagrams: memoryview, size: int, numbers: bytes | bytearray, source: Hashable = None
    ) -> Record | None:
        """The same for datagrams whose headers differ in the fragment ``numbers`` alone, ``size`` bytes each, the last
        perhaps shorter."""
        if len(datagrams) - (len(numbers) - 1) * size <= HEADER_SIZE:
            return None
        kind, _, count, reserved, _, tail = HEADER.unpack_from(datagrams)
        counter, last = tail & MAX_COUNTER, tail >> 48
        plausible = kind == TYPE_RECORD and not reserved and 0 < count <= MAX_COUNT
        if not plausible or not HEADER_SIZE < last <= MAX_BUFFER // count:
            return None
        if any(number >= count and number != PARITY for number in numbers):
            return None
        key = counter, count, last, source
        partial = self._partial.get(key)
        if partial is None:
            if self._seen(counter):
                self.late(counter, numbers)
                return None
            partial = self._begin(key)
            if partial is None:
                return None
        first, run = numbers[0], len(numbers) - (numbers[-1] == PARITY)
        if run > 1 and numbers[:run] == NUMBERS[first : first + run]:
            partial.add_run(first, run, datagrams[: run * size], size)
            datagrams, numbers = datagrams[run * size :], numbers[run:]
        for place, number in enumerate(numbers):
            partial.add(number, datagrams[place * size : (place + 1) * size])
        return self._whole(key, partial) if partial.complete() else None

    def _whole(self, key: _Key, partial: _Partial) -> Record:
        del self._partial[key]
        self._free.append(partial.buffer)
        missing = partial.heal()
        partial.buffer.restore(0, partial.count, partial.size)
        end = (partial.count - 1) * partial.size + partial.last
        start = HEADER_SIZE * partial.count
        return Record(key[0], partial.buffer.view, start, end, partial.count, missing, partial.arrived)

    def authentic(self, record: Record) -> None:
        """A record's tag was right: what arrived of it counts."""
        self.counters.expected += record.expected
        self.counters.received += record.expected
        if record.missing >= 0:
            self.counters.received -= 1
            self._healed[record.counter] = record.missing
            if len(self._healed) > _MAX_HEALED:
                self._healed.popitem(last=False)

    def late(self, counter: int, numbers: bytes | bytearray) -> None:
        """Datagrams of a record that was delivered: one is not lost, if it was what had to be healed."""
        missing = self._healed.get(counter)
        if missing is not None and missing in numbers:
            del self._healed[counter]
            self.counters.received += 1

    def _begin(self, key: _Key) -> _Partial | None:
        self._begun += 1
        if len(self._partial) >= MAX_PARTIAL:
            victim = next(iter(self._partial))
            if self._begun - self._partial[victim].begun <= MAX_NEWER:
                victim = min(self._partial, key=lambda waiting: self._partial[waiting].received)
            self._free.append(self._partial.pop(victim).buffer)
        buffer = self._free.pop() if self._free else self._make_buffer()
        if buffer is None:
            if not self._partial:
                return None
            buffer = self._partial.popitem(last=False)[1].buffer
        _, count, last, _ = key
        made = self._partial[key] = _Partial(buffer, count, last, self._begun)
        return made
