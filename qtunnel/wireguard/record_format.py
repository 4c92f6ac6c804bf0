"""Record mode on the wire: one AEAD record in up to ``MAX_COUNT`` datagrams of one size, the last one shorter.

Each datagram starts with this header, little-endian:

| offset | size | field                                                                 |
| ------ | ---- | --------------------------------------------------------------------- |
| 0      | 1    | type, 5                                                               |
| 1      | 1    | fragment: 0 to count - 1, or 255 for the parity datagram              |
| 2      | 1    | count of fragments, without parity                                    |
| 3      | 1    | 0                                                                     |
| 4      | 4    | receiver index of the session                                         |
| 8      | 6    | counter of the record                                                 |
| 14     | 2    | size of the last fragment in bytes, with its header                   |

The datagrams of a record one after the other make a buffer. With ``n`` datagrams of ``size`` bytes, the ciphertext
begins at ``16 * n`` and goes on to the end; the 16 bytes of it that lie where the header of datagram ``i`` has to be
are kept at ``16 * i``. So the ciphertext is in one piece but for ``n - 1`` headers, and neither end copies it.

Where there is a parity datagram, all datagrams have ``size`` bytes: the last fragment is filled up with zeros. Behind
the header of the parity stands the exclusive or of what the fragments have behind theirs; it goes out last.
"""

from __future__ import annotations

import struct
from typing import Final

HEADER: Final = struct.Struct("<BBBBIQ")
"""type, fragment, count, 0, receiver index, counter | size of the last fragment << 48."""

HEADER_SIZE: Final = HEADER.size
TYPE_RECORD: Final = 5
PARITY: Final = 255
MAX_COUNT: Final = 64
"""Fragments of a record: as many as one UDP_SEGMENT call may cut on any kernel that has it (UDP_MAX_SEGMENTS)."""

NUMBERS: Final = bytes(range(MAX_COUNT))
"""The fragment numbers in order."""

MAX_COUNTER: Final = (1 << 48) - 1
TAG_SIZE: Final = 16

SIZE_STEP: Final = 8
"""Datagram sizes are multiples of this, so that headers and parity are computed in words of 64 bits."""

MIN_SIZE: Final = HEADER_SIZE * (MAX_COUNT + 1)
"""Bytes of a datagram that is not the last: the headers of all fragments, displaced, have room in the first."""

MAX_SIZE: Final = 65504
"""Bytes: the largest multiple of SIZE_STEP that a UDP datagram over IPv4 can have."""

MAX_BUFFER: Final = 80 << 10
"""Bytes of a record in its datagrams: a packet of 65,535 bytes, its tag, 64 headers; jumbo frames are never full."""


def datagram_size(limit: int) -> int:
    """The size of a record's datagrams where ``limit`` bytes fit into one on the way; 0 where that is too small."""
    size = min(limit, MAX_SIZE, MAX_BUFFER // 2) // SIZE_STEP * SIZE_STEP  # two hold any packet
    return size if size >= MIN_SIZE else 0


def fragments(plain: int, size: int) -> int:
    """How many datagrams of ``size`` bytes a record of ``plain`` bytes takes."""
    return -(-(plain + TAG_SIZE) // (size - HEADER_SIZE))


def capacity(count: int, size: int) -> int:
    """Bytes of plaintext that ``count`` datagrams of ``size`` bytes hold; no more than a record may have."""
    return min(count, MAX_COUNT, MAX_BUFFER // size) * (size - HEADER_SIZE) - TAG_SIZE
