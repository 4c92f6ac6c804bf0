"""Datagrams of our own, or of another tunnel here, that the host's routes bring back into the tunnel.

A peer whose endpoint is routed into the tunnel to that same peer gets every datagram once more, 60 bytes larger each
time, and twice as often from the path MTU on, where the kernel fragments it: one packet would keep a processor busy for
good and leave no room for others. Such a datagram is told by its ports, its destination and its session: a host behind
this gateway, with a tunnel of its own to the same server, mostly has the same ports. A peer behind *another* peer is
fine, that is onion routing.

Two interfaces that carry each other make the same storm, and neither can tell whose datagram it has. So a tunnel takes
hops away from what is a tunnel's datagram already (as RFC 2473 section 5.1 limits nested encapsulation, with what every
IP header has): each sends it on with ``HOPS_PER_TUNNEL`` fewer than it came with, until none are left.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.messages import TYPE_DATA
from qtunnel.wireguard.packets import IPV4_HEADER, IPV6_HEADER
from qtunnel.wireguard.record_format import MAX_COUNT, PARITY, TYPE_RECORD
from qtunnel.wireguard.session import Keypairs

_UDP: Final = 17
_FRAGMENT: Final = 44
_FRAGMENT_HEADER: Final = 8
_PORTS: Final = 4
_NO_OPTIONS: Final = 0x45
"""The first byte of an IPv4 header of just that size."""

_WITH_DATA: Final = frozenset((TYPE_DATA, TYPE_RECORD))

_UDP_HEADER: Final = 8
_MESSAGE_HEADER: Final = 4
_INDEX_END: Final = _MESSAGE_HEADER + 4
"""Data messages and records have the receiver index of their session behind their first four bytes."""

MAY_COME_BACK: Final = frozenset((_UDP, _FRAGMENT))
"""IP protocols, or IPv6 next headers, of packets worth a look."""

DEFAULT_HOPS: Final = 64
"""Hop limit that a datagram starts with, unless the host is set to another (RFC 1700, net.ipv4.ip_default_ttl)."""

HOPS_PER_TUNNEL: Final = 8
"""So that a packet passes 8 tunnels at most, as it does in the kernel (XMIT_RECURSION_LIMIT). With one tunnel in
another, 56 hops are left for the way, more than any path of the Internet has."""


def may_be_nested(buffer: memoryview, offset: int, length: int) -> bool:
    """A quick look at the IP packet ``buffer[offset : offset + length]``, whose protocol is one of ``MAY_COME_BACK``:
    whether it could be a tunnel's datagram with data. A storm is made of nothing else."""
    first = buffer[offset]
    if first == _NO_OPTIONS:
        at = IPV4_HEADER + _UDP_HEADER
    elif first >> 4 == 6 and buffer[offset + 6] == _UDP:
        at = IPV6_HEADER + _UDP_HEADER
    else:
        return True
    return length <= at or buffer[offset + at] in _WITH_DATA


def udp_header(packet: memoryview) -> int:
    """Where the UDP header of an IP packet begins; 0 where it has none that can be read.

    Of a fragmented datagram the first fragment has it; the others say nothing, and end after one more round.
    """
    if packet[0] >> 4 == 4:
        at = (packet[0] & 15) * 4
        is_udp = packet[9] == _UDP and not (packet[6] & 0x1F or packet[7])
    else:
        at = IPV6_HEADER
        protocol = packet[6]
        if protocol == _FRAGMENT and len(packet) >= at + _FRAGMENT_HEADER:
            protocol = 0 if packet[at + 2] or packet[at + 3] & 0xF8 else packet[at]
            at += _FRAGMENT_HEADER
        is_udp = protocol == _UDP
    return at if is_udp and len(packet) >= at + _PORTS else 0


def comes_back(packet: memoryview, at: int, port: int, endpoint: Endpoint, keypairs: Keypairs) -> bool:
    """Whether a packet for the peer at ``endpoint``, with its UDP header ``at``, was sent to it by our port, under one
    of these sessions."""
    if (packet[at] << 8 | packet[at + 1], packet[at + 2] << 8 | packet[at + 3]) != (port, endpoint[1]):
        return False
    destination = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
    if destination != ipaddress.ip_address(endpoint[0]).packed:
        return False
    message = at + _UDP_HEADER
    index = packet[message + _MESSAGE_HEADER : message + _INDEX_END]
    return any(index == keypair.remote_index.to_bytes(4, "little") for keypair in keypairs.held)


def hops_left(packet: memoryview, at: int) -> int | None:
    """The hop limit to send a packet on with, if it is a tunnel's datagram; at 0 or less it went around too often.

    None where it is none, so that the host's default applies. at: where its UDP header begins.
    """
    at += _UDP_HEADER
    if len(packet) < at + _MESSAGE_HEADER or packet[at + 3]:
        return None
    kind, second, third = packet[at], packet[at + 1], packet[at + 2]
    if kind == TYPE_DATA:
        ours = not second and not third
    else:
        ours = kind == TYPE_RECORD and 0 < third <= MAX_COUNT and (second < third or second == PARITY)
    if not ours:
        return None
    return min(packet[8] if packet[0] >> 4 == 4 else packet[7], DEFAULT_HOPS) - HOPS_PER_TUNNEL
