"""The header before each packet of a TUN device opened with IFF_VNET_HDR (virtio 1.2 section 5.1.6, little-endian)."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, NamedTuple

from qtunnel.offload.errors import OffloadError

Bytes = bytes | bytearray | memoryview

HEADER: Final = struct.Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""

SIZE: Final = HEADER.size
ZERO: Final = bytes(SIZE)
"""Nothing is offloaded: the packet is whole and its checksums are real."""

NEEDS_CSUM: Final = 1
"""The checksum at csum_start + csum_offset holds the pseudo-header's sum; what starts at csum_start is to be added."""
DATA_VALID: Final = 2
"""The checksum was verified by the sender of this header."""
_FLAGS: Final = NEEDS_CSUM | DATA_VALID

GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_UDP: Final = 3
"""UDP fragmentation offload: fragments, not datagrams. Never asked for, so never accepted."""
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80
"""A bit beside TCPV4 or TCPV6: the first segment alone carries CWR (RFC 3168 section 6.1.2)."""
GSO_TYPES: Final = frozenset((GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_TCPV4 | GSO_ECN, GSO_TCPV6 | GSO_ECN))

_unpack = HEADER.unpack


class VnetHeader(NamedTuple):
    """Sizes and positions are bytes, positions count from the packet's first byte."""

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0
    """Bytes of all headers. Only a hint where the kernel wrote it; where this program writes it, exact."""
    gso_size: int = 0
    """Payload bytes of each segment but the last."""
    csum_start: int = 0
    csum_offset: int = 0
    """Of the checksum field, from csum_start."""

    def pack(self) -> bytes:
        return HEADER.pack(*self)


@lru_cache(maxsize=256)  # flows of one path have few, and most packets have the same as the one before
def _parse(data: bytes) -> VnetHeader:
    """The header in 10 bytes, checked as far as it does not depend on the packet."""
    header = VnetHeader._make(_unpack(data))
    flags, gso_type, _, gso_size, _, _ = header
    if flags & ~_FLAGS:
        raise OffloadError(f"vnet flags {flags:#x} are not known")
    if gso_type not in GSO_TYPES:
        raise OffloadError(f"GSO type {gso_type:#x} is not known")
    if gso_type and not gso_size:
        raise OffloadError(f"GSO type {gso_type:#x} with segments of 0 bytes")
    return header


def parse(buffer: Bytes, start: int, end: int) -> VnetHeader:
    """The header at ``buffer[start:]`` of a packet that ends at ``end``; raises ``OffloadError`` if it is unsound."""
    if end > len(buffer) or end - start < SIZE:
        raise OffloadError(f"a vnet header has {SIZE} bytes, not {min(end, len(buffer)) - start}")
    header = _parse(bytes(buffer[start : start + SIZE]))
    flags, _, _, _, csum_start, csum_offset = header
    if flags & NEEDS_CSUM and csum_start + csum_offset + 2 > end - start - SIZE:
        raise OffloadError(f"checksum at {csum_start} + {csum_offset} in a packet of {end - start - SIZE} bytes")
    return header
