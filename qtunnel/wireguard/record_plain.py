"""What is inside a record: packets as a TUN with a vnet header gives them, one after the other, and reports.

An item is a packet of IPv4 or IPv6 behind its ``struct virtio_net_hdr`` of 10 bytes (virtio 1.2 section 5.1.6.2,
little-endian, without num_buffers); its length is the one in its own IP header. An item that begins with ``CONTROL``,
a value which no flags of a vnet header have, is for the engine:

| offset | size | field                        |
| ------ | ---- | ---------------------------- |
| 0      | 1    | 255                          |
| 1      | 1    | kind: 1 report, 2 question   |
| 2      | 2    | bytes that follow            |

A report counts, under the session that it is sent in, what its sender received in records: ``next`` (one more than the
highest counter, 0 for none), ``expected`` and ``received`` fragments of the records that were delivered, ``delivered``
records and ``spoiled`` ones, whose tag was wrong; each a u64, little-endian. A question is a report that wants one in
return. Other kinds are skipped.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from qtunnel.wireguard.packets import ip_length

VNET_HEADER: Final = 10
CONTROL: Final = 255
KIND_REPORT: Final = 1
KIND_QUESTION: Final = 2
_CONTROL_HEADER: Final = struct.Struct("<BBH")
_REPORT: Final = struct.Struct("<QQQQQ")


class PlainError(ValueError):
    """What is inside a record is not a list of items."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an end received in records of one session; all cumulative."""

    next: int
    expected: int
    received: int
    delivered: int
    spoiled: int = 0
    question: bool = False

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """What only ever grows in a session."""
        return self.next, self.expected, self.received, self.delivered, self.spoiled

    def pack(self) -> bytes:
        """As an item of a record."""
        body = _REPORT.pack(*self.counts)
        return _CONTROL_HEADER.pack(CONTROL, KIND_QUESTION if self.question else KIND_REPORT, len(body)) + body


def packet_length(plain: memoryview, offset: int) -> int:
    """Bytes of the item with a packet that begins at ``offset``, vnet header included. Raises ``PlainError``."""
    at = offset + VNET_HEADER
    left = len(plain) - at
    length = ip_length(plain, at, left) if left > 0 else 0
    if not length:
        raise PlainError(f"no IP packet in {left} bytes")
    return length + VNET_HEADER


def take_items(plain: memoryview, packets: list[memoryview]) -> list[Report]:
    """Append the packets of a record to ``packets``, each with its vnet header; returns its reports.

    Raises ``PlainError`` where the rest is not a list of items.
    """
    reports: list[Report] = []
    offset, end = 0, len(plain)
    while offset < end:
        if plain[offset] != CONTROL:
            length = packet_length(plain, offset)
            packets.append(plain[offset : offset + length])
            offset += length
            continue
        if end - offset < _CONTROL_HEADER.size:
            raise PlainError("a control item is cut off")
        _, kind, size = _CONTROL_HEADER.unpack_from(plain, offset)
        offset += _CONTROL_HEADER.size
        if size > end - offset:
            raise PlainError("a control item is cut off")
        if kind in (KIND_REPORT, KIND_QUESTION):
            if size != _REPORT.size:
                raise PlainError(f"a report has {_REPORT.size} bytes, not {size}")
            following, expected, received, delivered, spoiled = _REPORT.unpack_from(plain, offset)
            reports.append(Report(following, expected, received, delivered, spoiled, kind == KIND_QUESTION))
        offset += size
    return reports
