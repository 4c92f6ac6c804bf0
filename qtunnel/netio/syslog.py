"""Warnings of an engine in the background go to syslog: nobody sees its standard error.

The library's handler sends with a blocking socket; here a syslog daemon that stands still must not stop packets.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path

SOCKET = Path("/dev/log")
"""Where syslog(3) sends to; journald serves it, too."""

MAX_MESSAGE = 1024
"""Bytes that every syslog daemon takes (RFC 3164 section 4.1)."""

_DAEMON = 3 << 3
_SEVERITY = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


class SyslogHandler(logging.Handler):
    """Sends records to the local syslog, facility ``daemon``; what it does not take at once is lost."""

    def __init__(self, path: Path = SOCKET) -> None:
        """Raises ``OSError`` where no syslog listens at ``path``."""
        super().__init__()
        self._path = path
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            made.connect(str(self._path))
        except OSError:
            made.close()
            raise
        return made

    def emit(self, record: logging.LogRecord) -> None:
        severity = next((code for level, code in _SEVERITY if record.levelno >= level), 7)
        head = f"<{_DAEMON | severity}>qtunnel[{record.process}]: "
        data = (head + self.format(record).replace("\n", " ")).encode(errors="replace")[:MAX_MESSAGE]
        try:
            self._socket.send(data)
        except BlockingIOError:
            pass
        except OSError:
            self._again(data)

    def _again(self, data: bytes) -> None:
        """The syslog daemon was restarted, perhaps."""
        try:
            fresh = self._connect()
            self._socket.close()
            self._socket = fresh
            fresh.send(data)
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()
        super().close()
