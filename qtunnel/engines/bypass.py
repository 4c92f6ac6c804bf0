"""The way around the tunnel, for the datagrams that carry it and for nothing else.

A peer's address may lie inside what is routed into the tunnel: with a default route it always does. Whose datagrams go
around must not be a matter of their destination, which whoever answers a name query chooses: everything else for that
address would leave in the clear. So the sockets of engine and daemon mark what they send (SO_MARK), and three routing
rules per IP version, for that mark alone, let it go where the host would send it if there were no tunnel:

1. by the main table, unless that leads to the tunnel's interface, which its group tells;
2. by a table of the tunnel's own, with a copy of those routes of the main one that the tunnel's routes hide;
3. nowhere. Never into the tunnel, where the engine would wrap its own packets for ever.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute

from qtunnel.engines.base import IPNetwork
from qtunnel.engines.netlink import MAIN_TABLE, Route, family, link, routes, words

MARK_BASE = 0x7174_0000
"""Upper half of mark, table and group ("qt"); the lower is WireGuard's UDP port, which one tunnel of a host has."""

PRIORITY = 30_000
"""Of the first rule: before the main table (32,766) and what others commonly put right before it, after ``local``."""

RP_FILTER = "/proc/sys/net/ipv4/conf"
STRICT = 1


def mark_of(wireguard_port: int) -> int:
    """The mark, 32 bits, of all that one tunnel sends outside; also the number of its table and of its group."""
    return MARK_BASE | wireguard_port


class Bypass:
    """Rules and table of one interface. prefixes: of all that goes into the tunnel; without any, nothing is done."""

    def __init__(self, interface: str, mark: int, prefixes: Sequence[IPNetwork]) -> None:
        self._interface, self._mark = interface, mark
        self._prefixes = tuple(prefixes) if mark else ()
        self._versions = sorted({network.version for network in self._prefixes})

    @property
    def group(self) -> int:
        """The group that the interface has to be in; 0 is what every interface is in by itself."""
        return self._mark if self._prefixes else 0

    def _rules(self) -> list[dict[str, Any]]:
        mark = self._mark
        return [
            {"fwmark": mark, "priority": PRIORITY, "table": MAIN_TABLE, "suppress_ifgroup": mark},
            {"fwmark": mark, "priority": PRIORITY + 1, "table": mark},
            {"fwmark": mark, "priority": PRIORITY + 2, "action": "unreachable"},
        ]

    async def put(self, netlink: AsyncIPRoute, index: int) -> list[str]:
        """Put the rules in place, also those that somebody took away, and the table right.

        index: of the tunnel's interface. Returns warnings, a line each.
        """
        warnings = []
        for version in self._versions:
            for rule in self._rules():
                with words(self._interface, "the rules for its own datagrams", (errno.EEXIST,)):
                    await netlink.rule("add", family=family(version), **rule)
            hidden = await self._hidden(netlink, index, version)
            present = set(await routes(netlink, version, table=self._mark))
            for route in present - hidden:
                await self._change(netlink, "del", route)
            for route in sorted(hidden - present, key=lambda route: (route.network.prefixlen, route.metric)):
                await self._change(netlink, "add", route)
            if version == 4:
                warnings += await self._strict(netlink, hidden)
        return warnings

    async def take(self, netlink: AsyncIPRoute, keep: Bypass | None = None) -> None:
        """Take rules and table away; those that are gone are fine. keep: another one of the same mark, whose IP
        versions stay as they are."""
        for version in self._versions:
            if keep is not None and version in keep._versions:
                continue
            for rule in self._rules():
                with words(self._interface, "removing its routing rules", (errno.ENOENT,)):
                    await netlink.rule("del", family=family(version), **rule)
            for route in await routes(netlink, version, table=self._mark):
                await self._change(netlink, "del", route)

    async def _change(self, netlink: AsyncIPRoute, command: str, route: Route) -> None:
        # Gone, or with a gateway that is out of reach: the next look sees what there is then.
        passing = (errno.ESRCH, errno.EEXIST, errno.ENODEV, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
        with words(self._interface, f"the way around the tunnel by {route.network}", passing):
            await netlink.route(command, table=self._mark, **route.arguments())

    async def _hidden(self, netlink: AsyncIPRoute, index: int, version: int) -> set[Route]:
        """The host's routes that contain one of the tunnel's: without the tunnel they would be next best."""
        only = _containing([network for network in self._prefixes if network.version == version])
        found = await routes(netlink, version, only=only)
        return {route for route in found if route.interface not in (None, index)}

    async def _strict(self, netlink: AsyncIPRoute, hidden: set[Route]) -> list[str]:
        """The kernel's reverse path filter knows no marks: in its strict mode it drops what peers in there answer."""
        found = []
        for index in sorted({route.interface for route in hidden if route.interface is not None}):
            found_link = await link(netlink, self._interface, index)
            if found_link is None:
                continue  # gone since the routes were told, and its routes with it
            name = str(found_link.get("ifname"))
            if max(_rp_filter("all"), _rp_filter(name)) == STRICT:
                found.append(
                    f"interface {name} drops what peers with addresses inside allowed_ips send: its reverse path "
                    f"filter is strict; make it loose (sysctl -w net.ipv4.conf.{name}.rp_filter=2)"
                )
        return found


def _containing(prefixes: Sequence[IPNetwork]) -> Callable[[int, int], bool]:
    """Whether a destination with a length contains one of the prefixes, of one IP version; quick for many of both."""
    heads: dict[int, set[int]] = {}

    def contains(destination: int, length: int) -> bool:
        if length not in heads:
            heads[length] = {
                int(prefix.network_address) >> (prefix.max_prefixlen - length)
                for prefix in prefixes
                if prefix.prefixlen >= length
            }
        return bool(heads[length]) and destination >> (prefixes[0].max_prefixlen - length) in heads[length]

    return contains


def _rp_filter(name: str) -> int:
    try:
        return int(Path(RP_FILTER, name, "rp_filter").read_text())
    except (OSError, ValueError):
        return 0
