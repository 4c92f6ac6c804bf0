"""A super-packet becomes the packets that the kernel would make of it (``tcp_gso_segment``, ``__udp_gso_segment``).

Standard packets with real checksums, zero-padded for WireGuard (white paper section 5.4.6), side by side in one buffer.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from qtunnel.offload import checksum, headers, vnet
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import CHECKSUM_OFFSET, CWR, DATA_OFFSET, FIN, PSH, TCP, TCP_FLAGS, UDP, Form
from qtunnel.offload.progression import Progression

PADDING: Final = 16
"""Packets are padded to a multiple of this, at most to the MTU."""

MAX_PACKET: Final = 65535

MAX_SEGMENTS: Final = 1366
"""65,535 bytes in segments of 48, the least that Linux's TCP makes (tcp_min_snd_mss); UDP_SEGMENT makes 128 at most."""

_OUTPUT_SIZE: Final = MAX_PACKET + MAX_SEGMENTS * (headers.MAX_HEADERS + PADDING)

MAX_LAYOUTS: Final = 32
"""Shapes of super-packets whose views are kept: a path has one or two (with TCP timestamps and without), a UDP sender
one per datagram size. A shape of usual size takes 10 kB, the largest possible 300 kB, so 10 MB is the worst case;
making it anew costs 20 us."""

MAX_PLANS: Final = 256
"""Lengths of super-packets that are known: under 100 kB. A flow that is short of window or of data has a few."""

_signature_v4 = struct.Struct("14s2x4s").unpack_from
_signature_v6 = struct.Struct("18s").unpack_from
"""Vnet header and IP header as far as ``parse`` looks at them, and with what seldom changes in a flow; not IPv4's ID.
Besides, it looks at TCP's data offset and at the length."""
_SIGNED: Final = vnet.SIZE + 60
"""Bytes that hold the signature, and the headers of TCP without options."""

_GSO_FORMS: Final = {
    vnet.GSO_TCPV4: frozenset(((4, TCP),)),
    vnet.GSO_TCPV6: frozenset(((6, TCP),)),
    vnet.GSO_UDP_L4: frozenset(((4, UDP), (6, UDP))),
}
"""IP version and protocol that a GSO type goes with."""


Column = np.ndarray[Any, np.dtype[Any]]


@dataclass(slots=True)
class Split:
    """Packets in the splitter's buffer, valid until its next call. All sizes are bytes."""

    count: int
    length: int
    """Of each packet but the last, without its padding."""
    last_length: int
    stride: int
    """From packet to packet: a full packet with its padding."""
    last_padded: int
    rows: list[memoryview]
    """At least ``count`` views of ``stride`` bytes each; of the last packet only ``last_padded`` count."""
    buffer: bytearray


class SuperPacket(NamedTuple):
    """A checked super-packet: positions in the buffer, and what it is to be cut into."""

    start: int
    end: int
    form: Form
    header: vnet.VnetHeader
    pseudo: int
    """Sum of the pseudo-header without the length."""

    @property
    def payload(self) -> int:
        """Bytes behind the headers, at least 1."""
        return self.end - self.start - self.form.size

    @property
    def segments(self) -> int:
        return -(-self.payload // self.header.gso_size)


def padded(length: int, mtu: int) -> int:
    """Bytes of a packet once padded: to a multiple of 16, but not beyond the MTU."""
    return min(length + -length % PADDING, max(length, mtu))


def parse(buffer: bytearray, offset: int, length: int, header: vnet.VnetHeader) -> SuperPacket:
    """Check the super-packet behind the vnet header at ``offset``; ``OffloadError`` names what is wrong."""
    start, end = offset + vnet.SIZE, offset + length
    form = headers.parse(buffer, start, end)
    flags, gso_type, _, gso_size, csum_start, csum_offset = header
    if (form.version, form.protocol) not in _GSO_FORMS[gso_type & ~vnet.GSO_ECN]:
        raise OffloadError(f"GSO type {gso_type:#x} of IPv{form.version} and protocol {form.protocol}")
    size = end - start
    field = CHECKSUM_OFFSET[form.protocol]
    if flags & vnet.NEEDS_CSUM:
        if csum_start != form.transport or csum_offset != field:
            raise OffloadError(f"checksum at {csum_start} + {csum_offset}, not {form.transport} + {field}")
        # the kernel's own sum: with a routing header the destination in it is not the one in the IP header
        pseudo = headers.read16(buffer, start + form.transport + field)[0] - (size - form.transport)
    elif form.transport > 40 and form.version == 6:
        raise OffloadError("IPv6 extension headers before a checksum that is not partial")
    else:
        pseudo = checksum.pseudo_header(buffer[start : start + 40], form.version, form.protocol, 0)
    packet = SuperPacket(start, end, form, header, pseudo)
    if size == form.size:
        raise OffloadError("a super-packet without payload")
    if size > MAX_PACKET or form.size + gso_size > MAX_PACKET:
        raise OffloadError(f"a super-packet of {size} bytes in segments of {gso_size}, {MAX_PACKET} is the most")
    if size - form.size > MAX_SEGMENTS * gso_size:
        raise OffloadError(f"{packet.segments} segments, {MAX_SEGMENTS} is the most")
    return packet


class _Layout:
    """Views of the output buffer for one shape of super-packet."""

    def __init__(self, output: bytearray, form: Form, gso_size: int, mtu: int) -> None:
        self.form, self.gso_size, self.mtu = form, gso_size, mtu
        self.length = form.size + gso_size
        self.stride = stride = padded(self.length, mtu)
        self.tail_room = bytes(stride)
        count = min(MAX_SEGMENTS, -(-(MAX_PACKET - form.size) // gso_size))
        self.progression = Progression(form, gso_size, output, stride, count)
        # elements of a void type are copied in one go each, 2.8 times as fast as rows of bytes
        self.payload_type = np.dtype(f"V{gso_size}")
        self.all_payloads = np.ndarray((count,), self.payload_type, output, form.size, (stride,))
        self.paddings = np.ndarray((count, stride - self.length), np.uint8, output, self.length, (stride, 1))
        self.sums = checksum.Rows(output, form.transport, stride, count, stride - form.transport)
        self.field = form.transport + CHECKSUM_OFFSET[form.protocol]
        self.all_checksums = np.ndarray((count,), np.dtype("<u2"), output, self.field, (stride,))
        self.use(count, count)
        view = memoryview(output)
        self.rows = [view[i * stride : (i + 1) * stride] for i in range(count)]

    def use(self, count: int, full: int) -> None:
        """Views of the first ``count`` packets; kept, since most super-packets have as many as the one before."""
        self.count, self.full = count, full
        self.payloads = self.all_payloads[:full]
        self.checksums = self.all_checksums[:count]


class _Plan:
    """How super-packets of one length, whose headers are alike in all that is checked, are cut."""

    def __init__(self, packet: SuperPacket, layout: _Layout, mtu: int) -> None:
        self.layout = layout
        self.full, self.rest = divmod(packet.payload, layout.gso_size)
        self.count = self.full + (self.rest > 0)
        self.last_length, self.last_padded = layout.length, layout.stride
        if self.rest:
            self.last_length = layout.form.size + self.rest
            self.last_padded = padded(self.last_length, mtu)
        self.carried = packet.end - packet.start - layout.form.transport
        self.data_offset_at = layout.form.transport + DATA_OFFSET if layout.form.protocol == TCP else 0
        self.data_offset = 0
        self.source_at = -1
        self.source: Column = np.empty(0)

    def payloads(self, buffer: bytearray, at: int) -> Column:
        """Views of the full payloads from ``at`` on; kept, since mostly reads go to the same place."""
        if at != self.source_at:
            self.source_at, self.source = at, np.ndarray((self.full,), self.layout.payload_type, buffer, at)
        return self.source


class Splitter:
    """Splits super-packets that lie in one buffer into packets in a buffer of its own."""

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)
        self.output = bytearray(_OUTPUT_SIZE)
        """What packets are split into."""
        self._output_view = memoryview(self.output)
        self._layouts: OrderedDict[tuple[Form, int, int], _Layout] = OrderedDict()
        self._plans: dict[tuple[tuple[bytes, ...], int, int], _Plan] = {}

    def split(self, offset: int, length: int, mtu: int) -> Split:
        """Split what a read of the TUN put at ``offset``: ``length`` bytes, vnet header included.

        ``mtu``: the inner interface's, the most to pad to. Raises ``OffloadError`` for what has no sound vnet header,
        and for super-packets that are not sound.
        """
        buffer, start = self._buffer, offset + vnet.SIZE
        signature: tuple[bytes, ...] = ()
        if length >= _SIGNED and offset + length <= len(buffer):
            signature = (_signature_v6 if buffer[start] >> 4 == 6 else _signature_v4)(buffer, offset)
            plan = self._plans.get((signature, length, mtu))
            if plan is not None and buffer[start + plan.data_offset_at] == plan.data_offset:
                pseudo = headers.read16(buffer, start + plan.layout.field)[0] - plan.carried
                return self._cut(plan, start, offset + length, pseudo)
        header = vnet.parse(buffer, offset, offset + length)
        if not header.gso_type:
            return self._single(start, offset + length, header, mtu)
        packet = parse(buffer, offset, length, header)
        plan = _Plan(packet, self._layout(packet.form, header.gso_size, mtu), mtu)
        if signature and header.flags & vnet.NEEDS_CSUM and (packet.form.version == 4 or packet.form.transport == 40):
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan.data_offset = buffer[start + plan.data_offset_at]
            self._plans[signature, length, mtu] = plan
        return self._cut(plan, start, offset + length, packet.pseudo)

    def _single(self, start: int, end: int, header: vnet.VnetHeader, mtu: int) -> Split:
        length = end - start
        if not 0 < length <= MAX_PACKET:
            raise OffloadError(f"a packet of {length} bytes, {MAX_PACKET} is the most")
        full = padded(length, mtu)
        row = self._output_view[:full]
        row[:length] = self._view[start:end]
        if full > length:
            row[length:] = bytes(full - length)
        if header.flags & vnet.NEEDS_CSUM:
            checksum.finish(row[:length], header.csum_start, header.csum_offset)
        return Split(1, length, length, full, full, [row], self.output)

    def _layout(self, form: Form, gso_size: int, mtu: int) -> _Layout:
        key = (form, gso_size, mtu)
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.popitem(last=False)
                self._plans.clear()  # they hold layouts
            layout = self._layouts[key] = _Layout(self.output, form, gso_size, mtu)
        else:
            self._layouts.move_to_end(key)
        return layout

    def _cut(self, plan: _Plan, start: int, end: int, pseudo: int) -> Split:
        layout, count = plan.layout, plan.count
        form, field, length, stride = layout.form, layout.field, layout.length, layout.stride
        _, transport, size, protocol = form
        last = count - 1

        head = self._buffer[start : start + size]
        # each row's sum takes in the pseudo-header through the checksum's field
        headers.write16(head, field, (pseudo + length - transport) % checksum.MODULUS)
        headers.set_length(head, form, length)
        flags = 0
        if protocol == TCP:
            flags = head[transport + TCP_FLAGS]
            head[transport + TCP_FLAGS] = flags & ~(FIN | PSH | CWR)
        if count != layout.count or plan.full != layout.full:
            layout.use(count, plan.full)
        layout.progression.lay(head, count)
        if flags & (FIN | PSH | CWR):
            at = transport + TCP_FLAGS
            self.output[last * stride + at] = flags & ~CWR
            self.output[at] = flags & ~(FIN | PSH) if last else flags

        layout.payloads[...] = plan.payloads(self._buffer, start + size)
        if stride > length:
            layout.paddings[:count] = 0
        if plan.rest:
            last_length = plan.last_length
            at = last * stride + size
            self._output_view[at : at + plan.rest] = self._view[end - plan.rest : end]
            self._output_view[at + plan.rest : (last + 1) * stride] = layout.tail_room[: stride - last_length]
            last_head = self._output_view[at - size : at]
            headers.set_length(last_head, form, last_length)
            headers.write16(last_head, field, (pseudo + last_length - transport) % checksum.MODULUS)

        sums = layout.sums.sums(0, count)
        layout.checksums[...] = checksum.complements(sums, zero=protocol == TCP)
        return Split(count, length, plan.last_length, stride, plan.last_padded, layout.rows, self.output)
