"""Packets that came side by side become few writes to the TUN: each run of one flow one super-packet.

Order is kept, and nothing is lost or changed but what a super-packet cannot tell: the IPv4 IDs of a run that repeats
one (they count up when it is split again). What cannot be merged, or not be understood, goes out alone as it came.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from qtunnel.offload import checksum, headers, vnet
from qtunnel.offload.headers import (
    CHECKSUM_OFFSET,
    CWR,
    FIN,
    IPV4_ID,
    PSH,
    RST,
    SYN,
    TCP,
    TCP_FLAGS,
    TCP_SEQUENCE,
    UDP,
    URG,
    Form,
)
from qtunnel.offload.runs import Shape, Stretch

Write = list[bytes | bytearray | memoryview]
"""Buffers for one ``os.writev``: a vnet header, alone or with the packet's headers, then views of what follows."""

MAX_STRETCHES: Final = 16
"""Packet sizes whose views are kept: a path has few full sizes, other sizes come and go. Usually 20 kB each; with the
smallest packets in 64 kB, 300 kB each, so 10 MB at worst."""

_ALONE: Final = FIN | SYN | RST | PSH | URG
"""TCP flags of a packet that begins no run."""

_MAX_MISSES: Final = 8
"""Predictions without a match in one stretch of packets before the rest go out alone: each costs as much as the merging
of a whole run, and what misses so often is no bulk traffic, or is meant to cost."""

_read_numbers = struct.Struct(">IIxB").unpack_from
"""TCP's sequence and acknowledgment numbers, and its flags."""

_pack_header = vnet.HEADER.pack


class Coalescer:
    """Coalesces packets that lie in one buffer. Writes hold views of it: write before it is filled again."""

    def __init__(self, buffer: bytearray, uso: bool) -> None:
        """``uso``: whether the TUN takes UDP super-packets (TUN_F_USO4 and TUN_F_USO6)."""
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._uso = uso
        self._stretches: OrderedDict[tuple[int, int, int], Stretch] = OrderedDict()

    def coalesce(self, offset: int, stride: int, count: int, length: int, last_length: int) -> list[Write]:
        """Writes for ``count`` packets, ``stride`` bytes apart from ``offset``: of ``length`` bytes each, but the last.

        Lengths are true lengths, without padding, within the stride; the packets may hold anything.
        """
        writes: list[Write] = []
        if last_length == length:
            self._stretch(writes, offset, stride, 0, count, length, 0)
            return writes
        done = 0
        if count > 1:
            done = self._stretch(writes, offset, stride, 0, count - 1, length, last_length)
        if done < count:
            self._stretch(writes, offset, stride, count - 1, count, last_length, 0)
        return writes

    def coalesce_mixed(self, offset: int, stride: int, lengths: Sequence[int]) -> list[Write]:
        """As ``coalesce``, for packets of these lengths, in bytes."""
        count = len(lengths)
        if count:
            length, last_length = lengths[0], lengths[-1]
            if lengths.count(length) + (last_length != length) == count:  # so it is where a burst was a super-packet
                return self.coalesce(offset, stride, count, length, last_length)
        writes: list[Write] = []
        start = 0
        while start < count:
            length = lengths[start]
            end = start + 1
            while end < count and lengths[end] == length:
                end += 1
            tail = lengths[end] if end < count else 0
            start = self._stretch(writes, offset, stride, start, end, length, tail)
        return writes

    def _stretch(
        self, writes: list[Write], offset: int, stride: int, start: int, end: int, length: int, tail: int
    ) -> int:
        """Writes for packets ``start`` to ``end`` of one length, and the one at ``end``, of ``tail`` bytes, if it
        belongs to the last run; the number of the packet to go on with."""
        if not length:
            return end
        if tail >= length:
            tail = 0
        if end - start + bool(tail) == 1:
            at = offset + start * stride
            writes.append([vnet.ZERO, self._view[at : at + length]])
            return end
        stretch = self._of_length(offset, stride, length)
        remainders = b""
        misses = 0
        number = start
        while number < end:
            at = offset + number * stride
            form = None
            if number + 1 < end + bool(tail) and misses < _MAX_MISSES:
                form = self._beginning(stretch, at, length, stride, length if number + 1 < end else tail)
            run = 1
            if form is not None:
                shape = stretch.shape(form)
                last = end + (tail > form.size)
                count = min(last - number, shape.longest)
                shorter = tail if number + count > end else 0
                matched = shape.matching(number, count, shorter)
                misses += matched < 2
                if matched > 1:
                    remainders = remainders or stretch.remainders(start, end)
                    full = matched - bool(shorter and matched == count)
                    shape.look(at)
                    run = _good(remainders, number - start, full, shape.remainder)
                    if run == full < matched and self._good_tail(at + full * stride, tail, form):
                        run = matched
            if run > 1 and form is not None:
                writes.append(self._merged(shape, number, run, at, stride, tail if number + run > end else 0))
                number += run
            else:  # one whose checksum is bad, too: whom it is for should see it as it came
                writes.append([vnet.ZERO, *stretch.packets(number, number + 1)])
                number += 1
        return number

    def _of_length(self, offset: int, stride: int, length: int) -> Stretch:
        key = (offset, stride, length)
        stretch = self._stretches.get(key)
        if stretch is None:
            if len(self._stretches) >= MAX_STRETCHES:
                self._stretches.popitem(last=False)
            stretch = self._stretches[key] = Stretch(self._buffer, offset, stride, length)
        else:
            self._stretches.move_to_end(key)
        return stretch

    def _beginning(self, stretch: Stretch, at: int, length: int, stride: int, next_length: int) -> Form | None:
        """The form of a packet that may begin a run with the next one, else None."""
        buffer, following = self._buffer, at + stride
        # addresses and ports; where they are elsewhere, behind options, the packet is not merged anyway
        first, stop = (12, 24) if buffer[at] >> 4 == 4 else (8, 44)
        if buffer[at + first : at + stop] != buffer[following + first : following + stop]:
            return None
        form = stretch.form(at)
        if form is None:
            return None
        version, transport, size, protocol = form
        if length <= size or next_length <= size:
            return None
        if version == 4:
            if int.from_bytes(buffer[at : at + 20], "big") % checksum.MODULUS:
                return None
            if (headers.read16(buffer, following + IPV4_ID)[0] - headers.read16(buffer, at + IPV4_ID)[0]) & 0xFFFF > 1:
                return None
        if protocol == TCP:
            sequence, acknowledgment, flags = _read_numbers(buffer, at + transport + TCP_SEQUENCE)
            if flags & _ALONE:
                return None
            goes_on = (sequence + length - size) & 0xFFFFFFFF, acknowledgment
            return form if _read_numbers(buffer, following + transport + TCP_SEQUENCE)[:2] == goes_on else None
        claimed, carried = headers.read32(buffer, at + transport + headers.UDP_LENGTH)[0] >> 16, length - transport
        unchecked = headers.read16(buffer, at + transport + CHECKSUM_OFFSET[UDP])[0] == 0
        return form if self._uso and claimed == carried and not unchecked else None

    def _good_tail(self, at: int, length: int, form: Form) -> bool:
        """Whether the checksum of a shorter last packet, of which the headers match, verifies."""
        packet = self._buffer[at : at + length]
        value = checksum.pseudo_header(packet, form.version, form.protocol, length - form.transport)
        return (value + checksum.total(packet[form.transport :])) % checksum.MODULUS == 0

    def _merged(self, shape: Shape, number: int, run: int, at: int, stride: int, tail: int) -> Write:
        """One super-packet for ``run`` packets, the last of ``tail`` bytes if not 0."""
        form = shape.form
        _, transport, size, protocol = form
        last = at + (run - 1) * stride
        length = size + (run - 1) * shape.payload + (tail - size if tail else shape.payload)
        head = self._buffer[at : at + size]
        headers.change_length(head, form, size + shape.payload, length)
        gso_type = shape.gso_type
        if protocol == TCP:
            flags = head[transport + TCP_FLAGS] = (
                head[transport + TCP_FLAGS] | self._buffer[last + transport + TCP_FLAGS]
            )
            if flags & CWR:
                gso_type |= vnet.GSO_ECN
        headers.write16(head, shape.field, (shape.pseudo + length) % checksum.MODULUS)
        header = _pack_header(vnet.NEEDS_CSUM, gso_type, size, shape.payload, transport, shape.field - transport)
        if tail:
            return [header + head, *shape.payloads(number, number + run - 1), self._view[last + size : last + tail]]
        return [header + head, *shape.payloads(number, number + run)]


def _good(remainders: bytes, number: int, count: int, wanted: bytes) -> int:
    """How many of ``count`` packets from ``number`` have the remainder wanted."""
    came = remainders[number * 4 : (number + count) * 4]
    if came == wanted * count:
        return count
    good = 0
    while came[good * 4 : good * 4 + 4] == wanted:
        good += 1
    return good
