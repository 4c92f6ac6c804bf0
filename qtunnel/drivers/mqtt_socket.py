"""The TLS socket that paho-mqtt gets, for what that library leaves undone.

It shakes hands in a thread, where a server that sends a byte now and then would hold it for ever. What TLS says later
it turns into "connection lost", also the refusal of our certificate, which with TLS 1.3 comes later. It reads one
packet each time that the kernel has bytes, and leaves those in the TLS layer that came in one record with it. And it
takes packets of any size.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable


class TooLargeError(ConnectionAbortedError):
    """The other side sends a packet that is larger than any may be."""


class Watch:
    """What became of the socket of one attempt to connect. broken: it failed or was closed. again: reads one packet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reading = False
        self.failure: OSError | None = None
        self.broken = asyncio.Event()
        self.again: Callable[[], object] = lambda: None

    def note(self, failure: OSError | None) -> None:
        """From any thread. The first failure is the reason, those after it are its consequences."""
        if self.failure is None:
            self.failure = failure
        with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits
            self._loop.call_soon_threadsafe(self.broken.set)

    def read_on(self, found: ssl.SSLSocket) -> None:
        """Have the library read again soon, if there is more in the TLS layer by then. From the loop's thread."""
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._read_on, found)

    def _read_on(self, found: ssl.SSLSocket) -> None:
        self._reading = False
        try:
            if found.fileno() >= 0 and found.pending():
                self.again()
        except Exception as error:
            self.note(error if isinstance(error, OSError) else ConnectionAbortedError())
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)  # the loop sees it, and ends the connection


def watched(watch: Watch, limit: float, largest: int) -> type[ssl.SSLSocket]:
    """A class for ``ssl.SSLContext.sslsocket_class``. limit: seconds for the whole handshake; largest: bytes of a
    packet, as many of which the library asks for at once."""

    class WatchedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            deadline = time.monotonic() + limit
            self.setblocking(False)
            try:
                while True:
                    try:
                        return super().do_handshake()
                    except ssl.SSLWantReadError:
                        _wait(self, select.POLLIN, deadline)
                    except ssl.SSLWantWriteError:
                        _wait(self, select.POLLOUT, deadline)
            except OSError as error:
                watch.note(error)
                raise

        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            try:
                if buflen > largest:
                    raise TooLargeError
                data = super().recv(buflen, flags)
                if self.pending():
                    watch.read_on(self)
                return data
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                raise
            except OSError as error:
                watch.note(error)
                raise

        def close(self) -> None:
            watch.note(None)
            super().close()

    return WatchedSocket


def _wait(found: ssl.SSLSocket, what: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(found, what)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError("the TLS handshake takes too long")
