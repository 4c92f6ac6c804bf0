"""The UDP sockets of one port: IPv4 and IPv6 apart, as far as the machine has them."""

from __future__ import annotations

import errno
import logging
import socket
from collections import Counter

from qtunnel.netio.paths import IP_PKTINFO, Paths
from qtunnel.netio.routes import Routes
from qtunnel.wireguard.endpoint import Endpoint

BUFFER_SIZE = 8 << 20
"""Bytes the kernel may queue each way: 6 ms at 10 Gbit/s, more than one turn of the loop takes."""

_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_RANDOM_PORT_ATTEMPTS = 10

_ANCILLARY_SPACE = socket.CMSG_SPACE(20)
"""Room for the control data of a datagram: an in6_pktinfo, or the smaller in_pktinfo."""

_STALE_SOURCE = frozenset({errno.ENETUNREACH, errno.EINVAL, errno.EADDRNOTAVAIL})
"""What sending from an address that is no longer ours gives, by address family and kernel."""

log = logging.getLogger(__name__)


def bind_pair(port: int, fwmark: int) -> list[socket.socket]:
    """Sockets on ``port`` (0: any that both families have free), IPv4 first. Raises ``OSError``."""
    for attempt in range(_RANDOM_PORT_ATTEMPTS):
        ipv4 = _bind(socket.AF_INET, port, fwmark)
        try:
            ipv6 = _bind(socket.AF_INET6, ipv4.getsockname()[1], fwmark)
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


def _bind(family: socket.AddressFamily, port: int, fwmark: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        if fwmark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, fwmark)
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

    def __init__(self, routes: Routes) -> None:
        self.sockets: list[socket.socket] = []
        self.errors: Counter[str] = Counter()
        self.paths = Paths(routes)

    def replace(self, sockets: list[socket.socket]) -> None:
        """Use these sockets from now on; the old ones are closed."""
        self.close()
        self.sockets = sockets

    def port(self) -> int:
        return int(self.sockets[0].getsockname()[1])

    def receive_into(self, sock: socket.socket, buffers: list[memoryview]) -> tuple[int, Endpoint]:
        """One datagram: its length and its path. Raises ``OSError``, ``BlockingIOError`` where there is none."""
        length, ancillary, _, address = sock.recvmsg_into(buffers, _ANCILLARY_SPACE)
        return length, self.paths.learn(address, ancillary)

    def send(self, data: bytes | memoryview, endpoint: Endpoint) -> None:
        index = len(endpoint) == 4
        source = self.paths.source_of(endpoint)
        try:
            self.sockets[index].sendmsg((data,), source, 0, endpoint)
        except IndexError:
            self._failed("EAFNOSUPPORT", endpoint)
        except OSError as error:
            if source and error.errno in _STALE_SOURCE:
                self.paths.give_up(endpoint)
                self.send(data, endpoint)
                return
            self._failed(errno.errorcode.get(error.errno or 0, "EIO"), endpoint)

    def _failed(self, name: str, endpoint: Endpoint) -> None:
        self.errors[name] += 1
        if self.errors[name] == 1:  # the first of its kind; the count is logged at the end
            log.warning("endpoint=%s msg=%r", endpoint[0], f"cannot send: {name}; more of these are only counted")

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets = []
