"""The interface of a TUN descriptor: up or down, its MTU, and word of changes, in whatever namespace it is by now.

Interfaces are moved to other network namespaces, and renamed, while a process serves them. The descriptor knows where
its interface is (TUNGETDEVNETNS, since 2020) and what it is called there (TUNGETIFF).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading
from typing import NamedTuple

from qtunnel.netio import kernel

LOOK_INTERVAL = 1.0
"""Seconds between two looks at an interface that is away; one costs 0.2 ms."""

_TUNGETDEVNETNS = 0x54E3
_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_IFF_UP = 0x1
_IFREQ_FLAGS = struct.Struct("16sH22x")
_IFREQ_INT = struct.Struct("16si20x")


class LinkState(NamedTuple):
    """mtu in bytes."""

    up: bool
    mtu: int


class Link:
    """``fileno`` is readable when ``look`` may have something new to tell, as long as the interface is not ``away``."""

    def __init__(self, tun_fd: int) -> None:
        self._tun_fd = tun_fd
        self._home = os.stat("/proc/thread-self/ns/net").st_ino
        self._events = kernel.watch_links()
        self.away = False
        """It is in another namespace, from where no word comes. A socket in there would tell, but also keep the
        namespace, and the interface with it, alive when whoever made it deletes it."""

    def fileno(self) -> int:
        return self._events.fileno()

    def look(self) -> LinkState | None:
        """How the interface is now; None where it is out of reach, in a namespace that this process may not enter."""
        with contextlib.suppress(OSError):  # nothing left, or too much to tell: only that it came matters
            while True:
                self._events.recv(65536)
        try:
            namespace = fcntl.ioctl(self._tun_fd, _TUNGETDEVNETNS, 0)
        except OSError:  # an old kernel: it can be looked for only here
            return self._query()
        try:
            self.away = os.fstat(namespace).st_ino != self._home
            return self._query_inside(namespace) if self.away else self._query()
        finally:
            os.close(namespace)

    def _query(self) -> LinkState | None:
        try:
            name = os.fsencode(kernel.tun_name(self._tun_fd)).ljust(_IFREQ_FLAGS.size, b"\0")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
                flags = _IFREQ_FLAGS.unpack(fcntl.ioctl(control, _SIOCGIFFLAGS, name))[1]
                mtu = _IFREQ_INT.unpack(fcntl.ioctl(control, _SIOCGIFMTU, name))[1]
        except OSError:
            return None
        return LinkState(bool(flags & _IFF_UP), mtu)

    def _query_inside(self, namespace: int) -> LinkState | None:
        """Ask from there: by a thread that goes there and ends, since a thread has a namespace of its own."""
        answers: list[LinkState | None] = []

        def ask() -> None:
            try:
                kernel.enter_network_namespace(namespace)
            except OSError:
                return
            answers.append(self._query())

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return answers[0] if answers else None

    def close(self) -> None:
        self._events.close()
