"""The kernel's WireGuard by generic netlink: the same lines and the same answers as over a UAPI socket.

Messages and sockets are pyroute2's; the attributes are those of linux/wireguard.h. Its own ``WireGuard.set`` takes one
peer per call and keys in base64: here a peer is removed and added again in one message, which the kernel carries out
before anybody else's, and keys are overwritten once they were sent.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket
from pyroute2.netlink.generic.wireguard import (
    WG_CMD_GET_DEVICE,
    WG_CMD_SET_DEVICE,
    WG_GENL_NAME,
    WG_GENL_VERSION,
    WGDEVICE_F_REPLACE_PEERS,
    WGPEER_F_REMOVE_ME,
    WGPEER_F_REPLACE_ALLOWEDIPS,
    WGPEER_F_UPDATE_ONLY,
    wgmsg,
)
from pyroute2.netlink.nlsocket import NetlinkRequest

from qtunnel.engines.base import Endpoint
from qtunnel.engines.device import Device, DevicePeer, Line, mark_of_psk
from qtunnel.engines.uapi_client import describe_errno, parse_endpoint, wipe
from qtunnel.errors import EngineError
from qtunnel.secret import Secret

TIMEOUT = 5.0
"""Seconds for one operation; the kernel needs milliseconds, some more for a peer's removal."""

ALLOWED_IPS_AT_ONCE = 500
"""Of one peer in one message: an attribute of netlink, and so a peer, has at most 64 kB; an allowed IP 44 bytes."""

DUMPS = 10
"""How often to ask for a whole answer: only a change between two of the few messages of an answer spoils it."""

SENT_AT_ONCE = 128 * 1024
"""Bytes of messages in one datagram, all of which the kernel carries out before it lets go of the sender, also of one
that is killed. A netlink socket takes no more than its send buffer (af_netlink.c), by default 208 kB."""

_TIME = struct.Struct("=qq")
"""``struct __kernel_timespec``: seconds and nanoseconds."""


class _Key(nla):  # type: ignore[misc]  # pyroute2 is untyped
    """A key: out of a ``Secret`` or bytes, 32 each; never decoded."""

    fields = (("key", "32s"),)

    def encode(self) -> None:
        value = self["value"]
        key = self["key"] = bytearray(value.reveal() if isinstance(value, Secret) else value)
        super().encode()
        key[:] = bytes(len(key))

    def decode(self) -> None:
        self["value"] = None


class _Mark(_Key):
    """A preshared key, of which only the mark is decoded."""

    def decode(self) -> None:
        self["value"] = mark_of_psk(memoryview(self.data)[self.offset + 4 : self.offset + self.length])


class _Peer(nla):  # type: ignore[misc]
    prefix = "WGPEER_A_"
    nla_flags = wgmsg.wgdevice_peer.nla_flags
    nla_map = (
        ("WGPEER_A_UNSPEC", "none"),
        ("WGPEER_A_PUBLIC_KEY", "cdata"),
        ("WGPEER_A_PRESHARED_KEY", "psk"),
        ("WGPEER_A_FLAGS", "uint32"),
        ("WGPEER_A_ENDPOINT", "cdata"),
        ("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", "uint16"),
        ("WGPEER_A_LAST_HANDSHAKE_TIME", "cdata"),
        ("WGPEER_A_RX_BYTES", "uint64"),
        ("WGPEER_A_TX_BYTES", "uint64"),
        ("WGPEER_A_ALLOWEDIPS", "*allowed_ip"),
        ("WGPEER_A_PROTOCOL_VERSION", "uint32"),
    )

    psk = _Mark

    class allowed_ip(nla):  # type: ignore[misc]  # noqa: N801  # pyroute2 finds it by this name
        prefix = "WGALLOWEDIP_A_"
        nla_flags = wgmsg.wgdevice_peer.wgpeer_allowedip.nla_flags
        nla_map = (
            ("WGALLOWEDIP_A_UNSPEC", "none"),
            ("WGALLOWEDIP_A_FAMILY", "uint16"),
            ("WGALLOWEDIP_A_IPADDR", "cdata"),
            ("WGALLOWEDIP_A_CIDR_MASK", "uint8"),
        )


class _Message(wgmsg):  # type: ignore[misc]
    nla_map = (
        ("WGDEVICE_A_UNSPEC", "none"),
        ("WGDEVICE_A_IFINDEX", "uint32"),
        ("WGDEVICE_A_IFNAME", "asciiz"),
        ("WGDEVICE_A_PRIVATE_KEY", "private_key"),
        ("WGDEVICE_A_PUBLIC_KEY", "cdata"),
        ("WGDEVICE_A_FLAGS", "uint32"),
        ("WGDEVICE_A_LISTEN_PORT", "uint16"),
        ("WGDEVICE_A_FWMARK", "uint32"),
        ("WGDEVICE_A_PEERS", "*peer"),
    )
    private_key = _Key
    peer = _Peer


class _Socket(AsyncGenericNetlinkSocket):  # type: ignore[misc]
    module_err_level = "debug"  # a kernel without WireGuard is told in words of our own

    async def setup_endpoint(self) -> None:
        if getattr(self.local, "transport", None) is None:
            await super().setup_endpoint()
            await self.bind(WG_GENL_NAME, _Message)


@dataclass(slots=True)
class _Told:
    """One peer of what is to be set: its attributes, and its allowed IPs apart."""

    attributes: list[list[Any]]
    flags: int = 0
    allowed_ips: list[Any] = field(default_factory=list)


class KernelClient:
    """Talks to the kernel's WireGuard interface of that name in this thread's network namespace.

    marks: of preshared keys are told. index: the interface's number, where it is known: one that has its name now and
    another number is never told or asked anything.
    """

    def __init__(
        self, interface: str, timeout: float = TIMEOUT, *, marks: bool = False, index: int | None = None
    ) -> None:
        self.interface, self.index = interface, index
        self._marks = marks
        self._timeout = timeout

    async def available(self) -> bool:
        """Whether this kernel has WireGuard; loads its module where that is allowed."""
        try:
            async with self._socket("look"):
                return True
        except EngineError:
            return False

    @property
    def _which(self) -> list[Any]:
        """The attribute that says which interface; there has to be one of the two."""
        named = ["WGDEVICE_A_IFNAME", self.interface]
        return named if self.index is None else ["WGDEVICE_A_IFINDEX", self.index]

    async def get(self, *, always: bool = True) -> Device:
        """The device and its peers, without secrets.

        Where somebody changes the device while the kernel tells of it, peers and allowed IPs may be left out, and the
        kernel marks the answer (NLM_F_DUMP_INTR) for it to be asked again.
        """
        async with self._socket("get") as netlink:
            for _ in range(DUMPS):
                device = await self._dump(netlink)
                if device is not None:
                    return device
        raise self._error("get", f"somebody changes it all the time; none of {DUMPS} answers was whole")

    async def _dump(self, netlink: Any) -> Device | None:
        """One answer; ``None`` for one that is not whole."""
        device, whole = Device(), True

        def look(part: Any) -> None:  # also at the message that ends the answer, which is not among the parts
            nonlocal whole
            whole = whole and not part["header"]["flags"] & NLM_F_DUMP_INTR

        message = _Message()
        message["cmd"] = WG_CMD_GET_DEVICE
        message["version"] = WG_GENL_VERSION
        message["attrs"].append(self._which)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        async for part in await netlink.nlm_request(message, msg_type=netlink.prid, msg_flags=flags, callback=look):
            _read(device, part, self._marks)
        return device if whole else None

    async def set(self, lines: Iterable[Line], *, always: bool = False) -> None:
        """One operation. Where it is a large one, it is several messages that reach the kernel together
        (``SENT_AT_ONCE``). The kernel is always asked."""
        try:
            messages = list(_messages(self._which, lines))
        except ValueError as error:
            raise self._error("set", str(error)) from None
        async with self._socket("set") as netlink:
            await _tell(netlink, messages)

    @asynccontextmanager
    async def _socket(self, operation: str) -> AsyncIterator[Any]:
        try:
            async with asyncio.timeout(self._timeout), _Socket() as netlink:
                await netlink.setup_endpoint()
                yield netlink
        except TimeoutError:
            raise self._error(operation, f"no answer in {self._timeout:g} s") from None
        except NetlinkError as error:
            if error.code == errno.ENOENT:  # of the generic netlink family
                raise self._error(operation, "this kernel has no WireGuard (modprobe wireguard)") from None
            if error.code == errno.EOPNOTSUPP:
                raise self._error(operation, "it is no WireGuard interface of the kernel's") from None
            raise self._error(operation, f"refused: {describe_errno(error.code)}") from None
        except OSError as error:
            raise self._error(operation, (error.strerror or str(error)).lower()) from None

    def _error(self, operation: str, what: str) -> EngineError:
        return EngineError(f"WireGuard of the kernel, {operation} of {self.interface}: {what}")


# What is told


async def _tell(netlink: Any, messages: list[Any]) -> None:
    """Send messages, up to ``SENT_AT_ONCE`` bytes together, overwrite them, and hear that each was carried out."""
    waiting: list[Any] = []
    datagram = bytearray()
    try:
        for message in messages:
            message["header"]["type"], message["header"]["flags"] = netlink.prid, NLM_F_REQUEST | NLM_F_ACK
            request = NetlinkRequest(netlink, message)
            await request.prepare()
            if datagram and len(datagram) + len(message.data) > SENT_AT_ONCE:
                await _send(netlink, datagram, waiting)
                waiting.clear()
            datagram += message.data
            waiting.append(request)
        await _send(netlink, datagram, waiting)
    finally:
        for message in messages:
            if isinstance(message.data, bytearray):
                wipe(message.data)
        wipe(datagram)


async def _send(netlink: Any, datagram: bytearray, requests: list[Any]) -> None:
    """Leaves ``datagram`` empty; raises for the first of the requests that was refused."""
    try:
        netlink.send(datagram)
    finally:
        wipe(datagram)
        datagram.clear()
    for request in requests:
        async for _ in request.response():
            pass


def _messages(which: list[Any], lines: Iterable[Line]) -> Iterator[Any]:
    """The lines as messages; raises ``ValueError`` for one that the kernel has nothing for. which: the attribute that
    names the interface."""
    device: list[list[Any]] = []
    peers: list[_Told] = []
    for key, value in lines:
        if key == "public_key":
            peers.append(_Told([["WGPEER_A_PUBLIC_KEY", bytes.fromhex(str(value))]]))
        elif peers:
            _peer_attribute(peers[-1], key, value)
        else:
            device.append(_device_attribute(key, value))
    rest: list[tuple[list[list[Any]], list[Any]]] = []
    first = []
    for peer in peers:
        now, later = peer.allowed_ips[:ALLOWED_IPS_AT_ONCE], peer.allowed_ips[ALLOWED_IPS_AT_ONCE:]
        attributes = [*peer.attributes, ["WGPEER_A_FLAGS", peer.flags]]
        first.append({"attrs": [*attributes, ["WGPEER_A_ALLOWEDIPS", now]] if now else attributes})
        for start in range(0, len(later), ALLOWED_IPS_AT_ONCE):
            more = [peer.attributes[0], ["WGPEER_A_FLAGS", WGPEER_F_UPDATE_ONLY]]
            rest.append((more, later[start : start + ALLOWED_IPS_AT_ONCE]))
    yield _message(which, device, first)
    for more, allowed in rest:
        yield _message(which, [], [{"attrs": [*more, ["WGPEER_A_ALLOWEDIPS", allowed]]}])


def _message(which: list[Any], device: list[list[Any]], peers: list[Any]) -> Any:
    message = _Message()
    message["cmd"] = WG_CMD_SET_DEVICE
    message["version"] = WG_GENL_VERSION
    message["attrs"] += [which, *device]
    if peers:
        message["attrs"].append(["WGDEVICE_A_PEERS", peers])
    return message


def _device_attribute(key: str, value: str | int | Secret) -> list[Any]:
    match key:
        case "private_key":
            return ["WGDEVICE_A_PRIVATE_KEY", value]
        case "listen_port":
            return ["WGDEVICE_A_LISTEN_PORT", int(str(value))]
        case "fwmark":
            return ["WGDEVICE_A_FWMARK", int(str(value))]
        case "replace_peers":
            return ["WGDEVICE_A_FLAGS", WGDEVICE_F_REPLACE_PEERS]
    raise ValueError(f"the kernel has no {key}")


def _peer_attribute(peer: _Told, key: str, value: str | int | Secret) -> None:
    match key:
        case "remove":
            peer.flags |= WGPEER_F_REMOVE_ME
        case "update_only":
            peer.flags |= WGPEER_F_UPDATE_ONLY
        case "replace_allowed_ips":
            peer.flags |= WGPEER_F_REPLACE_ALLOWEDIPS
        case "preshared_key":
            peer.attributes.append(["WGPEER_A_PRESHARED_KEY", value])
        case "endpoint":
            peer.attributes.append(["WGPEER_A_ENDPOINT", _socket_address(parse_endpoint(str(value)))])
        case "persistent_keepalive_interval":
            peer.attributes.append(["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", int(str(value))])
        case "allowed_ip":
            network = ip_network(str(value))
            family = socket.AF_INET if network.version == 4 else socket.AF_INET6
            peer.allowed_ips.append(
                {
                    "attrs": [
                        ["WGALLOWEDIP_A_FAMILY", family],
                        ["WGALLOWEDIP_A_IPADDR", network.network_address.packed],
                        ["WGALLOWEDIP_A_CIDR_MASK", network.prefixlen],
                    ]
                }
            )
        case _:
            raise ValueError(f"the kernel has no {key}")


def _socket_address(endpoint: Endpoint) -> bytes:
    """``sockaddr_in`` or ``sockaddr_in6`` (ip(7), ipv6(7)); a zone is an interface's number or name."""
    address = ip_address(endpoint[0])
    port = struct.pack("!H", endpoint[1])
    if not isinstance(address, IPv6Address):
        return struct.pack("=H", socket.AF_INET) + port + address.packed + bytes(8)
    zone = address.scope_id or "0"
    try:
        number = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    except OSError:
        raise ValueError(f"there is no interface {zone}") from None
    return struct.pack("=H", socket.AF_INET6) + port + bytes(4) + address.packed + struct.pack("=I", number)


# What is heard


def _read(device: Device, part: Any, marks: bool) -> None:
    """One message of a dump. A peer with many allowed IPs comes in several, the later ones with nothing else."""
    device.listen_port = part.get_attr("WGDEVICE_A_LISTEN_PORT") or device.listen_port
    device.fwmark = part.get_attr("WGDEVICE_A_FWMARK") or device.fwmark
    device.public_key = bytes(part.get_attr("WGDEVICE_A_PUBLIC_KEY") or device.public_key)
    for heard in part.get_attr("WGDEVICE_A_PEERS") or ():
        public_key = bytes(heard.get_attr("WGPEER_A_PUBLIC_KEY"))
        peer = device.peers.get(public_key)
        if peer is None:
            peer = device.peers[public_key] = DevicePeer(public_key)
            _read_peer(peer, heard)
            if marks:
                peer.psk_mark = heard.get_attr("WGPEER_A_PRESHARED_KEY") or b""
        for allowed in heard.get_attr("WGPEER_A_ALLOWEDIPS") or ():
            address = ip_address(bytes(allowed.get_attr("WGALLOWEDIP_A_IPADDR")))
            peer.allowed_ips.append(f"{address}/{allowed.get_attr('WGALLOWEDIP_A_CIDR_MASK')}")


def _read_peer(peer: DevicePeer, heard: Any) -> None:
    endpoint = heard.get_attr("WGPEER_A_ENDPOINT")
    if endpoint is not None:
        peer.endpoint = _endpoint(bytes(endpoint))
    stamp = heard.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")
    if stamp is not None:
        seconds, nanoseconds = _TIME.unpack(bytes(stamp))
        peer.last_handshake = seconds + nanoseconds / 1e9 if seconds or nanoseconds else None
    peer.rx_bytes = heard.get_attr("WGPEER_A_RX_BYTES") or 0
    peer.tx_bytes = heard.get_attr("WGPEER_A_TX_BYTES") or 0
    peer.persistent_keepalive = heard.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0


def _endpoint(address: bytes) -> Endpoint | None:
    (family,), (port,) = struct.unpack_from("=H", address), struct.unpack_from("!H", address, 2)
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, address[4:8]), port
    if family != socket.AF_INET6:
        return None
    (zone,) = struct.unpack_from("=I", address, 24)
    host = socket.inet_ntop(socket.AF_INET6, address[8:24])
    return (f"{host}%{zone}" if zone else host), port
