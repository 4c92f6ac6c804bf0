"""Many data messages of one session and one size side by side, sealed or opened with the session's cipher alone.

Per packet the AEAD alone is called, by ``map`` on views that are made once for each size: a loop that makes slices and
nonces on the spot takes 0.3 us more for each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import numpy as np

from qtunnel.wireguard.messages import DATA_HEADER, MIN_DATA_SIZE, TYPE_DATA
from qtunnel.wireguard.packets import IPV4_HEADER, IPV6_HEADER

MAX_RUN: Final = 64
"""Packets in a run: as many as one UDP_SEGMENT call sends on any kernel."""

_LARGEST: Final = 65536
"""Bytes of a packet with its padding."""

_MAX_LAYOUTS: Final = 32
"""Sizes whose views are kept: about 20 kB each. Flows of one path have few sizes."""

_HEADER: Final = DATA_HEADER.size
_STEPS: Final = np.arange(MAX_RUN, dtype=np.uint64)

Words = np.ndarray[Any, np.dtype[np.uint64]]
Column = np.ndarray[Any, np.dtype[Any]]


class _Nonces:
    """Room for the nonces of a run: four zero bytes and the counter (white paper section 5.4.6)."""

    def __init__(self) -> None:
        buffer = bytearray(12 * MAX_RUN)
        view = memoryview(buffer)
        self.counters: Words = np.ndarray((MAX_RUN,), "<u8", buffer, 4, (12,))
        self.views = [view[at : at + 12] for at in range(0, len(buffer), 12)]
        self._first: Words = np.zeros((), np.uint64)  # as an array: numpy takes 2 us to make one of a number
        self._made: Words = np.empty(MAX_RUN, np.uint64)

    def begin(self, counter: int) -> Words:
        """Make them the nonces of a whole run from ``counter`` on; its counters."""
        self._first[()] = counter
        np.add(_STEPS, self._first, out=self._made)
        self.counters[...] = self._made
        return self._made


class _SealLayout:
    """Where the parts of messages with ``stride`` bytes of packet are."""

    def __init__(self, source: memoryview, target: memoryview, stride: int) -> None:
        self._source, self._target = source, target
        self._stride, self._size = stride, stride + MIN_DATA_SIZE
        rows = min(MAX_RUN, len(target) // self._size)
        self._kinds: Words = np.ndarray((rows,), "<u8", target, 0, (self._size,))
        self._counters: Words = np.ndarray((rows,), "<u8", target, 8, (self._size,))
        self.kind = self.written = 0
        """The first eight bytes of how many messages that are there."""
        self.sources: list[memoryview] = []
        self.targets: list[memoryview] = []
        self.use(rows)

    def use(self, count: int) -> None:
        """Columns of so many messages; kept, since mostly there are as many as the time before."""
        self.count = count
        self.kinds, self.counters = self._kinds[:count], self._counters[:count]

    def reach(self, packets: int, messages: int) -> None:
        """Have views of so many; made as they are needed, since a size that is rare comes in small runs."""
        stride, size = self._stride, self._size
        for at in range(len(self.sources) * stride, packets * stride, stride):
            self.sources.append(self._source[at : at + stride])
        for at in range(len(self.targets) * size, messages * size, size):
            self.targets.append(self._target[at + _HEADER : at + size])


class RowSealer:
    """Seals packets that lie at equal distances from the start of one buffer, with the session's cipher alone."""

    def __init__(self, source: bytearray) -> None:
        self._source = memoryview(source)
        # numpy leaves it to the kernel to clear: in memory only as far as it is used
        self._view = np.zeros(MAX_RUN * (_LARGEST + MIN_DATA_SIZE), np.uint8).data
        self._nonces = _Nonces()
        self._layouts: dict[int, _SealLayout] = {}
        self._written: _SealLayout | None = None

    def seal(
        self, seal: Callable[..., int], index: int, counter: int, stride: int, first: int, count: int, last: int
    ) -> memoryview:
        """The messages for ``count`` padded packets of ``stride`` bytes from number ``first`` on, the last of ``last``
        bytes, one after the other. Valid until the next call.

        seal: ``encrypt_into`` of the session. index: its peer's receiver index. counter: of the first message; all are
        to be new. ``count`` is at most MAX_RUN.
        """
        layout = self._layouts.get(stride) or self._layout(stride)
        size = stride + MIN_DATA_SIZE
        if count != layout.count:
            layout.use(count)
        kind = TYPE_DATA | index << 32
        if layout is not self._written or kind != layout.kind or count > layout.written:
            self._written, layout.kind, layout.written = layout, kind, count
            layout.kinds[...] = kind
        nonces = self._nonces
        layout.counters[...] = nonces.begin(counter)[:count]
        full = count if last == stride else count - 1
        if len(layout.sources) < first + full or len(layout.targets) < full:
            layout.reach(first + full, full)
        deque(map(seal, nonces.views, layout.sources[first : first + full], repeat(None), layout.targets), maxlen=0)
        end = full * size
        if full < count:
            at = (first + full) * stride
            end += last + MIN_DATA_SIZE
            seal(nonces.views[full], self._source[at : at + last], None, self._view[full * size + _HEADER : end])
        return self._view[:end]

    def _layout(self, stride: int) -> _SealLayout:
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        made = self._layouts[stride] = _SealLayout(self._source, self._view, stride)
        return made


class _HeaderColumns:
    """What delivery depends on in the IP headers of a run, each a column over all packets."""

    def __init__(self, target: bytearray, rows: int, stride: int) -> None:
        def column(kind: str, at: int) -> Column:
            return np.ndarray((rows,), kind, target, at, (stride,))

        self.versions = column("V1", 0)
        self.starts = {4: column("V4", 0), 6: column("V6", 0)}
        self.lengths = {4: column(">u2", 2), 6: column(">u2", 4)}
        self.sources = {4: column("V4", 12), 6: column("V16", 8)}

    def lengths_of_one_flow(self, count: int, first: int) -> tuple[list[int], int]:
        """Bytes of each packet, where all have the version and source of the first, whose first byte that is, and the
        most of them; 0 for that where they have not, or where one is too short.

        Columns are compared as bytes, which takes a third of the time that numpy takes to compare their elements.
        """
        version = first >> 4
        if version not in self.lengths:
            return [], 0
        sources = self.sources[version][:count].tobytes()
        if sources != sources[: len(sources) // count] * count:
            return [], 0
        fixed = 0 if version == 4 else IPV6_HEADER
        starts = self.starts[version][:count].tobytes()
        size = len(starts) // count
        if starts[:-2] == (starts[:size] * count)[:-2]:  # usually all are alike up to the length, and that but the last
            length, last = (starts[size - 2] << 8 | starts[size - 1]) + fixed, (starts[-2] << 8 | starts[-1]) + fixed
            lengths = [length] * count
            lengths[-1] = last
            least, most = (last, length) if last < length else (length, last)
        elif self.versions[:count].tobytes() == bytes((first,)) * count:
            lengths = [length + fixed for length in self.lengths[version][:count].tolist()]
            least, most = min(lengths), max(lengths)
        else:
            return [], 0
        return lengths, most if least >= IPV4_HEADER else 0


class _OpenLayout:
    """Where the parts of messages of ``size`` bytes from ``offset`` on are, and where their packets go."""

    def __init__(self, source: bytearray, offset: int, size: int, target: bytearray, count: int) -> None:
        """For ``count`` messages and, where there is room, up to twice as many. Nobody has authenticated them yet, so
        what this costs is in proportion to what they are."""
        stride = size - MIN_DATA_SIZE
        # The last one may be cut short by the buffer's end.
        rows = min(1 << count.bit_length(), MAX_RUN, (len(source) - offset - _HEADER) // size + 1)
        view, out = memoryview(source), memoryview(target)
        self.kinds: Words = np.ndarray((rows,), "<u8", source, offset, (size,))
        self.counters: Words = np.ndarray((rows,), "<u8", source, offset + 8, (size,))
        starts = range(offset, offset + rows * size, size)
        self.sources = [view[at + _HEADER : at + size] for at in starts]
        self.targets = [out[at * stride : (at + 1) * stride] for at in range(rows)]
        self.rows = rows = min(rows, len(target) // stride)
        self.headers = _HeaderColumns(target, rows, stride) if stride >= IPV6_HEADER else None


@dataclass(frozen=True, slots=True)
class Rows:
    """Data messages of one session, one after the other: ``count`` of them, ``full`` of ``size`` bytes each, and, where
    that leaves one, the last one of ``last`` bytes. kind: their type, with the three reserved bytes. offset: of the
    first in the buffer."""

    kind: int
    index: int
    offset: int
    size: int
    count: int
    full: int
    last: int
    layout: _OpenLayout

    @property
    def stride(self) -> int:
        """Bytes from packet to packet."""
        return self.size - MIN_DATA_SIZE

    @property
    def sizes(self) -> list[int]:
        """Bytes of each packet with its padding."""
        return [self.stride] * (self.count - 1) + [self.last - MIN_DATA_SIZE]


class RowOpener:
    """Opens messages of one session that lie side by side, with the session's cipher alone.

    Who calls has to see that each counter is new, and that its peer may send from that source.
    """

    def __init__(self, source: bytearray) -> None:
        self._source = source
        self._view = memoryview(source)
        self.buffer = bytearray(len(source))
        """Where the packets go."""
        self._plain = memoryview(self.buffer)
        self._nonces = _Nonces()
        self._layouts: dict[tuple[int, int], _OpenLayout] = {}

    def look(self, offset: int, length: int, size: int) -> Rows | None:
        """The messages at ``source[offset : offset + length]``, of ``size`` bytes each, the last perhaps shorter; None
        where they have not all the same type and receiver index, or one is too short.

        At most MAX_RUN of them.
        """
        count = -(-length // size)
        last = length - (count - 1) * size
        if size <= MIN_DATA_SIZE or last < MIN_DATA_SIZE:
            return None
        layout = self._layouts.get((offset, size))
        if layout is None or count > layout.rows:
            layout = self._layout(offset, size, count)
        kinds = layout.kinds[:count].tobytes()
        if kinds != kinds[:8] * count:
            return None
        first = int.from_bytes(kinds[:8], "little")
        full = count if last == size else count - 1
        return Rows(first & 0xFFFFFFFF, first >> 32, offset, size, count, full, last, layout)

    def unseal(self, rows: Rows, unseal: Callable[..., int]) -> list[int]:
        """Open all; the counter of each. Raises ``InvalidTag`` where one is not authentic."""
        offset, size, count, full, last, layout = rows.offset, rows.size, rows.count, rows.full, rows.last, rows.layout
        made = self._nonces.counters
        made[:count] = layout.counters[:count]
        nonces = self._nonces.views
        deque(map(unseal, nonces, layout.sources[:full], repeat(None), layout.targets), maxlen=0)
        if full < count:
            start = offset + full * size
            at = full * rows.stride
            target = self._plain[at : at + last - MIN_DATA_SIZE]
            unseal(nonces[full], self._view[start + _HEADER : start + last], None, target)
        counters: list[int] = made[:count].tolist()
        return counters

    def lengths_of_one_flow(self, rows: Rows) -> list[int]:
        """Bytes of each packet without its padding, where all are sound and have the first one's source; else an empty
        list."""
        headers = rows.layout.headers
        if headers is None or not 2 < rows.count <= rows.layout.rows:
            return []
        room = rows.last - MIN_DATA_SIZE
        if room < IPV6_HEADER:
            return []
        lengths, most = headers.lengths_of_one_flow(rows.count, self._plain[0])
        return lengths if 0 < most <= rows.stride and lengths[-1] <= room else []

    def _layout(self, offset: int, size: int, count: int) -> _OpenLayout:
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        made = self._layouts[offset, size] = _OpenLayout(self._source, offset, size, self.buffer, count)
        return made
