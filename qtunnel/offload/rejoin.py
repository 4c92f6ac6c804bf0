"""Super-packets of TCP that went in pieces become whole again (see chunk): each write to the TUN costs what the kernel
does for a packet of any size, and has TCP answer with an acknowledgment, which goes all the way back.

Nothing changes: only headers that are to the bit what chunk makes of those before are taken together, so splitting what
comes out gives the same packets as splitting each piece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from qtunnel.offload import checksum, headers, vnet
from qtunnel.offload.coalesce import Write
from qtunnel.offload.headers import CHECKSUM_OFFSET, CWR, FIN, PSH, RST, SYN, TCP, URG, Form
from qtunnel.offload.split import MAX_SEGMENTS

_LARGEST: Final = 65535
_BEGINS_NOTHING: Final = FIN | SYN | RST | PSH | URG
_MAY_END: Final = FIN | PSH
_CHECKSUM: Final = CHECKSUM_OFFSET[TCP]

_read_vnet: Final = vnet.HEADER.unpack_from
_read_ipv4: Final = struct.Struct(">2sHH4sH12sI5sB2sH").unpack_from
_read_ipv6: Final = struct.Struct(">4sH38sI5sB2sH").unpack_from
"""Without options of IP: its length, ID and checksum, TCP's sequence number, flags and checksum, and between them what
stays."""

_VERSIONS: Final = {
    vnet.GSO_TCPV4: (4, 20),
    vnet.GSO_TCPV4 | vnet.GSO_ECN: (4, 20),
    vnet.GSO_TCPV6: (6, 40),
    vnet.GSO_TCPV6 | vnet.GSO_ECN: (6, 40),
}


def rejoin(items: Sequence[memoryview]) -> Iterator[Write]:
    """Writes for these items, each a vnet header and a whole packet behind it, in their order."""
    if len(items) == 1:
        yield [items[0]]
        return
    run: _Run | None = None
    for item in items:
        if run is not None and not run.ended and run.take(item):
            continue
        if run is not None:
            yield run.write()
        run = _Run(item)
    if run is not None:
        yield run.write()


class _Run:
    """An item, and those that go on where it ends."""

    __slots__ = (
        "_first",
        "_flags",
        "_form",
        "_id",
        "_id_checksum",
        "_payloads",
        "_pseudo",
        "_same",
        "_segment",
        "_sequence",
        "_total",
        "_vnet",
        "ended",
    )  # fmt: skip

    def __init__(self, first: memoryview) -> None:
        self._first = first
        self._payloads: list[memoryview] = []
        self.ended = True
        flags, gso_type, _, segment, start, offset = _read_vnet(first)
        version, transport = _VERSIONS.get(gso_type, (0, 0))
        length = len(first) - vnet.SIZE
        if not version or flags != vnet.NEEDS_CSUM or start != transport or offset != _CHECKSUM:
            return
        if length < transport + 20 or (version == 4 and first[vnet.SIZE] != 0x45):
            return
        if first[vnet.SIZE + (9 if version == 4 else 6)] != TCP:
            return
        size = transport + (first[vnet.SIZE + transport + 12] >> 4) * 4
        payload = length - size
        if size < transport + 20 or payload <= 0 or payload % segment:
            return
        claimed, number, sequence, tcp_flags, pseudo, check, same = _fields(first, version, size)
        if tcp_flags & _BEGINS_NOTHING or claimed + (40 if version == 6 else 0) != length:
            return
        self._form = Form(version, transport, size, TCP)
        self._vnet = bytes(first[: vnet.SIZE])
        self._segment = segment
        self._same = same
        self._flags = tcp_flags & ~CWR
        self._total = payload
        self._sequence = (sequence + payload) & 0xFFFFFFFF
        self._id = (number + payload // segment) & 0xFFFF
        self._id_checksum = (check + claimed + number) % checksum.MODULUS  # with them it is what the rest sums up to
        self._pseudo = (pseudo - (length - transport)) % checksum.MODULUS
        self.ended = False

    def take(self, item: memoryview) -> bool:
        """The item goes on where the run ends, and belongs to it now."""
        form = self._form
        version, transport, size, _ = form
        length = len(item) - vnet.SIZE
        payload = length - size
        if payload <= 0 or size + self._total + payload > _LARGEST:
            return False
        if self._total + payload > self._segment * MAX_SEGMENTS:
            return False
        if item[: vnet.SIZE] != self._vnet:
            single = vnet.HEADER.pack(vnet.NEEDS_CSUM, vnet.GSO_NONE, size, 0, transport, _CHECKSUM)
            if item[: vnet.SIZE] != single or payload > self._segment:
                return False
        claimed, number, sequence, flags, pseudo, check, same = _fields(item, version, size)
        modulus = checksum.MODULUS
        if (
            same != self._same
            or sequence != self._sequence
            or flags & ~_MAY_END != self._flags
            or number != self._id * (version == 4)
            or claimed != length - (40 if version == 6 else 0)
            or pseudo != (self._pseudo + length - transport) % modulus
            or (version == 4 and (check + claimed + number) % modulus != self._id_checksum)
        ):
            return False
        self._payloads.append(item[vnet.SIZE + size :])
        self._total += payload
        self._sequence = (sequence + payload) & 0xFFFFFFFF
        self._id = (number + -(-payload // self._segment)) & 0xFFFF
        self._flags = flags
        self.ended = bool(flags & _MAY_END or payload % self._segment)
        return True

    def write(self) -> Write:
        """The item as it came, or one super-packet for all."""
        first = self._first
        if not self._payloads:
            return [first]
        form = self._form
        head = bytearray(first[vnet.SIZE : vnet.SIZE + form.size])
        length = form.size + self._total
        headers.set_length(head, form, length)
        head[form.transport + headers.TCP_FLAGS] |= self._flags
        headers.write16(head, form.transport + _CHECKSUM, (self._pseudo + length - form.transport) % checksum.MODULUS)
        return [self._vnet + head, first[vnet.SIZE + form.size :], *self._payloads]


def _fields(item: memoryview, version: int, size: int) -> tuple[int, int, int, int, int, int, tuple[bytes, ...]]:
    """IP's length and ID, TCP's sequence number, flags and checksum, IP's checksum; and all else."""
    options = bytes(item[vnet.SIZE + (40 if version == 4 else 60) - 2 : vnet.SIZE + size])  # with the urgent pointer
    if version == 4:
        a, claimed, number, b, check, c, sequence, d, flags, window, pseudo = _read_ipv4(item, vnet.SIZE)
        return claimed, number, sequence, flags, pseudo, check, (a, b, c, d, window, options)
    a, claimed, c, sequence, d, flags, window, pseudo = _read_ipv6(item, vnet.SIZE)
    return claimed, 0, sequence, flags, pseudo, 0, (a, c, d, window, options)
