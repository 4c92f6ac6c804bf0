"""UDP for the handshake: one socket per listen address, and the address a peer is reached at."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import thread_time
from typing import Any

from qtunnel.addresses import pack_address
from qtunnel.config import SocketAddress
from qtunnel.daemon import packet_filter
from qtunnel.errors import QtunnelError
from qtunnel.handshake.cookies import REPLY_SIZE
from qtunnel.handshake.fragments import MAX_DATAGRAM, MAX_FRAGMENTS, MAX_PAYLOAD, OVERHEAD, MessageType
from qtunnel.load import Budget
from qtunnel.marks import set_mark

_SHAPE = packet_filter.shape(OVERHEAD + 1, MAX_DATAGRAM, max(MessageType), MAX_FRAGMENTS, MAX_PAYLOAD, REPLY_SIZE)


class ListenError(QtunnelError):
    """A handshake port that cannot be had."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where datagrams come from or go to.

    host: numeric; a link-local one with its zone (RFC 4007 section 11), fe80::1%2. via: index of our socket, None where
    any of the family will do.
    """

    host: str
    port: int
    via: int | None = None

    @property
    def version(self) -> int:
        """Of IP."""
        return 6 if ":" in self.host else 4

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.version == 6 else f"{self.host}:{self.port}"


def source_of(address: Address) -> bytes:
    """The IPv4 address, or the IPv6 /64: who sends from one address of it can send from all."""
    return pack_address(address.host.partition("%")[0])[:8]


def cookie_source(address: Address) -> bytes:
    """What a cookie is bound to: address and port (docs/protocol.md, section 3.4)."""
    return pack_address(address.host.partition("%")[0]) + address.port.to_bytes(2, "big")


Datagram = tuple[bytes, Address]
Receive = Callable[[list[Datagram], bool], None]
"""Gets datagrams in the order in which they came, and whether they came from where a peer is expected."""

READ_AT_ONCE = 128
"""Datagrams between two looks at everything else that the daemon does: 2 ms of work (3 to 20 us each, measured)."""
SHARE, EXPECTED_SHARE = 1 / 2, 2 / 3
"""Of a core, for all that comes from anywhere, and for what seems to come from peers, whose own datagrams have to find
their way through. What does not get its turn waits in the kernel, and is dropped there for nothing."""
SHARE_AT_ONCE = 0.1
"""Seconds of a core before that counts: to read the 3,000 datagrams of 1,000 peers that begin at once takes 60 ms."""
RECEIVE_BUFFER = 4 << 20
"""Bytes for each queue; the kernel takes twice that, and 2,304 for a datagram: the first messages of 1,000 peers that
begin at once."""
_LARGEST = MAX_DATAGRAM + 1
"""Bytes to read of a datagram: what is longer is none of ours."""
SO_RCVBUFFORCE = 33  # asm-generic/socket.h


Marked = Callable[[socket.socket, int, int], None]
"""Gives a socket a mark (SO_MARK; 0 is none) and a receive buffer of so many bytes. Raises ``OSError``."""


def mark_socket(sock: socket.socket, mark: int, buffer: int) -> None:
    """By the capability of this process."""
    if mark:
        set_mark(sock, mark)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
    except PermissionError:  # without CAP_NET_ADMIN: as much as the machine allows
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)


class _Queue:
    """One socket, read in pieces.

    Where its budget is used up, reading rests until there is some again: no flood gets more than its share of a core,
    however its datagrams are spread over time, and the kernel drops the rest of it for nothing.
    """

    def __init__(self, sock: socket.socket, index: int, receive: Receive, expected: bool, budget: Budget) -> None:
        self.sock = sock
        self._index, self._receive, self._expected, self._budget = index, receive, expected, budget
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock.fileno(), self._read)

    @property
    def rests(self) -> bool:
        """Whether nothing is read for a while."""
        return self._rest is not None

    def _read(self) -> None:
        began = thread_time()  # not the clock: while others have the processor, this one rests anyway
        piece: list[Datagram] = []
        recvfrom, index = self.sock.recvfrom, self._index
        try:
            while len(piece) < READ_AT_ONCE:
                data, source = recvfrom(_LARGEST)
                piece.append((data, Address(host_of(source), source[1], index)))
        except OSError:
            pass  # nothing more, or an ICMP error to a datagram of ours: retransmission deals with it
        if piece:
            self._receive(piece, self._expected)
        rest = self._budget.spend(thread_time() - began, self._loop.time())
        if rest > 0 and self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock.fileno())
            self._rest = self._loop.call_later(rest, self._resume)

    def _resume(self) -> None:
        self._rest = None
        self._loop.add_reader(self.sock.fileno(), self._read)

    def close(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self.sock.fileno())
        self.sock.close()


@dataclass(frozen=True, slots=True)
class _Port:
    """A listen address: the queue of everybody, and that of expected sources where the kernel can sort."""

    anybody: _Queue
    expected: _Queue | None

    @property
    def sock(self) -> socket.socket:
        """The one to send from."""
        return self.anybody.sock


class HandshakeSockets:
    """All sockets of one gateway."""

    def __init__(self, listen: Iterable[SocketAddress], receive: Receive, marked: Marked = mark_socket) -> None:
        self._listen, self._receive, self._mark = tuple(listen), receive, 0
        self._marked = marked
        self._ports: dict[int, _Port] = {}
        self._expected: frozenset[str] = frozenset()
        self._budgets = {False: Budget(SHARE, SHARE_AT_ONCE), True: Budget(EXPECTED_SHARE, SHARE_AT_ONCE)}
        """Of what comes from anywhere, and from expected sources; all listen addresses together."""
        self._factors = tuple(int.from_bytes(os.urandom(4), "big") | 1 for _ in range(4))

    async def open(self, mark: int = 0) -> None:
        """Bind them; raises ``ListenError`` naming the address. mark: SO_MARK of what they send, for the routing
        rules; 0 is none."""
        self._mark = mark
        for index, where in enumerate(self._listen):
            family = socket.AF_INET6 if where.address.version == 6 else socket.AF_INET
            try:
                sock = _bind(family, where, mark, self._marked)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and where.address.is_unspecified and len(self._listen) > 1:
                    continue  # a host without IPv6: the default listens on both
                self.close()
                raise ListenError(f"listen: {where}: {_words(error, where.port)}") from None
            second = self._second(sock, family)
            self._ports[index] = _Port(
                _Queue(sock, index, self._receive, False, self._budgets[False]),
                None if second is None else _Queue(second, index, self._receive, True, self._budgets[True]),
            )
        if not self._ports:
            remedy = "name one of the other IP version, as 0.0.0.0:51821 or [::]:51821"
            raise ListenError(f"listen: this host has the IP version of none of the addresses; {remedy}")

    def _second(self, first: socket.socket, family: int) -> socket.socket | None:
        """Another socket at the port of ``first``, for expected sources; None where the kernel cannot sort."""
        address = first.getsockname()
        # only now: a port that is somebody else's must not be shared by mistake
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock = _socket(family, self._mark, self._marked)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            packet_filter.sort_by_source(sock, (), self._factors)
        except OSError:
            sock.close()
            return None
        return sock

    def expect(self, hosts: Iterable[str]) -> None:
        """From now on datagrams from these numeric addresses have a queue of their own."""
        wanted = frozenset(hosts)
        if wanted == self._expected:
            return
        self._expected = wanted
        for port in self._ports.values():
            if port.expected is not None:
                with contextlib.suppress(OSError):  # it sorts as before
                    packet_filter.sort_by_source(port.expected.sock, wanted, self._factors)

    def versions(self) -> set[int]:
        """Of IP, 4 or 6: those that there is a socket of."""
        return {6 if port.sock.family == socket.AF_INET6 else 4 for port in self._ports.values()}

    def send(self, datagram: bytes, to: Address) -> bool:
        """Send from the socket that ``to`` names, else from the first of its family; False where there is none."""
        family = socket.AF_INET6 if to.version == 6 else socket.AF_INET
        via = None if to.via is None else self._ports.get(to.via)
        if via is None or via.sock.family != family:
            via = next((port for port in self._ports.values() if port.sock.family == family), None)
        if via is None:
            return False
        with contextlib.suppress(OSError):  # no route, no room: retransmission deals with it
            via.sock.sendto(datagram, (to.host, to.port))
        return True

    def close(self) -> None:
        for port in self._ports.values():
            for queue in (port.anybody, port.expected):
                if queue is not None:
                    queue.close()
        self._ports = {}


def host_of(address: tuple[Any, ...]) -> str:
    """The numeric host of a socket's address, with its zone where it has one."""
    host = str(address[0])
    return f"{host}%{address[3]}" if len(address) == 4 and address[3] and "%" not in host else host


def _socket(family: int, mark: int, marked: Marked) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        marked(sock, mark, RECEIVE_BUFFER)
        with contextlib.suppress(OSError):  # a kernel that cannot: Python drops the same datagrams
            packet_filter.attach(sock, packet_filter.SO_ATTACH_FILTER, _SHAPE)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(family: int, where: SocketAddress, mark: int, marked: Marked) -> socket.socket:
    sock = _socket(family, mark, marked)
    try:
        sock.bind((str(where.address), where.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _words(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"UDP port {port} is taken by another program; stop it, or set another port under node.listen"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host does not have that address; set one that it has, or 0.0.0.0"
    if error.errno == errno.EACCES:
        return f"no permission for UDP port {port}; choose one from 1024 on"
    if error.errno == errno.EPERM:
        return "no permission to mark datagrams; needs CAP_NET_ADMIN: run as root, or as a service with that capability"
    return os.strerror(error.errno) if error.errno else str(error)
