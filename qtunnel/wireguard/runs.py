"""Runs of data messages: many packets of one size sealed, or opened, with a few calls for all of them.

Per packet the AEAD alone is called, by ``map`` on views that are made once for each size: a loop that makes slices and
nonces on the spot takes 0.3 us more for each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, Final, NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.limits import REJECT_AFTER_MESSAGES
from qtunnel.wireguard.messages import DATA_HEADER, MIN_DATA_SIZE, TYPE_DATA
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.session import Keypair
from qtunnel.wireguard.state import DeviceState, Drop
from qtunnel.wireguard.transport import IPV4_HEADER, IPV6_HEADER, Transport

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


class RunSealer:
    """Seals packets that lie at equal distances from the start of one buffer."""

    def __init__(self, transport: Transport, source: bytearray) -> None:
        self._transport = transport
        self._source = memoryview(source)
        # numpy leaves it to the kernel to clear: in memory only as far as it is used
        self._view = np.zeros(MAX_RUN * (_LARGEST + MIN_DATA_SIZE), np.uint8).data
        self._nonces = _Nonces()
        self._layouts: dict[int, _SealLayout] = {}
        self._written: _SealLayout | None = None

    def seal(
        self, peer: Peer, keypair: Keypair, stride: int, first: int, count: int, last: int, now: float
    ) -> tuple[memoryview, int]:
        """The messages for ``count`` padded packets of ``stride`` bytes from number ``first`` on, the last of ``last``
        bytes, one after the other, and the size of all but the last. Valid until the next call.

        ``count`` is at most MAX_RUN, and the session one that may send.
        """
        layout = self._layouts.get(stride) or self._layout(stride)
        counter = keypair.send_counter
        keypair.send_counter = counter + count
        size = stride + MIN_DATA_SIZE
        if count != layout.count:
            layout.use(count)
        kind = TYPE_DATA | keypair.remote_index << 32
        if layout is not self._written or kind != layout.kind or count > layout.written:
            self._written, layout.kind, layout.written = layout, kind, count
            layout.kinds[...] = kind
        nonces = self._nonces
        layout.counters[...] = nonces.begin(counter)[:count]
        full = count if last == stride else count - 1
        if len(layout.sources) < first + full or len(layout.targets) < full:
            layout.reach(first + full, full)
        seal: Callable[..., int] = keypair.seal
        deque(map(seal, nonces.views, layout.sources[first : first + full], repeat(None), layout.targets), maxlen=0)
        end = full * size
        if full < count:
            at = (first + full) * stride
            end += last + MIN_DATA_SIZE
            seal(nonces.views[full], self._source[at : at + last], None, self._view[full * size + _HEADER : end])
        self._transport.sent(peer, keypair, end, now, data=True)
        return self._view[:end], size

    def _layout(self, stride: int) -> _SealLayout:
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        made = self._layouts[stride] = _SealLayout(self._source, self._view, stride)
        return made


class OpenedRun(NamedTuple):
    """Packets of one peer at ``buffer[i * stride :]``; lengths: bytes of each, 0 for one that was dropped."""

    peer: Peer
    stride: int
    lengths: list[int]


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

    def __init__(self, source: bytearray, offset: int, size: int, target: bytearray) -> None:
        self.stride = stride = size - MIN_DATA_SIZE
        # The last one may be cut short by the buffer's end.
        rows = min(MAX_RUN, (len(source) - offset - _HEADER) // size + 1)
        view, out = memoryview(source), memoryview(target)
        self.kinds: Words = np.ndarray((rows,), "<u8", source, offset, (size,))
        self.counters: Words = np.ndarray((rows,), "<u8", source, offset + 8, (size,))
        starts = range(offset, offset + rows * size, size)
        self.sources = [view[at + _HEADER : at + size] for at in starts]
        self.targets = [out[at * stride : (at + 1) * stride] for at in range(rows)]
        self.rows = rows = min(rows, len(target) // stride)
        self.headers = _HeaderColumns(target, rows, stride) if stride >= IPV6_HEADER else None


class RunOpener:
    """Opens data messages of one size that lie one after the other; the packets are in ``buffer``."""

    def __init__(self, state: DeviceState, transport: Transport, source: bytearray) -> None:
        self._state = state
        self._transport = transport
        self._source = source
        self._view = memoryview(source)
        self.buffer = bytearray(len(source))
        self._plain = memoryview(self.buffer)
        self._nonces = _Nonces()
        self._layouts: dict[tuple[int, int], _OpenLayout] = {}

    def open(self, offset: int, length: int, size: int, endpoint: Endpoint, now: float) -> Iterator[OpenedRun]:
        """The messages at ``source[offset : offset + length]``, each of ``size`` bytes, the last perhaps shorter.

        One result for each session that is met; each is valid until the next.
        """
        if length <= size * MAX_RUN:
            return self._open_part(offset, length, size, endpoint, now)
        return self._open_parts(offset, length, size, endpoint, now)

    def _open_parts(self, offset: int, length: int, size: int, endpoint: Endpoint, now: float) -> Iterator[OpenedRun]:
        while length > 0:
            part = min(length, size * MAX_RUN)
            yield from self._open_part(offset, part, size, endpoint, now)
            offset, length = offset + part, length - part

    def _open_part(self, offset: int, length: int, size: int, endpoint: Endpoint, now: float) -> Iterator[OpenedRun]:
        drops = self._state.drops
        count = -(-length // size)
        last = length - (count - 1) * size
        if size <= MIN_DATA_SIZE or last < MIN_DATA_SIZE:
            yield from self._singly(offset, length, size, endpoint, now)
            return
        layout = self._layouts.get((offset, size)) or self._layout(offset, size)
        kinds = layout.kinds[:count].tobytes()
        if kinds != kinds[:8] * count:
            yield from self._singly(offset, length, size, endpoint, now)
            return
        kind = int.from_bytes(kinds[:8], "little")
        if kind & 0xFFFFFFFF != TYPE_DATA:
            drops[Drop.MALFORMED] += count
            return
        keypair = self._state.sessions.get(kind >> 32)
        if keypair is None:
            drops[Drop.UNKNOWN_INDEX] += count
            return
        if keypair.expired(now):
            drops[Drop.EXPIRED] += count
            return
        nonces = self._nonces.counters
        nonces[:count] = layout.counters[:count]
        full = count if last == size else count - 1
        try:
            self._unseal(keypair, layout, offset, size, full, count, last)
        except InvalidTag:
            yield from self._singly(offset, length, size, endpoint, now)
            return
        counters: list[int] = nonces[:count].tolist()
        first = counters[0]
        peer = keypair.peer
        fresh: list[bool] = []
        in_order = counters == list(range(first, first + count))
        if not in_order or counters[-1] >= REJECT_AFTER_MESSAGES or not keypair.window.accept_run(first, count):
            fresh = [counter < REJECT_AFTER_MESSAGES and keypair.window.accept(counter) for counter in counters]
            refused = fresh.count(False)
            if refused:
                drops[Drop.REPLAYED] += refused
                if refused == count:
                    return
                peer.rx_bytes -= refused * size - (0 if fresh[-1] else size - last)
            else:
                fresh = []
        self._transport.authenticated(peer, keypair, endpoint, now)
        peer.rx_bytes += length
        if full or last > MIN_DATA_SIZE:
            peer.timers.data_received(now)
        yield OpenedRun(peer, size - MIN_DATA_SIZE, self._inner_lengths(peer, layout, count, last, fresh))

    def _unseal(
        self, keypair: Keypair, layout: _OpenLayout, offset: int, size: int, full: int, count: int, last: int
    ) -> None:
        unseal: Callable[..., int] = keypair.unseal
        nonces = self._nonces.views
        deque(map(unseal, nonces, layout.sources[:full], repeat(None), layout.targets), maxlen=0)
        if full < count:
            start = offset + full * size
            at = full * (size - MIN_DATA_SIZE)
            target = self._plain[at : at + last - MIN_DATA_SIZE]
            unseal(nonces[full], self._view[start + _HEADER : start + last], None, target)

    def _inner_lengths(self, peer: Peer, layout: _OpenLayout, count: int, last: int, fresh: list[bool]) -> list[int]:
        """Bytes of each packet without its padding, 0 where it is not to be delivered.

        last: of the last message; fresh: which are to be delivered, empty for all.
        """
        stride, room = layout.stride, last - MIN_DATA_SIZE
        check = self._transport.inner_length
        if not fresh and 2 < count <= layout.rows and layout.headers is not None and room >= IPV6_HEADER:
            # Usually all are of one flow: then its source address is looked up once.
            lengths, most = layout.headers.lengths_of_one_flow(count, self._plain[0])
            if 0 < most <= stride and lengths[-1] <= room:
                if check(peer, self._plain, 0, stride):
                    return lengths
                self._state.drops[Drop.WRONG_SOURCE] += count - 1
                return [0] * count
        sizes = [stride] * (count - 1) + [room]
        return [
            check(peer, self._plain, at * stride, size) if size and is_fresh else 0
            for at, (size, is_fresh) in enumerate(zip(sizes, fresh or [True] * count, strict=True))
        ]

    def _singly(self, offset: int, length: int, size: int, endpoint: Endpoint, now: float) -> Iterator[OpenedRun]:
        """The same, message by message."""
        for start in range(offset, offset + length, size):
            packet = self._transport.open(self._view[start : min(start + size, offset + length)], endpoint, now)
            if packet is not None:
                self._plain[: len(packet)] = packet
                _, index, _ = DATA_HEADER.unpack_from(self._source, start)
                yield OpenedRun(self._state.sessions[index].peer, len(packet), [len(packet)])

    def _layout(self, offset: int, size: int) -> _OpenLayout:
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        made = self._layouts[offset, size] = _OpenLayout(self._source, offset, size, self.buffer)
        return made
