"""What the interface's set-up needs of netlink: a connection, the routes that there are, errors in words."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from qtunnel.engines.base import IPNetwork
from qtunnel.errors import InterfaceError

MAIN_TABLE = 254
LINK_SCOPE = 253
UNICAST = 1
UNREACHABLE = 7
_ANY = {4: "0.0.0.0", 6: "::"}  # noqa: S104  # a destination, not bind
_DEAD = 1
_ONLINK = 4


@asynccontextmanager
async def netlink_for(interface: str) -> AsyncIterator[AsyncIPRoute]:
    """A connection. The kernel filters dumps itself: a host may have a million routes.

    Raises ``InterfaceError``, also in place of what netlink refuses inside: nothing that the host does ends a daemon.
    """
    try:
        async with AsyncIPRoute(strict_check=True) as netlink:
            with words(interface, "netlink"):
                yield netlink
    except OSError as error:  # it has no socket until it is first used
        raise InterfaceError(f"interface {interface}: netlink: {(error.strerror or str(error)).lower()}") from None


async def link(netlink: AsyncIPRoute, interface: str, index: int) -> Any | None:
    """A link as the kernel tells it; None where it is gone. interface: whose set-up it is for."""
    with words(interface, f"looking at link {index}", (errno.ENODEV,)):
        return (await netlink.link("get", index=index))[0]
    return None


def family(version: int) -> int:
    """The address family of IP version 4 or 6."""
    return socket.AF_INET if version == 4 else socket.AF_INET6


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast or unreachable route. interface: its index; gateway, via: of the same and of another family."""

    network: IPNetwork
    interface: int | None
    metric: int
    gateway: str | None = None
    via: tuple[int, str] | None = None
    source: str | None = None
    onlink: bool = False

    def arguments(self) -> dict[str, Any]:
        """The route as pyroute2 takes it, without a table."""
        way: dict[str, Any] = {"dst": str(self.network), "family": family(self.network.version), "oif": self.interface}
        if self.gateway is not None:
            way["gateway"] = self.gateway
        elif self.via is not None:
            way["via"] = {"family": self.via[0], "addr": self.via[1]}
        elif self.network.version == 4:
            way["scope"] = LINK_SCOPE
        if self.metric:
            way["priority"] = self.metric
        if self.source is not None:
            way["prefsrc"] = self.source
        if self.onlink:
            way["flags"] = _ONLINK
        return way


Wanted = Callable[[int, int], bool]
"""From a destination and the length of its prefix, whether the route is of interest."""


async def routes(
    netlink: AsyncIPRoute, version: int, *, kind: int = UNICAST, only: Wanted | None = None, **wanted: int
) -> list[Route]:
    """The routes of one kind for one IP version; wanted: ``table``, ``oif``. Of several ways the first is told.

    A table or an interface that is not there has none, nor has an IP version that this kernel does without.
    """
    wanted.setdefault("table", MAIN_TABLE)
    found = []
    try:
        # With a filter of its own pyroute2 puts the arguments into the request instead of looking through all routes.
        dump = await netlink.route("dump", family=family(version), type=kind, dump_filter=lambda _: True, **wanted)
        async for message in dump:
            if message["family"] != family(version):
                continue  # without IPv6 the kernel tells all that it has
            if message["type"] != kind or message["flags"] & _DEAD or message["src_len"] or message["tos"]:
                continue  # leads nowhere, or not everybody
            destination = ip_address(message.get_attr("RTA_DST") or _ANY[version])
            if only is not None and not only(int(destination), message["dst_len"]):
                continue
            attributes = dict(message["attrs"])
            if attributes.get("RTA_TABLE", message["table"]) == wanted["table"]:
                found.append(_route(message, attributes, ip_network((destination, message["dst_len"]))))
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            raise
        return []
    return found


def _route(message: Any, attributes: dict[str, Any], network: IPNetwork) -> Route:
    way, flags = attributes, message["flags"]
    if attributes.get("RTA_MULTIPATH"):
        first = attributes["RTA_MULTIPATH"][0]
        way, flags = {**dict(first["attrs"]), "RTA_OIF": first["oif"]}, first["flags"]
    via = way.get("RTA_VIA")
    return Route(
        network,
        way.get("RTA_OIF"),
        attributes.get("RTA_PRIORITY", 0),
        way.get("RTA_GATEWAY"),
        None if via is None else (via["family"], via["addr"]),
        attributes.get("RTA_PREFSRC"),
        bool(flags & _ONLINK),
    )


class words:  # noqa: N801  # a context manager that reads like a function
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
