"""The headers of a TCP or UDP packet: where they are, and those of successive packets."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from qtunnel.offload import checksum
from qtunnel.offload.errors import OffloadError

TCP: Final = 6
UDP: Final = 17

MAX_HEADERS: Final = 256
"""Bytes of IP and TCP headers: 120 is IPv4's most, 100 IPv6's without extension headers. Bounds the buffers."""

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
URG: Final = 0x20
CWR: Final = 0x80

IPV4_ID: Final = 4
IPV4_CHECKSUM: Final = 10
TCP_SEQUENCE: Final = 4
TCP_FLAGS: Final = 13
UDP_LENGTH: Final = 4
CHECKSUM_OFFSET: Final = {TCP: 16, UDP: 6}
"""Of the checksum field in the header, by protocol."""

_DATA_OFFSET: Final = 12
_FRAGMENT: Final = 0x3FFF
"""IPv4: more fragments, and the offset."""
_MAX_EXTENSIONS: Final = 8
_EXTENSIONS: Final = frozenset((0, 43, 60))
"""IPv6 extension headers before TCP or UDP: hop-by-hop options, routing, destination options."""

_u16 = struct.Struct(">H")
_u32 = struct.Struct(">I")
read16 = _u16.unpack_from
read32 = _u32.unpack_from
write16 = _u16.pack_into
write32 = _u32.pack_into

Bytes = bytes | bytearray | memoryview


class Form(NamedTuple):
    """Where the headers of a packet are; packets of one form can lie in one table."""

    version: int
    transport: int
    """Offset of the TCP or UDP header."""
    size: int
    """Bytes of all headers."""
    protocol: int


def parse(packet: Bytes, start: int, end: int) -> Form:
    """Form of the TCP or UDP packet ``packet[start:end]``; raises ``OffloadError`` for any other, and for fragments."""
    length = end - start
    if length < 20:
        raise OffloadError(f"{length} bytes are no IP packet")
    version = packet[start] >> 4
    if version == 4:
        transport = (packet[start] & 15) * 4
        protocol = packet[start + 9]
        claimed = read16(packet, start + 2)[0]
        if transport < 20:
            raise OffloadError(f"an IPv4 header of {transport} bytes")
        if read16(packet, start + 6)[0] & _FRAGMENT:
            raise OffloadError("an IPv4 fragment")
    elif version == 6 and length >= 40:
        transport, protocol = _skip_extensions(packet, start, end)
        claimed = read16(packet, start + 4)[0] + 40
    else:
        raise OffloadError(f"{length} bytes of IP version {version}")
    if claimed != length:
        raise OffloadError(f"an IP packet of {claimed} bytes in {length}")
    if protocol == TCP:
        if transport + 20 > length:
            raise OffloadError(f"{length} bytes hold no TCP header")
        own = (packet[start + transport + _DATA_OFFSET] >> 4) * 4
        if own < 20:
            raise OffloadError(f"a TCP header of {own} bytes")
        size = transport + own
    elif protocol == UDP:
        size = transport + 8
    else:
        raise OffloadError(f"protocol {protocol} is neither TCP nor UDP")
    if size > min(length, MAX_HEADERS):
        raise OffloadError(f"headers of {size} bytes in a packet of {length} bytes, {MAX_HEADERS} is the most")
    return Form(version, transport, size, protocol)


def _skip_extensions(packet: Bytes, start: int, end: int) -> tuple[int, int]:
    """Offset and protocol of what follows the IPv6 extension headers."""
    transport, protocol = 40, packet[start + 6]
    for _ in range(_MAX_EXTENSIONS):
        if protocol not in _EXTENSIONS or start + transport + 8 > end:
            break
        protocol, units = packet[start + transport], packet[start + transport + 1]
        transport += 8 + 8 * units
    return transport, protocol


def set_ipv4_checksum(header: bytearray | memoryview, form: Form) -> None:
    """Write the checksum of an IPv4 header."""
    write16(header, IPV4_CHECKSUM, 0)
    write16(header, IPV4_CHECKSUM, checksum.complement(checksum.total(header[: form.transport])))


def set_length(header: bytearray | memoryview, form: Form, length: int) -> None:
    """Write the packet's length into its IP and UDP headers, and the IPv4 header's checksum."""
    if form.version == 4:
        write16(header, 2, length)
        set_ipv4_checksum(header, form)
    else:
        write16(header, 4, length - 40)
    if form.protocol == UDP:
        write16(header, form.transport + UDP_LENGTH, length - form.transport)


class Progression:
    """The headers of successive packets of one form that carry ``payload`` bytes each, as one big-endian number.

    From packet to packet IPv4's ID counts up, its checksum down, and TCP's sequence number goes on: as long as no field
    wraps, a number added to the first headers repeated: a few steps for all packets, as fast as numpy's columns and
    without their tables.
    """

    __slots__ = ("_form", "_most", "_payload", "_ramps", "bits")

    def __init__(self, form: Form, payload: int, most: int) -> None:
        """``most``: the greatest number of packets."""
        self._form, self._payload, self._most = form, payload, most
        self.bits = 8 * form.size
        self._ramps: dict[bool, int] = {}

    def _ramp(self, same_id: bool) -> int:
        """What each packet's headers have more than the first one's."""
        form = self._form
        step = 0
        if form.protocol == TCP:
            step += self._payload << self.shift(form.transport + TCP_SEQUENCE, 4)
        if form.version == 4 and not same_id:
            step += (1 << self.shift(IPV4_ID, 2)) - (1 << self.shift(IPV4_CHECKSUM, 2))
        return int.from_bytes(b"".join((i * step).to_bytes(form.size, "big") for i in range(self._most)), "big")

    def shift(self, offset: int, size: int) -> int:
        """By how many bits the field of ``size`` bytes at ``offset`` is shifted in one packet's headers."""
        return self.bits - 8 * (offset + size)

    def headers(self, first: bytes | bytearray, count: int, same_id: bool = False) -> int:
        """Headers of ``count`` packets, ``form.size`` bytes each; ``same_id``: of one IPv4 ID.

        All else, the transport's checksum too, stays as in ``first``.
        """
        form = self._form
        wraps = False
        if form.version == 4 and not same_id:
            wraps = read16(first, IPV4_ID)[0] + count > 1 << 16 or read16(first, IPV4_CHECKSUM)[0] < count
        if form.protocol == TCP:
            wraps |= read32(first, form.transport + TCP_SEQUENCE)[0] + count * self._payload > 1 << 32
        if wraps:
            return self._one_by_one(first, count, same_id)
        ramp = self._ramps.get(same_id)
        if ramp is None:
            ramp = self._ramps[same_id] = self._ramp(same_id)
        return int.from_bytes(first * count, "big") + (ramp >> self.bits * (self._most - count))

    def _one_by_one(self, first: bytes | bytearray, count: int, same_id: bool) -> int:
        form = self._form
        made = bytearray()
        for index in range(count):
            header = bytearray(first)
            if form.version == 4 and index and not same_id:
                write16(header, IPV4_ID, (read16(first, IPV4_ID)[0] + index) & 0xFFFF)
                set_ipv4_checksum(header, form)
            if form.protocol == TCP:
                sequence = read32(first, form.transport + TCP_SEQUENCE)[0] + index * self._payload
                write32(header, form.transport + TCP_SEQUENCE, sequence & 0xFFFFFFFF)
            made += header
        return int.from_bytes(made, "big")
