"""UDP for the handshake: one socket per listen address, and the address a peer is reached at."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from qtunnel.config import SocketAddress
from qtunnel.errors import QtunnelError

RECEIVE_BUFFER = 4 << 20
"""Bytes; the kernel takes twice that, and 2,304 for a datagram: the first messages of 1,000 peers that all begin."""
SO_RCVBUFFORCE = 33  # asm-generic/socket.h


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

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def source_of(address: Address) -> bytes:
    """The IPv4 address, or the IPv6 /64: who sends from one address of it can send from all."""
    host = ip_address(address.host)
    return host.packed if host.version == 4 else host.packed[:8]


Receive = Callable[[bytes, Address], None]


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, index: int, receive: Receive) -> None:
        self._index, self._receive = index, receive

    def datagram_received(self, data: bytes, addr: tuple[str, int] | tuple[str, int, int, int]) -> None:
        self._receive(data, Address(host_of(addr), addr[1], self._index))

    def error_received(self, exc: Exception) -> None:
        """An ICMP error to a datagram of ours: retransmission deals with it."""


class HandshakeSockets:
    """All sockets of one gateway."""

    def __init__(self, listen: Iterable[SocketAddress], receive: Receive) -> None:
        self._listen, self._receive = tuple(listen), receive
        self._transports: dict[int, tuple[int, asyncio.DatagramTransport]] = {}

    async def open(self, mark: int = 0) -> None:
        """Bind them; raises ``ListenError`` naming the address. mark: SO_MARK of what they send, 0 is none."""
        loop = asyncio.get_running_loop()
        for index, where in enumerate(self._listen):
            family = socket.AF_INET6 if where.address.version == 6 else socket.AF_INET
            try:
                sock = _bind(family, where, mark)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and where.address.is_unspecified and len(self._listen) > 1:
                    continue  # a host without IPv6: the default listens on both
                self.close()
                raise ListenError(f"listen: {where}: {_words(error, where.port)}") from None
            transport, _ = await loop.create_datagram_endpoint(
                lambda index=index: _Protocol(index, self._receive),  # type: ignore[misc]  # mypy: lambda with default
                sock=sock,
            )
            self._transports[index] = family, transport
        if not self._transports:
            raise ListenError("listen: none of the addresses can be used on this host")

    def send(self, datagram: bytes, to: Address) -> bool:
        """Send from the socket that ``to`` names, else from the first of its family; False where there is none."""
        family = socket.AF_INET6 if ip_address(to.host.split("%")[0]).version == 6 else socket.AF_INET
        via = None if to.via is None else self._transports.get(to.via)
        if via is not None and via[0] == family:
            chosen = via[1]
        else:
            found = [transport for its, transport in self._transports.values() if its == family]
            if not found:
                return False
            chosen = found[0]
        if chosen.is_closing():
            return False
        chosen.sendto(datagram, (to.host, to.port))
        return True

    def close(self) -> None:
        for _, transport in self._transports.values():
            transport.close()
        self._transports = {}


def host_of(address: tuple[Any, ...]) -> str:
    """The numeric host of a socket's address, with its zone where it has one."""
    host = str(address[0])
    return f"{host}%{address[3]}" if len(address) == 4 and address[3] and "%" not in host else host


def _bind(family: int, where: SocketAddress, mark: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:  # without CAP_NET_ADMIN: as much as the machine allows
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
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
