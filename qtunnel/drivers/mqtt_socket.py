"""The TLS socket that paho-mqtt gets, for what that library leaves undone.

It shakes hands in a thread, where a server that sends a byte now and then would hold it for ever. What TLS says later
it turns into "connection lost", also the refusal of our certificate, which with TLS 1.3 comes later. And it takes
packets of any size.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import ssl
import time


class TooLargeError(ConnectionAbortedError):
    """The other side sends a packet that is larger than any may be."""


class Watch:
    """What became of the socket of one attempt to connect. broken: it failed or was closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.failure: OSError | None = None
        self.broken = asyncio.Event()

    def note(self, failure: OSError | None) -> None:
        """From any thread. The first failure is the reason, those after it are its consequences."""
        if self.failure is None:
            self.failure = failure
        with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits
            self._loop.call_soon_threadsafe(self.broken.set)


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
                self.close()  # which the library leaves to the garbage collector
                raise

        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            try:
                if buflen > largest:
                    raise TooLargeError
                return super().recv(buflen, flags)
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
