"""Tells systemd how the service is doing (sd_notify(3)); does nothing where systemd does not ask for it.

A state is a few lines ``NAME=value`` in one datagram to the UNIX socket that ``$NOTIFY_SOCKET`` names; a leading ``@``
stands for the abstract namespace.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends states to one notify socket. Every method returns whether the state was sent."""

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        self._address = address
        self.watchdog_interval = watchdog
        """Seconds between ``watchdog()`` calls: half of what systemd allows; ``None`` where it does not watch."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Notifier:
        """By ``$NOTIFY_SOCKET``, ``$WATCHDOG_USEC`` and ``$WATCHDOG_PID``."""
        environment = os.environ if environ is None else environ
        address = environment.get("NOTIFY_SOCKET", "")
        return cls(address if address.startswith(("/", "@")) else None, _watchdog(environment))

    def ready(self, status: str = "") -> bool:
        """Start-up is finished."""
        return self._send("READY=1", *([_status(status)] if status else []))

    def reloading(self) -> bool:
        """The configuration is being read again, until ``ready``. The time is that of CLOCK_MONOTONIC in microseconds,
        by which a manager tells the READY=1 of this reload from one of before."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> bool:
        """Shutdown has begun."""
        return self._send("STOPPING=1")

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        return self._send(_status(text))

    def watchdog(self) -> bool:
        """A sign of life."""
        return self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> bool:
        if self._address is None:
            return False
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # a manager that does not read must not stop the daemon
                sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            return False
        return True


def _status(text: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return f"STATUS={line}"


def _watchdog(environ: Mapping[str, str]) -> float | None:
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
        pid = int(environ.get("WATCHDOG_PID", "") or os.getpid())
    except ValueError:
        return None
    return microseconds / 2_000_000 if microseconds > 0 and pid == os.getpid() else None
