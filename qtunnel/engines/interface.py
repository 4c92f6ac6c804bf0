"""The tunnel's network interface on the host: addresses, MTU, state and routes, by netlink.

The engine makes the interface and takes it away; this module sets it up. ``up`` is to be called only once every peer
has a preshared key.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from pyroute2 import AsyncIPRoute

from qtunnel.constants import DEFAULT_MTU
from qtunnel.engines.base import IPNetwork
from qtunnel.engines.bypass import Bypass
from qtunnel.engines.netlink import UNREACHABLE, link, netlink_for, routes, words
from qtunnel.engines.outcome import Outcome
from qtunnel.errors import InterfaceError

IPInterface = IPv4Interface | IPv6Interface

TXQUEUELEN = 1000
"""Packets. A TUN's own default, 500, drops when a burst meets an engine that is scheduled out for some milliseconds."""

WORST_METRIC = 0x7FFF_FFFF
"""Guards are worse than any route that people or routing daemons make (the kernel's own of IPv6 have 256 and 1,024)."""

ROUTE_METRIC = {4: 0, 6: 1}
"""By IP version, the best that a route can have: nobody else's to the same prefix may win. 0 means 1,024 to IPv6."""

IFF_UP = 1


def guard_metric_of(wireguard_port: int) -> int:
    """The metric of one gateway's guards: WireGuard's UDP port, which one gateway of a host has, tells whose they are.

    So a clean stop takes nobody else's away, also none of a gateway that crashed with the same prefixes.
    """
    return WORST_METRIC - wireguard_port


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """What ``up`` makes of the interface.

    allowed_ips: of all peers together; routed to the interface where ``routes`` is true. mark: of the datagrams that
    carry the tunnel, which never go into it; 0 where nobody marks them. guard_metric: of this gateway's guards alone.
    """

    name: str
    addresses: tuple[IPInterface, ...] = ()
    mtu: int = DEFAULT_MTU
    allowed_ips: tuple[IPNetwork, ...] = ()
    routes: bool = True
    txqueuelen: int = TXQUEUELEN
    mark: int = 0
    guard_metric: int = WORST_METRIC


@dataclass(slots=True)
class Former:
    """What earlier configurations made and the present one does without, until it is taken away."""

    addresses: set[IPInterface] = field(default_factory=set)
    routes: set[IPNetwork] = field(default_factory=set)
    guards: set[IPNetwork] = field(default_factory=set)
    bypasses: list[Bypass] = field(default_factory=list)

    def add(
        self, addresses: Sequence[IPInterface], routes: Sequence[IPNetwork], guards: Sequence[IPNetwork], bypass: Bypass
    ) -> None:
        self.addresses.update(addresses)
        self.routes.update(routes)
        self.guards.update(guards)
        self.bypasses.append(bypass)

    def without(
        self, addresses: Sequence[IPInterface], routes: Sequence[IPNetwork], guards: Sequence[IPNetwork]
    ) -> None:
        """Leave out what is wanted now."""
        self.addresses.difference_update(addresses)
        self.routes.difference_update(routes)
        self.guards.difference_update(guards)

    def words(self) -> list[str]:
        """What is left to do."""
        left = [*self.routes, *self.addresses, *self.guards]
        return [f"the end of what the configuration had before ({', '.join(map(str, left))})"] if left else []


def plan_routes(addresses: Sequence[IPInterface], allowed_ips: Sequence[IPNetwork]) -> list[IPNetwork]:
    """The routes that bring ``allowed_ips`` to the interface, each once, in order.

    A default route becomes two halves, which win over the host's own default route and leave it in place. The prefix
    of one of the interface's addresses needs no route: the kernel makes that one. What is inside of it does, since
    another interface may have the same prefix.
    """
    connected = {address.network for address in addresses}
    parts = (part for network in allowed_ips for part in (network.subnets() if network.prefixlen == 0 else (network,)))
    return list(dict.fromkeys(part for part in parts if part not in connected))


def plan_outcome(addresses: Sequence[IPInterface], allowed_ips: Sequence[IPNetwork]) -> list[IPNetwork]:
    """The prefixes that have to lead to the interface: its routes, and the prefixes of its addresses in them."""
    planned = dict.fromkeys(plan_routes(addresses, allowed_ips))
    for address in addresses:
        if any(_within(address.network, network) for network in allowed_ips):
            planned[address.network] = None
    return list(planned)


def plan_guards(addresses: Sequence[IPInterface], allowed_ips: Sequence[IPNetwork]) -> list[IPNetwork]:
    """The unreachable routes that stand behind the tunnel's own, with the same prefixes: when the interface is gone,
    its routes are too, and without these its packets would leave in the clear by the host's default route."""
    guards = dict.fromkeys(plan_routes(addresses, allowed_ips))
    for address in addresses:
        if any(_within(network, address.network) for network in allowed_ips):
            guards[address.network] = None
    return list(guards)


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # versions are equal


def _address(address: IPInterface) -> dict[str, Any]:
    return {"address": str(address.ip), "prefixlen": address.network.prefixlen}


def _route(network: IPNetwork, index: int) -> dict[str, Any]:
    return {"dst": str(network), "oif": index, "priority": ROUTE_METRIC[network.version]}


class Interface:
    """One interface; every failure is an ``InterfaceError`` that says what was being done."""

    def __init__(self, config: InterfaceConfig) -> None:
        self._guarded: set[IPNetwork] = set()
        self._index: int | None = None
        self._former = Former()
        self.warnings: list[str] = []
        """What the host does that the tunnel cannot change, a line each."""
        self._plan(config)

    def _plan(self, config: InterfaceConfig) -> None:
        self.config = config
        self._routes = plan_routes(config.addresses, config.allowed_ips) if config.routes else []
        self.guards = plan_guards(config.addresses, config.allowed_ips) if config.routes else []
        """The prefixes that stay unreachable while the interface is gone."""
        self._versions = sorted({network.version for network in self.guards})
        checked = plan_outcome(config.addresses, config.allowed_ips) if config.routes else []
        self._outcome = Outcome(config.name, checked)
        self.undone = True
        """Whether the last look found something that ``put_back`` can mend; not where others have our prefixes."""
        self.rekeyed: list[str] = []
        self.away: list[str] = []
        """Of an engine of our own, nobody changes keys or peers; see ``OwnersInterface``."""
        self._bypass = Bypass(config.name, config.mark, self.guards)

    async def change(self, config: InterfaceConfig) -> None:
        """Other addresses, MTU and allowed IPs from now on; name, mark and metric stay. What is in both is not touched.

        What is new comes first, so that no prefix is without a route or a guard in between. Where the interface is not
        up yet, ``up`` does it; what fails is done by ``put_back``.
        """
        self._former.add(self.config.addresses, self._routes, self.guards, self._bypass)
        self._plan(config)
        self._former.without(config.addresses, self._routes, self.guards)
        await self.put_back()

    async def _take_former(self, netlink: AsyncIPRoute, index: int) -> None:
        """What an earlier configuration had and this one has not; the guards last."""
        former = self._former
        for network in tuple(former.routes):
            await self._unroute(netlink, network, index)
            former.routes.discard(network)
        for address in tuple(former.addresses):
            with words(self.config.name, f"removing address {address}", (errno.EADDRNOTAVAIL,)):
                await netlink.addr("del", index=index, **_address(address))
            former.addresses.discard(address)
        for bypass in former.bypasses:
            await bypass.take(netlink, keep=self._bypass)
        former.bypasses.clear()
        for network in tuple(former.guards):
            await self._unguard_one(netlink, network)
            former.guards.discard(network)

    async def _unroute(self, netlink: AsyncIPRoute, network: IPNetwork, index: int) -> None:
        with words(self.config.name, f"removing the route to {network}", (errno.ESRCH,)):
            await netlink.route("del", **_route(network, index))

    @property
    def looks(self) -> int:
        """How many calls of ``missing`` it takes until everything was looked at."""
        return self._outcome.looks

    @property
    def is_up(self) -> bool:
        """Whether ``up`` was called, and neither ``undo`` nor ``down`` since."""
        return self._index is not None

    async def up(self, index: int | None = None) -> None:
        """Set the guards, queue, MTU and addresses, then the link up, then the routes.

        Guards that a former run left for prefixes that nobody wants any more go last, once nothing can fail.

        To be called only for an interface that this process's engine has made: from here on it is ours, and ``down``
        takes it away. The guards stay when the engine or this process dies; only ``down`` and ``undo`` take them away.
        index: the number of the engine's interface, where it is known; another one of its name is not touched.
        """
        async with self._netlink() as netlink:
            found = await netlink.link_lookup(ifname=self.config.name)
            if not found or index not in (None, int(found[0])):
                raise InterfaceError(f"interface {self.config.name} does not exist; its engine is not running")
            self._index = int(found[0])
            self._outcome.all_due = self.undone = True
            await self._set_up(netlink, self._index)
            await self._take_former(netlink, self._index)
            await self._unguard_former(netlink)

    async def _set_up(self, netlink: AsyncIPRoute, index: int) -> None:
        config = self.config
        for network in self.guards:
            await self._guard(netlink, network)
        self.warnings = await self._bypass.put(netlink, index)
        with words(config.name, f"mtu {config.mtu}"):
            await netlink.link(
                "set", index=index, mtu=config.mtu, txqlen=config.txqueuelen, group=self._bypass.group
            )  # fmt: skip
        for address in config.addresses:
            with words(config.name, f"address {address}"):
                await netlink.addr("replace", index=index, **_address(address))
        with words(config.name, "link up"):
            await netlink.link("set", index=index, state="up")
        there = {version: await self._ways(netlink, index, version) for version in self._versions}
        for network in self._routes:
            if network not in there[network.version]:
                with words(config.name, f"route to {network}"):
                    await netlink.route("add", **_route(network, index))

    async def _guard(self, netlink: AsyncIPRoute, network: IPNetwork) -> None:
        # One that is there is of a run that ended without ``down``: it has done its duty and is ours again.
        with words(self.config.name, f"unreachable route behind {network}", (errno.EEXIST,)):
            await netlink.route("add", dst=str(network), type="unreachable", priority=self.config.guard_metric)
            self._guarded.add(network)

    async def undo(self) -> None:
        """After a start that failed: take away what this object made, but not the guards that it found."""
        if self._index is not None:
            self._index = None
            await self._unguard(all_of_them=False)

    async def _unguard(self, *, all_of_them: bool) -> None:
        async with self._netlink() as netlink:
            await self._bypass.take(netlink)
            for network in {*self.guards, *self._former.guards}:
                if all_of_them or network in self._guarded:
                    await self._unguard_one(netlink, network)
            self._guarded.clear()

    async def _unguard_one(self, netlink: AsyncIPRoute, network: IPNetwork) -> None:
        with words(self.config.name, f"removing the unreachable route to {network}", (errno.ESRCH,)):
            await netlink.route("del", dst=str(network), type="unreachable", priority=self.config.guard_metric)

    async def _unguard_former(self, netlink: AsyncIPRoute) -> None:
        wanted = set(self.guards)
        for version in (4, 6):
            for network in await self._behind(netlink, version) - wanted:
                await self._unguard_one(netlink, network)

    async def _behind(self, netlink: AsyncIPRoute, version: int) -> set[IPNetwork]:
        """The prefixes that have a guard of this gateway."""
        found = await routes(netlink, version, kind=UNREACHABLE)
        return {route.network for route in found if route.metric == self.config.guard_metric}

    async def _ways(self, netlink: AsyncIPRoute, index: int, version: int) -> set[IPNetwork]:
        """The prefixes with a route like ours to the interface; the kernel's own of IPv6 have other metrics."""
        found = await routes(netlink, version, oif=index)
        return {route.network for route in found if route.metric == ROUTE_METRIC[version]}

    async def missing(self) -> list[str]:
        """In words, what of ``up`` somebody has undone since, and the prefixes that lead to another interface; nothing
        where the interface itself is gone."""
        async with self._netlink() as netlink:
            index = await self._ours(netlink)
            if index is None:
                return []
            ours = await link(netlink, self.config.name, index)
            if ours is None:
                return []
            found = [] if ours["flags"] & IFF_UP else ["the link is down"]
            if self._bypass.group not in (0, ours.get("group")):
                found.append("its group, which keeps the tunnel's own datagrams out of it")
            present = {ip_interface((a.get("local") or a.get("address"), a["prefixlen"]))
                       async for a in await netlink.addr("dump", index=index)}  # fmt: skip
            found += [f"address {address}" for address in self.config.addresses if address not in present]
            absent = []
            for version in self._versions:
                ways = await self._ways(netlink, index, version)
                behind = await self._behind(netlink, version)
                lost = [net for net in self._routes if net.version == version and net not in ways]
                absent += lost
                found += [f"route to {net}" for net in lost]
                found += [
                    f"unreachable route behind {net}"
                    for net in self.guards
                    if net.version == version and net not in behind
                ]
            found += self._former.words()
            self.undone = bool(found)
            with words(self.config.name, "asking where packets go"):
                astray = await self._outcome.astray(netlink, index, absent)
            found += [
                f"way to {net} ({other} has it, by a route, an address or a rule)" for net, other in astray.items()
            ]
        return found

    async def put_back(self) -> None:
        """Do again what ``up`` does; nothing where the interface is gone or its name has become another's, or where
        the last look found nothing that doing it again would change."""
        if not self.undone:
            return
        async with self._netlink() as netlink:
            index = await self._ours(netlink)
            if index is not None:
                await self._set_up(netlink, index)
                await self._take_former(netlink, index)

    async def follow_routes(self) -> None:
        """Lead the tunnel's own datagrams by the routes that the host has now."""
        async with self._netlink() as netlink:
            index = await self._ours(netlink)
            if index is not None:
                self.warnings = await self._bypass.put(netlink, index)

    async def down(self) -> None:
        """Take routes and addresses away, set the link down, and last take the guards away; an interface that is gone
        is fine. Nothing where ``up`` was not called, or for another interface that has the name now."""
        if self._index is None:
            return
        try:
            await self._down()
        finally:
            self._index = None
            await self._unguard(all_of_them=True)

    async def _down(self) -> None:
        async with self._netlink() as netlink:
            index = await self._ours(netlink)
            if index is None:
                return
            for network in self._routes:
                await self._unroute(netlink, network, index)
            for address in self.config.addresses:
                with words(self.config.name, f"removing address {address}", (errno.EADDRNOTAVAIL,)):
                    await netlink.addr("del", index=index, **_address(address))
            with words(self.config.name, "link down", (errno.ENODEV,)):
                await netlink.link("set", index=index, state="down")

    def _netlink(self) -> AbstractAsyncContextManager[AsyncIPRoute]:
        return netlink_for(self.config.name)

    async def _ours(self, netlink: AsyncIPRoute) -> int | None:
        """The index of our interface while it is there."""
        found = await netlink.link_lookup(ifname=self.config.name)
        return self._index if found and int(found[0]) == self._index else None
