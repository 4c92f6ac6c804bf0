"""Where the kernel really sends packets for the tunnel's prefixes: asked, since a route that is there need not win.

Another interface may have the same or a wider prefix of a better kind, or a routing rule may lead elsewhere. A route
of the host that is more specific than the tunnel's is no fault: it goes first by design.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from qtunnel.engines.base import IPNetwork
from qtunnel.engines.netlink import UNICAST, family, link

PER_LOOK = 64
"""Prefixes. A question takes about 0.6 ms; a look is to stay below some 5 % of the second between two."""

ADDRESSES = 4
"""Tried of a prefix. The first is often a broadcast or anycast address and the next one the host's own: these answers
tell nothing of the others."""

FIB_MATCH = 0x2000
"""RTM_F_FIB_MATCH: the answer is the route itself, with its prefix (Linux 4.13 and later)."""

ZERONET = 2**24
"""Addresses, 0.0.0.0/8: not for sending."""

CLOSED = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EINVAL)
"""What the kernel answers for unreachable, no route, prohibit and blackhole: nothing leaves."""


class Outcome:
    """The prefixes that have to lead to the interface, some of them at each look, in turn."""

    def __init__(self, interface: str, prefixes: Sequence[IPNetwork]) -> None:
        self._interface, self._prefixes = interface, tuple(prefixes)
        self._next = 0
        self._astray: dict[IPNetwork, str] = {}
        self.all_due = True
        """Whether the next look asks for every prefix."""

    @property
    def looks(self) -> int:
        """Looks that ask for every prefix once."""
        return -(-len(self._prefixes) // PER_LOOK)

    async def astray(self, netlink: AsyncIPRoute, index: int, absent: Iterable[IPNetwork] = ()) -> dict[IPNetwork, str]:
        """Prefixes that lead to another interface, with its name. absent: without a route, which is known already.

        What was astray stays so until asked again. Raises ``NetlinkError``.
        """
        skipped = set(absent)
        for prefix in self._due():
            if prefix in skipped:
                self._astray.pop(prefix, None)
                continue
            other = await _other_way(netlink, index, prefix)
            if other is None:
                self._astray.pop(prefix, None)
            else:
                found = await link(netlink, self._interface, other)
                self._astray[prefix] = f"number {other}" if found is None else str(found.get("ifname"))
        self.all_due = False
        return dict(self._astray)

    def _due(self) -> Iterable[IPNetwork]:
        """Those astray first, then the next ones."""
        count = len(self._prefixes)
        if self.all_due or count <= PER_LOOK:
            return self._prefixes
        start, self._next = self._next, (self._next + PER_LOOK) % count
        turn = [self._prefixes[(start + i) % count] for i in range(PER_LOOK)]
        return dict.fromkeys([*list(self._astray)[:PER_LOOK], *turn])


async def _other_way(netlink: AsyncIPRoute, index: int, prefix: IPNetwork) -> int | None:
    """The index of the interface that has the prefix in place of ours; None where all is well."""
    for address in _samples(prefix):
        try:
            found = await netlink.route("get", dst=str(address), family=family(prefix.version), flags=FIB_MATCH)
        except NetlinkError as error:
            if error.code not in CLOSED:
                raise
            continue
        route = found[0]
        if route["type"] != UNICAST:
            continue
        if route["dst_len"] > prefix.prefixlen:
            return None
        hops = route.get("multipath")
        ways = [int(hop["oif"]) for hop in hops] if hops else [int(route.get("oif") or 0)]
        return next((way for way in ways if way != index), None)
    return None


def _samples(prefix: IPNetwork) -> Iterator[IPv4Address | IPv6Address]:
    start = ZERONET if prefix.version == 4 and int(prefix.network_address) < ZERONET else 0
    for offset in range(start, min(prefix.num_addresses, start + ADDRESSES)):
        yield prefix[offset]
