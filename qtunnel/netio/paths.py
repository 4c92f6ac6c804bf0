"""Sticky source addresses: an answer leaves from the local address that the peer's last packet came to.

A host with several addresses would otherwise answer from the one that its routing prefers, and the peer, or a NAT
before it, would not know it (ip(7) IP_PKTINFO, RFC 3542 section 6). A source is given up

- when a datagram cannot be sent with it (the address is no longer ours, or has no route),
- when routes changed, and the way to the peer no longer leaves by the interface that its packets come in by,
- by the device: when an endpoint is configured, sockets are opened anew, or a handshake gets no answer.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Final

from qtunnel.addresses import unpack_address
from qtunnel.netio.routes import Routes
from qtunnel.wireguard.endpoint import Endpoint

AncillaryData = tuple[int, int, bytes]
"""Level, type and data of a control message, as ``sendmsg`` takes it."""

IP_PKTINFO: Final = 8
"""ip(7); the socket module of Python 3.11 does not name it."""

MAX_PATHS = 4096
"""Paths remembered, about a megabyte. Unauthenticated datagrams make paths too, so beyond it all are forgotten; the
peers keep theirs."""

_IN_PKTINFO = struct.Struct("=I4s4s")
"""Interface index, local address to answer from, address that the header named."""

_IN6_PKTINFO = struct.Struct("=16sI")


class Path:
    """What an endpoint that was learned from a datagram knows besides: where that datagram came in.

    source: control messages to send with, empty once given up. came_in: the control data they are made of.
    interface: the index of the interface it came in by. generation: that of the routes it was last checked with.
    """

    source: list[AncillaryData]
    came_in: bytes
    interface: int
    generation: int


class Path4(Path, tuple[str, int]):
    """A path to an IPv4 endpoint; equal to the plain endpoint."""


class Path6(Path, tuple[str, int, int, int]):
    """A path to an IPv6 endpoint; equal to the plain endpoint."""


class Paths:
    """Gives equal paths the same object, so that what is made for one is made once."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._known: dict[tuple[Endpoint, bytes], Path4 | Path6] = {}
        self.fwmark = 0

    def learn(self, address: Endpoint, ancillary: Sequence[AncillaryData]) -> Endpoint:
        """The path of a datagram from ``address`` with that control data; the bare address where it has none."""
        for level, kind, data in ancillary:
            if (level == socket.IPPROTO_IP and kind == IP_PKTINFO) or (
                level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO
            ):
                return self._known.get((address, data)) or self._new(address, data)
        return address

    def _new(self, address: Endpoint, came_in: bytes) -> Path4 | Path6:
        made: Path4 | Path6
        if len(address) == 2:
            made = Path4(address)
            made.interface, local, _ = _IN_PKTINFO.unpack(came_in)
            # The address alone: the interface follows from routing, as it does in the kernel's WireGuard.
            made.source = [(socket.IPPROTO_IP, IP_PKTINFO, _IN_PKTINFO.pack(0, local, bytes(4)))]
        else:
            made = Path6(address)
            local, made.interface = _IN6_PKTINFO.unpack(came_in)
            scope = made.interface if ipaddress.IPv6Address(local).is_link_local else 0
            made.source = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(local, scope))]
        made.came_in = came_in
        made.generation = self._routes.generation
        if len(self._known) >= MAX_PATHS:
            self._known.clear()
        self._known[address, came_in] = made
        return made

    def source_of(self, endpoint: Endpoint) -> list[AncillaryData]:
        """The control messages to send to ``endpoint`` with; the same list until it is given up."""
        if not isinstance(endpoint, Path):
            return []
        if endpoint.generation != self._routes.generation:
            self._check(endpoint)
        return endpoint.source

    def _check(self, path: Path4 | Path6) -> None:
        """Routes changed since the last look: is this still the way to the peer?"""
        path.generation = self._routes.generation
        if not path.source or (len(path) == 4 and path[3]):  # a scope: there is one way only
            return
        data = path.source[0][2]
        local = _IN_PKTINFO.unpack(data)[1] if len(path) == 2 else _IN6_PKTINFO.unpack(data)[0]
        source = unpack_address(local)
        if self._routes.interface_to(path[0], source, self.fwmark) != path.interface:
            self.give_up(path)

    def give_up(self, endpoint: Endpoint) -> None:
        """Let routing choose the source from now on, until the next packet of the peer tells of one."""
        if isinstance(endpoint, Path):
            endpoint.source = []
            if self._known.get((endpoint, endpoint.came_in)) is endpoint:
                del self._known[endpoint, endpoint.came_in]
