"""The headers of a TCP or UDP packet: where they are, and the same for each of a row of packets."""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

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


def set_length(header: bytearray | memoryview, form: Form, length: int) -> None:
    """Write the packet's length into its IP and UDP headers, and the IPv4 header's checksum."""
    if form.version == 4:
        write16(header, 2, length)
        write16(header, IPV4_CHECKSUM, 0)
        write16(header, IPV4_CHECKSUM, checksum.complement(checksum.total(header[: form.transport])))
    else:
        write16(header, 4, length - 40)
    if form.protocol == UDP:
        write16(header, form.transport + UDP_LENGTH, length - form.transport)


_IDS: Final = np.arange(1 << 17, dtype=np.uint32).astype(">u2")
"""Successive IPv4 IDs from any, ready to be copied."""


class HeaderTable:
    """Room for the headers of successive packets of one form and length, ``stride`` bytes apart in a buffer.

    A row's headers are one element of a void type, which is copied in one go: 1.4 times as fast as rows of bytes.
    """

    __slots__ = (
        "_all",
        "_buffer",
        "_checksums",
        "_count",
        "_form",
        "_head",
        "_head_view",
        "_ids",
        "_offset",
        "_sequences",
        "_steps",
        "_stride",
        "rows",
    )

    def __init__(self, buffer: bytearray, offset: int, stride: int, count: int, form: Form, payload: int) -> None:
        """``payload``: bytes that each packet carries."""
        self._buffer, self._offset, self._stride, self._form = buffer, offset, stride, form

        def column(at: int, kind: str) -> npt.NDArray[Any]:
            return np.ndarray((count,), np.dtype(kind), buffer, offset + at, (stride,))

        self._head = bytearray(form.size)
        self._head_view = np.ndarray((), np.dtype(f"V{form.size}"), self._head)
        self._all = (
            column(0, f"V{form.size}"),
            column(IPV4_ID, ">u2"),
            column(IPV4_CHECKSUM, ">u2"),
            column(form.transport + TCP_SEQUENCE, ">u4"),
            (np.arange(count, dtype=np.uint64) * payload).astype(np.uint32),
        )
        self._use(count)

    def _use(self, count: int) -> None:
        """Views of the first ``count`` rows; kept, since most super-packets have as many packets as the one before."""
        self._count = count
        self.rows, self._ids, self._checksums, self._sequences, self._steps = [view[:count] for view in self._all]

    def fill(self, header: bytes | bytearray, count: int, same_id: bool = False) -> None:
        """Headers of ``count`` packets from the first one's; IDs (unless ``same_id``) and TCP sequence numbers go on.

        The transport's checksum stays as it is in ``header``; ``rows`` are then the rows written.
        """
        if count != self._count:
            self._use(count)
        self._head[:] = header
        self.rows[:] = self._head_view
        if self._form.version == 4 and not same_id:
            first = read16(header, IPV4_ID)[0]
            self._ids[:] = _IDS[first : first + count]
            # the sum without ID and checksum, of which each ID makes another
            rest = -(read16(header, IPV4_CHECKSUM)[0] + first) % checksum.MODULUS
            if first + count <= 0x10000:
                self._checksums[:] = checksum.COMPLEMENTS[rest + first : rest + first + count]
            else:  # IDs begin again at 0
                whole = 0x10000 - first
                self._checksums[:whole] = checksum.COMPLEMENTS[rest + first : rest + 0x10000]
                self._checksums[whole:] = checksum.COMPLEMENTS[rest : rest + count - whole]
        if self._form.protocol == TCP:
            first = read32(header, self._form.transport + TCP_SEQUENCE)[0]
            # not into the column at once: casting while adding is 4 us, these two are 1.2
            self._sequences[:] = self._steps + np.array(first, np.uint32)

    def shorten(self, index: int, length: int) -> None:
        """Give one packet another length."""
        start = self._offset + index * self._stride
        view = memoryview(self._buffer)[start : start + self._form.size]
        set_length(view, self._form, length)

    def set_flags(self, index: int, flags: int) -> None:
        """Give one packet other TCP flags."""
        self._buffer[self._offset + index * self._stride + self._form.transport + TCP_FLAGS] = flags
