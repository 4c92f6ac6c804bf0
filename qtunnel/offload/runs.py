"""Runs: successive packets that one super-packet can stand for.

A run is found by prediction: headers as splitting a super-packet would give the packets are made and compared with
those that came. What this accepts is what Linux's GRO accepts (``tcp_gro_receive``, ``udp_gro_receive``,
``inet_gro_receive``, ``ipv6_gro_receive``), and it costs a few operations for all packets, not a few for each.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Final

import numpy as np

from qtunnel.offload import checksum, headers, vnet
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import CHECKSUM_OFFSET, CWR, FIN, IPV4_ID, PSH, TCP, TCP_FLAGS, UDP, Form
from qtunnel.offload.progression import Progression

MAX_RUN: Final = 64
"""Packets of a run: the kernel's UDP_GRO_CNT_MAX, and more than 65,535 bytes hold at an MTU of 1,420. It bounds, too,
what a prediction costs that soon fails."""

MAX_PACKET: Final = 65535

_MAX_FORMS: Final = 4
"""Header shapes kept per packet size: TCP with timestamps and without, UDP, and one more."""

_signature_v4 = struct.Struct("4s2x4s").unpack_from
_signature_tcp4 = struct.Struct("4s2x4s22xB").unpack_from
_signature_v6 = struct.Struct("B3x4s").unpack_from
_signature_tcp6 = struct.Struct("B3x4s44xB").unpack_from
"""What decides on the form of a packet, with what else is near it and seldom changes in a flow: of IPv4 all before the
checksum but the ID, of IPv6 all before the addresses but the flow label, and TCP's data offset."""
_SIGNED: Final = 53

_MAX_SIGNATURES: Final = 64
"""Signatures kept per packet size, 20 kB."""

_FRAGMENT: Final = 0xBFFF
"""All of the IPv4 header's fragment word but "don't fragment"."""

_GSO_TYPES: Final = {
    (4, TCP): vnet.GSO_TCPV4,
    (6, TCP): vnet.GSO_TCPV6,
    (4, UDP): vnet.GSO_UDP_L4,
    (6, UDP): vnet.GSO_UDP_L4,
}

_ENDS: Final = FIN | PSH
"""TCP flags with which a run ends: the last packet of a super-packet alone has them."""


def _mergeable(packet: bytearray, at: int, length: int) -> Form | None:
    """The form of a TCP or UDP packet without IP options, extension headers and fragmentation; None for another."""
    try:
        form = headers.parse(packet, at, at + length)
    except OffloadError:
        return None
    if form.version == 6:
        return form if form.transport == 40 else None
    return form if form.transport == 20 and not headers.read16(packet, at + 6)[0] & _FRAGMENT else None


class Shape:
    """Packets of one form and length in a buffer, ``stride`` bytes apart: their headers predicted and compared."""

    def __init__(self, buffer: bytearray, offset: int, stride: int, length: int, form: Form) -> None:
        self.form = form
        self.payload = payload = length - form.size
        self._buffer, self._offset, self._stride = buffer, offset, stride
        self._length, self._size = length, form.size
        self.field = form.transport + CHECKSUM_OFFSET[form.protocol]
        self.gso_type = _GSO_TYPES[form.version, form.protocol]
        self._predicted = bytearray(form.size * MAX_RUN)
        self._progression = Progression(form, payload, self._predicted, form.size, MAX_RUN)
        self._came = bytearray(form.size * MAX_RUN)
        whole = np.dtype(f"V{form.size}")
        self._came_rows = np.ndarray((MAX_RUN,), whole, self._came)
        self._came_checksums = np.ndarray((MAX_RUN,), np.uint16, self._came, self.field, (form.size,))
        self._predicted_checksums = np.ndarray((MAX_RUN,), np.uint16, self._predicted, self.field, (form.size,))
        capacity = (len(buffer) - offset - form.size) // stride + 1
        self._headers = np.ndarray((capacity,), whole, buffer, offset, (stride,))
        self._view = memoryview(buffer)
        self._payloads: list[memoryview] = []
        self._addresses = slice(12, 20) if form.version == 4 else slice(0, 40)
        self._flow: bytes | bytearray = b""
        self.pseudo = 0
        """Sum of the pseudo-header, to which the length of a packet is to be added."""
        self.remainder = b""
        """What ``Stretch.remainders`` has for a packet with a good checksum."""
        self.longest = min(MAX_RUN, (MAX_PACKET - form.size) // payload)
        """Packets that one super-packet can hold."""

    def payloads(self, start: int, end: int) -> list[memoryview]:
        """Views of the payloads of full packets."""
        while len(self._payloads) < end:
            at = self._offset + len(self._payloads) * self._stride
            self._payloads.append(self._view[at + self._size : at + self._length])
        return self._payloads[start:end]

    def look(self, at: int) -> None:
        """Set ``pseudo`` and ``remainder`` for packets of the flow that the one at ``at`` is of."""
        flow = self._buffer[at + self._addresses.start : at + self._addresses.stop]
        if flow != self._flow:
            form, header = self.form, self._buffer[at : at + 40]
            self.pseudo = checksum.pseudo_header(header, form.version, form.protocol, 0) - form.transport
            value = -self.pseudo - self._length  # and an IPv4 header with a good checksum adds nothing
            if form.version == 6:
                value += int.from_bytes(header, "big")
            self.remainder = checksum.swap(value % checksum.MODULUS).to_bytes(4, "little")
            self._flow = flow

    def matching(self, first: int, count: int, tail: int) -> int:
        """How many of ``count`` packets from ``first`` have the headers that a super-packet's packets would have.

        ``tail``: the length of the last one where it is shorter, else 0. Checksums of TCP and UDP are not looked at.
        """
        form, size, buffer = self.form, self._size, self._buffer
        at = self._offset + first * self._stride
        header = buffer[at : at + size]
        # The second packet may repeat the IPv4 ID, as those may that forbid fragmentation (RFC 6864).
        same_id = False
        if form.version == 4 and header[6] & 0x40:
            following = at + self._stride + IPV4_ID
            same_id = buffer[following : following + 2] == header[IPV4_ID : IPV4_ID + 2]
        self._came_rows[:count] = self._headers[first : first + count]
        predicted = self._predicted
        if form.protocol == TCP:
            # the first alone may have CWR, the last alone FIN and PSH
            flags = form.transport + TCP_FLAGS
            first_only = header[flags] & CWR
            header[flags] ^= first_only
            self._progression.lay(header, count, same_id)
            predicted[flags] |= first_only
            last = (count - 1) * self._stride
            predicted[(count - 1) * size + flags] |= buffer[at + last + flags] & _ENDS
        else:
            self._progression.lay(header, count, same_id)
        if tail:
            headers.set_length(memoryview(predicted)[(count - 1) * size : count * size], form, tail)
        self._predicted_checksums[...] = self._came_checksums
        if self._came[: count * size] == predicted[: count * size]:
            return count
        return self._matched(count)

    def _matched(self, count: int) -> int:
        """How many of the headers that came are as predicted, where not all are."""
        bits, end = 8 * self._size, count * self._size
        wrong = int.from_bytes(self._came[:end], "big") ^ int.from_bytes(self._predicted[:end], "big")
        matched = count - 1 - (wrong.bit_length() - 1) // bits
        if 0 < matched < count - 1 and self.form.protocol == TCP:
            # perhaps the first that does not match only ends the run
            wrong >>= bits * (count - 1 - matched)
            matched += not wrong & ~(_ENDS << bits - 8 * (self.form.transport + TCP_FLAGS + 1))
        return matched


class Stretch:
    """Packets of one length in a buffer, ``stride`` bytes apart, the last perhaps shorter."""

    def __init__(self, buffer: bytearray, offset: int, stride: int, length: int) -> None:
        self._buffer, self._offset, self._stride, self._length = buffer, offset, stride, length
        capacity = (len(buffer) - offset - length) // stride + 1
        self._sums = checksum.Rows(buffer, offset, stride, capacity, length)
        self._shapes: OrderedDict[Form, Shape] = OrderedDict()
        self._forms: dict[tuple[bytes | int, ...], Form | None] = {}
        self._view = memoryview(buffer)
        self._packets: list[memoryview] = []

    def form(self, at: int) -> Form | None:
        """The form of a packet that may be part of a run, as far as what seldom changes in a flow tells; else None."""
        buffer = self._buffer
        if self._length < _SIGNED:
            return _mergeable(buffer, at, self._length)
        if buffer[at] >> 4 == 4:
            signature = (_signature_tcp4 if buffer[at + 9] == TCP else _signature_v4)(buffer, at)
        else:
            signature = (_signature_tcp6 if buffer[at + 6] == TCP else _signature_v6)(buffer, at)
        try:
            return self._forms[signature]
        except KeyError:
            pass
        if len(self._forms) >= _MAX_SIGNATURES:
            self._forms.clear()
        form = self._forms[signature] = _mergeable(buffer, at, self._length)
        return form

    def packets(self, start: int, end: int) -> list[memoryview]:
        """Views of full packets."""
        while len(self._packets) < end:
            at = self._offset + len(self._packets) * self._stride
            self._packets.append(self._view[at : at + self._length])
        return self._packets[start:end]

    def remainders(self, start: int, end: int) -> bytes:
        """Sums modulo 65,535 of the little-endian words of full packets, as 4 bytes each."""
        return checksum.remainders(self._sums.sums(start, end)).tobytes()

    def shape(self, form: Form) -> Shape:
        shape = self._shapes.get(form)
        if shape is None:
            if len(self._shapes) >= _MAX_FORMS:
                self._shapes.popitem(last=False)
            shape = Shape(self._buffer, self._offset, self._stride, self._length, form)
            self._shapes[form] = shape
        return shape
