"""Datagrams of our own that the host's routes bring back to the interface that they came from.

A peer whose endpoint is routed into the tunnel to that same peer gets every datagram once more, 60 bytes larger each
time, and twice as often from the path MTU on, where the kernel fragments it: one packet would keep a processor busy for
good and leave no room for others. A peer behind *another* peer is fine, that is onion routing.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from qtunnel.wireguard.endpoint import Endpoint

_UDP: Final = 17
_FRAGMENT: Final = 44
_IPV6_HEADER: Final = 40
_FRAGMENT_HEADER: Final = 8
_PORTS: Final = 4

MAY_COME_BACK: Final = frozenset((_UDP, _FRAGMENT))
"""IP protocols, or IPv6 next headers, of packets worth a look."""


def comes_back(packet: memoryview, port: int, endpoint: Endpoint) -> bool:
    """Whether an IP packet for the peer at ``endpoint`` is a datagram that our port has sent to it.

    Of a fragmented datagram the first fragment is; the others say nothing, and end after one more round.
    """
    version = packet[0] >> 4
    if version == 4:
        at = (packet[0] & 15) * 4
        is_udp = packet[9] == _UDP and not (packet[6] & 0x1F or packet[7])
        destination = slice(16, 20)
    else:
        at = _IPV6_HEADER
        protocol = packet[6]
        if protocol == _FRAGMENT and len(packet) >= at + _FRAGMENT_HEADER:
            protocol = 0 if packet[at + 2] or packet[at + 3] & 0xF8 else packet[at]
            at += _FRAGMENT_HEADER
        is_udp = protocol == _UDP
        destination = slice(24, 40)
    if not is_udp or len(packet) < at + _PORTS:
        return False
    if (packet[at] << 8 | packet[at + 1], packet[at + 2] << 8 | packet[at + 3]) != (port, endpoint[1]):
        return False
    return packet[destination] == ipaddress.ip_address(endpoint[0]).packed
