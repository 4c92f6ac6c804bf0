"""Whether anything has changed of the host's links, addresses, routes or rules, as the kernel tells (rtnetlink(7))."""

from __future__ import annotations

import contextlib
import errno
import socket

GROUPS = (1, 5, 7, 8, 9, 11, 19)
"""RTNLGRP_LINK, and _IFADDR, _ROUTE and _RULE of IPv4 and IPv6 (linux/rtnetlink.h)."""

_AT_ONCE = 65536


class Changes:
    """Listens in the network namespace where it is asked first. Where it cannot, everything may have changed always."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def heard(self) -> bool:
        """Whether there may have been a change since the last call; there may have been before the first."""
        if self._socket is None:
            self._open()
            return True
        heard = False
        while True:
            try:
                self._socket.recv(_AT_ONCE)
            except BlockingIOError:
                return heard
            except OSError as error:
                if (
                    error.errno != errno.ENOBUFS
                ):  # more than the socket holds: what is left of them is read all the same
                    self.close()
                    return True
            heard = True

    def _open(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with contextlib.suppress(OSError):
            self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self._socket.bind((0, sum(1 << group - 1 for group in GROUPS)))
            return
        self.close()

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
