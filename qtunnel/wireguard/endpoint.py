"""A peer's outer address, in the shape that sockets use."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

Endpoint = tuple[str, int] | tuple[str, int, int, int]
"""IPv4: (address, port). IPv6: (address, port, flow label, scope id).

One that came with a datagram may be of a subclass by which the host remembers the local address it came to, to answer
from there. Nobody in this room looks at that; ``without_source`` forgets it."""


def without_source(endpoint: Endpoint) -> Endpoint:
    """The plain endpoint: the host's routing chooses the local address."""
    if len(endpoint) == 2:
        return endpoint[0], endpoint[1]
    return endpoint[0], endpoint[1], endpoint[2], endpoint[3]


def format_endpoint(endpoint: Endpoint) -> str:
    """``a.b.c.d:port`` or ``[v6]:port``, with ``%scope`` where there is one."""
    if len(endpoint) == 2:
        return f"{endpoint[0]}:{endpoint[1]}"
    scope = f"%{endpoint[3]}" if endpoint[3] else ""
    return f"[{endpoint[0]}{scope}]:{endpoint[1]}"


def parse_endpoint(text: str, scope_index: Callable[[str], int]) -> Endpoint:
    """The reverse; numeric addresses only. ``scope_index`` turns an interface's name into its index.

    Raises ``ValueError`` where it is no endpoint.
    """
    host, colon, port_text = text.rpartition(":")
    if not colon or not port_text.isascii() or not port_text.isdigit():
        raise ValueError("an endpoint is a.b.c.d:port or [v6]:port")
    port = int(port_text)
    if not 0 < port < 1 << 16:
        raise ValueError("a port is 1 to 65535")
    if not (host.startswith("[") and host.endswith("]")):
        return str(ipaddress.IPv4Address(host)), port
    address, _, scope = host[1:-1].partition("%")
    parsed = ipaddress.IPv6Address(address)
    if parsed.ipv4_mapped is not None:  # IPv4 has a socket of its own
        return str(parsed.ipv4_mapped), port
    index = 0
    if scope:
        index = int(scope) if scope.isascii() and scope.isdigit() else scope_index(scope)
    return str(parsed), port, 0, index
