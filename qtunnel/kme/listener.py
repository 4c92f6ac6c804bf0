"""The listening sockets of KMEs: whoever can reach one can open connections, and say nothing.

A TLS handshake may take a minute, and a process has some thousand descriptors: without a bound anybody could keep SAEs
from their keys.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

MOST_CONNECTIONS = 256
"""At a time and listener. A gateway has 16 at most, and keeps one for 4 s once it says nothing more."""


class Listener(socket.socket):
    """Takes over a listening socket. Who was there for longest makes room for who comes."""

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._order: list[socket.socket] = []

    def accept(self) -> tuple[socket.socket, Any]:
        """As that of its base. One that has to go is only told so: its descriptor is closed by who has it."""
        connection, address = super().accept()
        self._order = [its for its in self._order if its.fileno() >= 0]
        while len(self._order) >= MOST_CONNECTIONS:
            with contextlib.suppress(OSError):
                self._order.pop(0).shutdown(socket.SHUT_RDWR)
        self._order.append(connection)
        return connection, address
