"""The headers of a TCP or UDP packet: where they are, and what is in them."""

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

DATA_OFFSET: Final = 12
"""Of the byte of TCP's header that gives the header's length."""
_FRAGMENT: Final = 0x3FFF
"""IPv4: more fragments, and the offset."""
_MAX_EXTENSIONS: Final = 8
_EXTENSIONS: Final = frozenset((0, 43, 60))
"""IPv6 extension headers before TCP or UDP: hop-by-hop options, routing, destination options."""

_u16 = struct.Struct(">H")
_u32 = struct.Struct(">I")
read16 = _u16.unpack_from
read32 = _u32.unpack_from
read64 = struct.Struct(">Q").unpack_from
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
        transport, protocol = skip_extensions(packet, start, end)
        claimed = read16(packet, start + 4)[0] + 40
    else:
        raise OffloadError(f"{length} bytes of IP version {version}")
    if claimed != length:
        raise OffloadError(f"an IP packet of {claimed} bytes in {length}")
    if protocol == TCP:
        if transport + 20 > length:
            raise OffloadError(f"{length} bytes hold no TCP header")
        own = (packet[start + transport + DATA_OFFSET] >> 4) * 4
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


def skip_extensions(packet: Bytes, start: int, end: int) -> tuple[int, int]:
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
    header[IPV4_CHECKSUM : IPV4_CHECKSUM + 2] = b"\0\0"
    # the header is short, and of an even size: checksum.total, without what that asks first
    write16(header, IPV4_CHECKSUM, -int.from_bytes(header[: form.transport], "big") % checksum.MODULUS)


def set_length(header: bytearray | memoryview, form: Form, length: int) -> None:
    """Write the packet's length into its IP and UDP headers, and the IPv4 header's checksum."""
    version, transport, _, protocol = form
    if version == 4:
        write16(header, 2, length)
        set_ipv4_checksum(header, form)
    else:
        write16(header, 4, length - 40)
    if protocol == UDP:
        write16(header, transport + UDP_LENGTH, length - transport)


def change_length(header: bytearray, form: Form, length: int, to: int) -> None:
    """As ``set_length``, for headers with good checksums, of a packet of ``length`` bytes (RFC 1624)."""
    version, transport, _, protocol = form
    if version == 4:
        write16(header, 2, to)
        write16(header, IPV4_CHECKSUM, (read16(header, IPV4_CHECKSUM)[0] + length - to) % checksum.MODULUS)
    else:
        write16(header, 4, to - 40)
    if protocol == UDP:
        write16(header, transport + UDP_LENGTH, to - transport)
