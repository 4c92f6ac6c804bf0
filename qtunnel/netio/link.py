"""The interface of a TUN descriptor: up or down, its MTU, and word of changes, in whatever namespace it is by now.

Interfaces are moved to other network namespaces, and renamed, while a process serves them. The descriptor knows where
its interface is (TUNGETDEVNETNS, Linux 5.13) and what it is called there (TUNGETIFF).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import socket
import struct
import threading
from typing import NamedTuple

from qtunnel.netio import kernel

_TUNGETDEVNETNS = 0x54E3
_TUNGETIFF = 0x800454D2
_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_IFF_UP = 0x1
_IFREQ = struct.Struct("16s24x")
_IFREQ_FLAGS = struct.Struct("16sH22x")
_IFREQ_INT = struct.Struct("16si20x")

log = logging.getLogger(__name__)


class LinkState(NamedTuple):
    """mtu in bytes."""

    up: bool
    mtu: int


class Link:
    """``fileno`` is readable when ``look`` may have something new to tell."""

    def __init__(self, tun_fd: int) -> None:
        self._tun_fd = tun_fd
        self._epoll = select.epoll()  # one descriptor for the caller, whatever namespace the socket within is of
        self._namespace = os.stat("/proc/thread-self/ns/net").st_ino
        self._events = kernel.watch_links()
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._epoll.register(self._events.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def look(self) -> LinkState | None:
        """How the interface is now; None where it is out of reach, in a namespace that this process may not enter."""
        with contextlib.suppress(OSError):  # nothing left, or too much to tell: only that it came matters
            while True:
                self._events.recv(65536)
        if not self._follow():
            return None
        try:
            name = _IFREQ.pack(_IFREQ.unpack(fcntl.ioctl(self._tun_fd, _TUNGETIFF, bytes(_IFREQ.size)))[0])
            flags = _IFREQ_FLAGS.unpack(fcntl.ioctl(self._control, _SIOCGIFFLAGS, name))[1]
            mtu = _IFREQ_INT.unpack(fcntl.ioctl(self._control, _SIOCGIFMTU, name))[1]
        except OSError:
            return None
        return LinkState(bool(flags & _IFF_UP), mtu)

    def _follow(self) -> bool:
        """Look from the namespace that the interface is in; false where that cannot be."""
        try:
            namespace = fcntl.ioctl(self._tun_fd, _TUNGETDEVNETNS, 0)
        except OSError:  # an old kernel: it can be looked for only here
            return True
        try:
            inode = os.fstat(namespace).st_ino
            if inode != self._namespace:
                self._open_inside(namespace)
                self._namespace = inode
        except OSError as error:
            log.warning("msg=%r", f"the interface is in a namespace that cannot be entered: {error.strerror}")
            return False
        finally:
            os.close(namespace)
        return True

    def _open_inside(self, namespace: int) -> None:
        """New sockets that look from there. A socket stays where it was made, so one short-lived thread goes there."""
        made: list[socket.socket] = []
        failed: list[OSError] = []

        def enter() -> None:
            try:
                kernel.enter_network_namespace(namespace)
                made.append(kernel.watch_links())
                made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failed:
            for sock in made:
                sock.close()
            raise failed[0]
        self._epoll.unregister(self._events.fileno())
        self._events.close()
        self._control.close()
        self._events, self._control = made
        self._epoll.register(self._events.fileno(), select.EPOLLIN)

    def close(self) -> None:
        self._events.close()
        self._control.close()
        self._epoll.close()
