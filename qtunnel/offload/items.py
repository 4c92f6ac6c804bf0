"""Whether a vnet header that came from somewhere else goes with its packet.

The kernel computes the checksum where the header says, and cuts as it says. What it does with headers that make no
sense nobody should find out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from qtunnel.offload import headers, vnet
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import CHECKSUM_OFFSET, DATA_OFFSET, TCP, UDP
from qtunnel.offload.split import MAX_SEGMENTS

MAX_RULES: Final = 256
"""Vnet headers that are remembered; flows of one path have few."""

MIN_SEGMENT: Final = 48
"""Bytes of payload in each segment of a super-packet, the least that Linux's TCP makes (tcp_min_snd_mss). The kernel
spends a microsecond on each segment: of one byte each, a record of 64 kB would keep it busy for 40 ms."""

_LARGEST: Final = 1 << 17
"""Bytes, more than any item has."""

_SHORTEST_IPV4: Final = 20
_ENOUGH: Final = bytes(64)
_PROTOCOL_OF: Final = {offset: protocol for protocol, offset in CHECKSUM_OFFSET.items()}
_SHORTEST: Final = {TCP: 20, UDP: 8}
_GSO: Final = {
    vnet.GSO_NONE: (0, 0),
    vnet.GSO_TCPV4: (4, TCP),
    vnet.GSO_TCPV6: (6, TCP),
    vnet.GSO_UDP_L4: (0, UDP),
}
"""IP version and protocol, 0 for any."""


class Rule(NamedTuple):
    """What a packet behind a certain vnet header must be like.

    most: its bytes with that header. version, protocol: 0 for any. start: where its transport header begins, 0 for
    anywhere.
    """

    most: int
    version: int = 0
    protocol: int = 0
    start: int = 0


NOTHING: Final = Rule(0)


class ItemRules:
    """The rules of vnet headers that came lately."""

    def __init__(self) -> None:
        self._rules: dict[bytes, Rule] = {}

    def rule(self, header: bytes) -> Rule:
        """For a vnet header of ``vnet.SIZE`` bytes."""
        rule = self._rules.get(header)
        if rule is None:
            if len(self._rules) >= MAX_RULES:
                self._rules.clear()
            rule = self._rules[header] = _make(header)
        return rule


def _make(header: bytes) -> Rule:
    try:
        # all but where the checksum is, which depends on the packet's length
        flags, gso_type, _, gso_size, _, _ = vnet.parse(header[: vnet.SIZE - 4] + bytes(4) + _ENOUGH, 0, 64)
    except OffloadError:
        return NOTHING
    if gso_type and gso_size < MIN_SEGMENT:
        return NOTHING
    _, _, _, _, start, offset = vnet.HEADER.unpack(header)
    version, protocol = _GSO[gso_type & ~vnet.GSO_ECN]
    if flags & vnet.NEEDS_CSUM:
        named = _PROTOCOL_OF.get(offset, 0)
        if not named or not start or (protocol and protocol != named):
            return NOTHING
        protocol = named
    else:
        start = 0
    most = vnet.SIZE + headers.MAX_HEADERS + gso_size * MAX_SEGMENTS if gso_type else _LARGEST
    return Rule(most, version, protocol, start)


def header_size(rule: Rule, item: memoryview) -> int:
    """Bytes of the headers of the packet behind the vnet header, 0 where they don't matter; -1 where the packet is not
    as the vnet header has it. The packet has a whole IP header.
    """
    if len(item) > rule.most:
        return -1
    if not rule.protocol:
        return 0
    at = vnet.SIZE
    version = item[at] >> 4
    if rule.version and version != rule.version:
        return -1
    if version == 4:
        transport, protocol = (item[at] & 15) * 4, item[at + 9]
        if transport < _SHORTEST_IPV4:  # its transport header would lie in its own
            return -1
    else:
        transport, protocol = 40, item[at + 6]
        if protocol != rule.protocol:
            transport, protocol = headers.skip_extensions(item, at, len(item))
    if protocol != rule.protocol or (rule.start and rule.start != transport):
        return -1
    if len(item) < at + transport + _SHORTEST[protocol]:
        return -1
    size = transport + (item[at + transport + DATA_OFFSET] >> 4) * 4 if protocol == TCP else transport + 8
    return size if transport + _SHORTEST[protocol] <= size <= len(item) - at else -1
