"""The tunnel's network interface on the host: addresses, MTU, state and routes, by netlink.

The engine makes the interface and takes it away; this module sets it up. ``up`` is to be called only once every peer
has a preshared key.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from qtunnel.constants import DEFAULT_MTU
from qtunnel.engines.base import IPNetwork
from qtunnel.errors import InterfaceError

IPInterface = IPv4Interface | IPv6Interface

TXQUEUELEN = 1000
"""Packets. A TUN's own default, 500, drops when a burst meets an engine that is scheduled out for some milliseconds."""

GUARD_METRIC = 0x7FFF_FFFF
"""Worse than any route that people or routing daemons make (the kernel's own IPv6 ones have 256 and 1,024)."""

MAIN_TABLE = 254
LINK_SCOPE = 253


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """What ``up`` makes of the interface.

    allowed_ips: of all peers together; routed to the interface where ``routes`` is true.
    """

    name: str
    addresses: tuple[IPInterface, ...] = ()
    mtu: int = DEFAULT_MTU
    allowed_ips: tuple[IPNetwork, ...] = ()
    routes: bool = True
    txqueuelen: int = TXQUEUELEN


def plan_routes(addresses: Sequence[IPInterface], allowed_ips: Sequence[IPNetwork]) -> list[IPNetwork]:
    """The routes that bring ``allowed_ips`` to the interface, each once, in order.

    A default route becomes two halves, which win over the host's own default route and leave it in place. What the
    prefix of one of the interface's addresses covers needs no route: the kernel makes that one.
    """
    wanted: dict[IPNetwork, None] = {}
    for network in allowed_ips:
        for part in network.subnets() if network.prefixlen == 0 else (network,):
            if not any(_within(part, address.network) for address in addresses):
                wanted[part] = None
    return list(wanted)


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


class Interface:
    """One interface; every failure is an ``InterfaceError`` that says what was being done."""

    def __init__(self, config: InterfaceConfig) -> None:
        self.config = config
        self._routes = plan_routes(config.addresses, config.allowed_ips) if config.routes else []
        self._guards = plan_guards(config.addresses, config.allowed_ips) if config.routes else []
        self._guarded: set[IPNetwork] = set()
        self._pinned: dict[IPNetwork, dict[str, Any]] = {}

    async def up(self) -> None:
        """Set the guards, queue, MTU and addresses, then the link up, then the routes.

        The guards stay when the engine or this process dies; only ``down`` and ``unguard`` take them away.
        """
        config = self.config
        async with self._netlink() as netlink:
            index = await self._index(netlink)
            for network in self._guards:
                await self._guard(netlink, network)
            with _words(config.name, f"mtu {config.mtu}"):
                await netlink.link("set", index=index, mtu=config.mtu, txqlen=config.txqueuelen)
            for address in config.addresses:
                with _words(config.name, f"address {address}"):
                    await netlink.addr("replace", index=index, **_address(address))
            with _words(config.name, "link up"):
                await netlink.link("set", index=index, state="up")
            for network in self._routes:
                with _words(config.name, f"route to {network}"):
                    await self._add_route(netlink, index, network)

    async def _guard(self, netlink: AsyncIPRoute, network: IPNetwork) -> None:
        # One that is there is of a run that ended without ``down``: it has done its duty and is ours again.
        with _words(self.config.name, f"unreachable route behind {network}", (errno.EEXIST,)):
            await netlink.route("add", dst=str(network), type="unreachable", priority=GUARD_METRIC)
            self._guarded.add(network)

    async def unguard(self, *, all_of_them: bool = False) -> None:
        """Take the unreachable routes away: those that this object made, or all that it found there, too."""
        async with self._netlink() as netlink:
            for network in self._guards:
                if all_of_them or network in self._guarded:
                    with _words(self.config.name, f"removing the unreachable route to {network}", (errno.ESRCH,)):
                        await netlink.route("del", dst=str(network), type="unreachable", priority=GUARD_METRIC)
            self._guarded.clear()

    async def _add_route(self, netlink: AsyncIPRoute, index: int, network: IPNetwork) -> None:
        try:
            await netlink.route("add", dst=str(network), oif=index)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            for route in await _routes(netlink, network.version):
                if route.network == network and route.interface == index:
                    return
            raise

    async def down(self) -> None:
        """Take routes, pinned routes and addresses away, set the link down, and last take the guards away; an
        interface that is gone is fine."""
        try:
            await self._down()
        finally:
            await self.unguard(all_of_them=True)

    async def _down(self) -> None:
        async with self._netlink() as netlink:
            for network in list(self._pinned):
                await self._unpin(netlink, network)
            found = await netlink.link_lookup(ifname=self.config.name)
            if not found:
                return
            for network in self._routes:
                with _words(self.config.name, f"removing the route to {network}", (errno.ESRCH,)):
                    await netlink.route("del", dst=str(network), oif=found[0])
            for address in self.config.addresses:
                with _words(self.config.name, f"removing address {address}", (errno.EADDRNOTAVAIL,)):
                    await netlink.addr("del", index=found[0], **_address(address))
            with _words(self.config.name, "link down", (errno.ENODEV,)):
                await netlink.link("set", index=found[0], state="down")

    async def pin_endpoint(self, address: str) -> bool:
        """Keep the packets to a peer's endpoint out of the tunnel that they carry.

        Where one of the tunnel's routes covers the endpoint, a host route goes the way the host would take without
        the tunnel. Returns whether such a route is in place; raises ``InterfaceError`` where there is no other way.
        """
        host = _host_network(address)
        if host.is_link_local or not any(_within(host, network) for network in self._routes):
            return False
        async with self._netlink() as netlink:
            index = await self._index(netlink)
            ways = [
                route
                for route in await _routes(netlink, host.version)
                if route.interface not in (None, index) and _within(host, route.network)
            ]
            if not ways:
                raise InterfaceError(
                    f"interface {self.config.name}: its routes cover the endpoint {address} and the host has no other "
                    "route to it; add one, or take the endpoint out of allowed_ips"
                )
            best = max(ways, key=lambda route: (route.network.prefixlen, -route.metric))
            if best.network == host:
                return True  # pinned before, or the administrator's own
            way: dict[str, Any] = {"dst": str(host), "oif": best.interface}
            way |= {"gateway": best.gateway} if best.gateway is not None else {"scope": LINK_SCOPE}
            with _words(self.config.name, f"host route to the endpoint {address}"):
                await netlink.route("add", **way)
            self._pinned[host] = way
        return True

    async def unpin_endpoint(self, address: str) -> None:
        """Undo ``pin_endpoint``; nothing where nothing was pinned."""
        host = _host_network(address)
        if host in self._pinned:
            async with self._netlink() as netlink:
                await self._unpin(netlink, host)

    async def _unpin(self, netlink: AsyncIPRoute, host: IPNetwork) -> None:
        way = self._pinned.pop(host)
        gone = (errno.ESRCH, errno.ENODEV)
        with _words(self.config.name, f"removing the host route to the endpoint {host.network_address}", gone):
            await netlink.route("del", **way)

    @asynccontextmanager
    async def _netlink(self) -> AsyncIterator[AsyncIPRoute]:
        try:
            netlink = AsyncIPRoute()
        except OSError as error:
            raise InterfaceError(f"interface {self.config.name}: netlink: {(error.strerror or '').lower()}") from None
        async with netlink:
            yield netlink

    async def _index(self, netlink: AsyncIPRoute) -> int:
        found = await netlink.link_lookup(ifname=self.config.name)
        if not found:
            raise InterfaceError(f"interface {self.config.name} does not exist; its engine is not running")
        return int(found[0])


def _host_network(address: str) -> IPNetwork:
    return ip_network(address.partition("%")[0])  # a network has no zone


@dataclass(frozen=True, slots=True)
class _Route:
    network: IPNetwork
    interface: int | None
    gateway: str | None
    metric: int


async def _routes(netlink: AsyncIPRoute, version: int) -> list[_Route]:
    """The unicast routes of the main table."""
    family = 2 if version == 4 else 10
    found = []
    async for message in await netlink.route("dump", family=family, table=MAIN_TABLE):
        attributes = dict(message["attrs"])
        destination = attributes.get("RTA_DST", "0.0.0.0" if version == 4 else "::")  # noqa: S104  # "any", not bind
        if message["type"] == 1 and attributes.get("RTA_TABLE", message["table"]) == MAIN_TABLE:
            found.append(
                _Route(
                    ip_network((ip_address(destination), message["dst_len"])),
                    attributes.get("RTA_OIF"),
                    attributes.get("RTA_GATEWAY"),
                    attributes.get("RTA_PRIORITY", 0),
                )
            )
    return found


class _words:  # noqa: N801  # a context manager that reads like a function
    """Turns a netlink error into one line; the error numbers in ``fine`` are none."""

    def __init__(self, interface: str, doing: str, fine: tuple[int, ...] = ()) -> None:
        self._what = f"interface {interface}: {doing}"
        self._fine = fine

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, NetlinkError):
            return False
        if error.code in self._fine:
            return True
        raise InterfaceError(f"{self._what}: {_explain(error)}") from None


def _explain(error: NetlinkError) -> str:
    match error.code:
        case errno.EPERM:
            return "no permission; needs CAP_NET_ADMIN: run as root, or as a service with that capability"
        case errno.EACCES:
            return "refused; for an IPv6 address: IPv6 is disabled here (sysctl net.ipv6.conf.all.disable_ipv6)"
        case errno.EEXIST:
            return "another interface has it already; remove that route or set tunnel.routes: off"
        case errno.ENODEV:
            return "the interface is gone"
        case errno.EINVAL:
            return "the kernel calls it invalid"
        case errno.EOPNOTSUPP:
            return "the kernel does not support it"
    return str(error.args[-1] if error.args else error).lower()
