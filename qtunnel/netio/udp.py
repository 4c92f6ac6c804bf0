"""The UDP sockets of one port: IPv4 and IPv6 apart, as far as the machine has them."""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import struct
from collections import Counter

from qtunnel.marks import set_mark
from qtunnel.netio.paths import IP_PKTINFO, AncillaryData, Paths
from qtunnel.netio.receive import UDP_GRO
from qtunnel.netio.routes import Routes
from qtunnel.wireguard.endpoint import Endpoint

BUFFER_SIZE = 8 << 20
"""Bytes the kernel may queue each way: 6 ms at 10 Gbit/s, more than one turn of the loop takes."""

_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_OMIT = 5
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_RANDOM_PORT_ATTEMPTS = 10

MAX_BURST = 65487
"""Bytes of datagrams sent in one call: what an IPv6 packet holds besides its own header and that of UDP."""

MAX_SEGMENTS = 64
"""Datagrams sent in one call: UDP_MAX_SEGMENTS of kernels before 6.9."""

_UDP_SEGMENT = 103
_INT = struct.Struct("=i")
_SEND_WAIT = 10
"""Milliseconds to wait for room in the socket, 8 MB behind which the packets of 6 ms wait already."""

_STALE_SOURCE = frozenset({errno.ENETUNREACH, errno.EINVAL, errno.EADDRNOTAVAIL})
"""What sending from an address that is no longer ours gives, by address family and kernel."""

_NO_SEGMENTS = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE})
"""No checksum offload on the way out (udp(7)), or datagrams larger than the path takes in one piece."""

_MAX_SIZES = 2048

log = logging.getLogger(__name__)


def bind_pair(port: int, fwmark: int, *, bursts: bool) -> list[socket.socket]:
    """Sockets on ``port`` (0: any that both families have free), IPv4 first; bursts: with UDP_GRO.

    Raises ``OSError``.
    """
    for attempt in range(_RANDOM_PORT_ATTEMPTS):
        ipv4 = _bind(socket.AF_INET, port, fwmark, bursts)
        try:
            ipv6 = _bind(socket.AF_INET6, ipv4.getsockname()[1], fwmark, bursts)
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                log.info("msg=%r", f"no IPv6 sockets: {error.strerror}")
                return [ipv4]
            ipv4.close()
            if port == 0 and error.errno == errno.EADDRINUSE and attempt + 1 < _RANDOM_PORT_ATTEMPTS:
                continue
            raise
        return [ipv4, ipv6]
    raise AssertionError("unreachable")


def _bind(family: socket.AddressFamily, port: int, fwmark: int, bursts: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            # Routers may cut what is too long for them, as with WireGuard in the kernel. Otherwise one forged ICMP
            # message would make all bursts to a peer go out in fragments for ten minutes.
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_OMIT)
        if bursts:
            with contextlib.suppress(OSError):  # kernels before 5.0
                sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        if fwmark:
            set_mark(sock, fwmark)
        for forced, ordinary in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_SIZE)
            except PermissionError:  # not root of the machine: as much as net.core.*mem_max allows
                sock.setsockopt(socket.SOL_SOCKET, ordinary, BUFFER_SIZE)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104  # a VPN listens everywhere
    except BaseException:
        sock.close()
        raise
    return sock


class UdpPort:
    """Sends to IPv4 and IPv6 endpoints and receives from them; ``paths`` remembers by which local address.

    What cannot be sent is dropped and counted by the error's name.
    """

    def __init__(self, routes: Routes, *, segments: bool) -> None:
        self.sockets: list[socket.socket] = []
        self.errors: Counter[str] = Counter()
        self.paths = Paths(routes)
        self.segments = segments
        """Whether bursts go out in one call (UDP_SEGMENT)."""
        self.hops = 0
        """Hop limit of the datagrams that are sent, from now on; 0: the host's default."""
        self._segment_data: dict[int, tuple[int, int, bytes]] = {}
        self._takes_no_bursts: set[Endpoint] = set()

    def replace(self, sockets: list[socket.socket]) -> None:
        """Use these sockets from now on; the old ones are closed."""
        self.close()
        self.sockets = sockets
        self._takes_no_bursts.clear()

    def port(self) -> int:
        return int(self.sockets[0].getsockname()[1])

    def send(self, data: bytes | memoryview, endpoint: Endpoint) -> None:
        index = len(endpoint) == 4
        source = self.paths.source_of(endpoint)
        try:
            self.sockets[index].sendmsg((data,), self._ancillary(source, index), 0, endpoint)
        except IndexError:
            self._failed("EAFNOSUPPORT", endpoint)
        except OSError as error:
            if source and error.errno in _STALE_SOURCE:
                self.paths.give_up(endpoint)
                self.send(data, endpoint)
                return
            if error.errno == errno.EAGAIN and self._wait(endpoint):
                with contextlib.suppress(OSError):
                    self.sockets[index].sendmsg((data,), self._ancillary(source, index), 0, endpoint)
                    return
            self._failed(errno.errorcode.get(error.errno or 0, "EIO"), endpoint)

    def send_burst(self, data: memoryview, size: int, endpoint: Endpoint) -> None:
        """Datagrams of ``size`` bytes that lie one after the other, the last perhaps shorter."""
        length = len(data)
        if length <= size:
            self.send(data, endpoint)
            return
        bursts = self.segments and endpoint not in self._takes_no_bursts
        most = min(MAX_SEGMENTS, MAX_BURST // size) * size if bursts else 0
        if most <= size:
            for start in range(0, length, size):
                self.send(data[start : start + size], endpoint)
            return
        for start in range(0, length, most):
            self._send_segments(data[start : start + most], size, endpoint)

    def _send_segments(self, data: memoryview, size: int, endpoint: Endpoint, *, wait: bool = True) -> None:
        source = self.paths.source_of(endpoint)
        segment = self._segment_data.get(size) or self._segment(size)
        try:
            index = len(endpoint) == 4
            self.sockets[index].sendmsg((data,), (*self._ancillary(source, index), segment), 0, endpoint)
        except IndexError:
            self._failed("EAFNOSUPPORT", endpoint)
        except OSError as error:
            if error.errno == errno.EAGAIN and wait and self._wait(endpoint):
                self._send_segments(data, size, endpoint, wait=False)
            elif error.errno in _NO_SEGMENTS or (source and error.errno in _STALE_SOURCE):
                if error.errno == errno.EIO:
                    self._take_no_bursts(endpoint)
                self._send_singly(data, size, endpoint)
            else:
                self._failed(errno.errorcode.get(error.errno or 0, "EIO"), endpoint)

    def _ancillary(self, source: list[AncillaryData], ipv6: bool) -> list[AncillaryData]:
        if not self.hops:
            return source
        kind = (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT) if ipv6 else (socket.IPPROTO_IP, socket.IP_TTL)
        return [*source, (*kind, _INT.pack(self.hops))]

    def _send_singly(self, data: memoryview, size: int, endpoint: Endpoint) -> None:
        for start in range(0, len(data), size):
            self.send(data[start : start + size], endpoint)

    def _take_no_bursts(self, endpoint: Endpoint) -> None:
        """The way there is through a device without checksum offload, or IPsec; that to other peers may not be."""
        if len(self._takes_no_bursts) >= _MAX_SIZES:
            self._takes_no_bursts.clear()
        self._takes_no_bursts.add(endpoint)
        words = "the network device takes no UDP bursts (EIO); datagrams go out one by one"
        log.warning("endpoint=%s msg=%r", endpoint[0], words)

    def _segment(self, size: int) -> tuple[int, int, bytes]:
        if len(self._segment_data) >= _MAX_SIZES:
            self._segment_data.clear()
        made = self._segment_data[size] = (socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", size))
        return made

    def _wait(self, endpoint: Endpoint) -> bool:
        """Wait for room in the socket; whether there is some. Meanwhile packets queue at the TUN, as they should."""
        poll = select.poll()
        poll.register(self.sockets[len(endpoint) == 4], select.POLLOUT)
        return bool(poll.poll(_SEND_WAIT))

    def _failed(self, name: str, endpoint: Endpoint) -> None:
        self.errors[name] += 1
        if self.errors[name] == 1:  # the first of its kind; the count is logged at the end
            log.warning("endpoint=%s msg=%r", endpoint[0], f"cannot send: {name}; more of these are only counted")

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets = []
