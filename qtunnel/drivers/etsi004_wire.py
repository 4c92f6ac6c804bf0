"""One connection to a KME of ETSI GS QKD 004, over TCP or TLS: a request, its answer, and in words what went wrong.

Answers are read into buffers of our own, which are wiped, as they hold keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Callable
from typing import cast

from yarl import URL

from qtunnel.drivers.etsi004_options import Options
from qtunnel.drivers.etsi004_terms import MalformedError
from qtunnel.drivers.tls_remedy import remedy
from qtunnel.errors import (
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnreachableError,
)
from qtunnel.tls import client_context, explain

LISTEN_TIME = 1.0
"""Seconds to wait for the reason of a lost connection; it comes at once or never."""

PROBES = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""A KME that went without a word is noticed within 60 s, before a rekey at the default 120 s uses the line."""


class LineLostError(OSError):
    """The connection ended before the answer did."""


class Line(asyncio.BufferedProtocol):
    """A connection on which one answer follows one request."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._scratch = bytearray(1)
        self._buffer = bytearray()
        self._filled = 0
        self._length: Callable[[bytearray], int] | None = None
        self._answer: asyncio.Future[bytearray] | None = None
        self._lost: Exception | None = None

    @property
    def alive(self) -> bool:
        """Whether nothing says that the connection is gone."""
        return self._transport is not None and not self._transport.is_closing() and self._lost is None

    @property
    def busy(self) -> bool:
        """Whether an answer is being waited for."""
        return self._answer is not None

    async def exchange(self, request: bytes, header_size: int, length: Callable[[bytearray], int]) -> bytearray:
        """The body of the answer to one request, for the caller to wipe. length: tells the body's size from the header,
        or raises ``MalformedError``. Whatever goes wrong, also a cancellation, ends the connection."""
        if not self.alive or self._transport is None:
            raise LineLostError("the connection was lost") from self._lost
        self._answer = asyncio.get_running_loop().create_future()
        self._buffer, self._filled, self._length = bytearray(header_size), 0, length
        try:
            self._transport.write(request)
            return await self._answer
        except BaseException:
            wipe(self._buffer)
            self.abort()
            raise
        finally:
            self._answer = None
            self._buffer = bytearray()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in PROBES.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._answer is None or self._answer.done():
            return memoryview(self._scratch)
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._answer is None or self._answer.done():
            # What nobody asked for would be taken for the answer to the next request.
            return self._end(MalformedError("more came than the answer"))
        self._filled += nbytes
        while self._filled == len(self._buffer):
            if self._length is None:
                return self._answer.set_result(self._buffer)
            length, self._length = self._length, None
            try:
                self._buffer, self._filled = bytearray(length(self._buffer)), 0
            except MalformedError as error:
                return self._end(error)
        return None

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        error = LineLostError("the connection was lost")
        error.__cause__ = exc
        self._end(error)

    def _end(self, error: Exception) -> None:
        self._lost = self._lost or error
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()


def wipe(buffer: bytearray) -> None:
    """Overwrite with zeros."""
    buffer[:] = bytes(len(buffer))


class Dialer:
    """Makes connections to one KME. Raises ``ConfigError`` or ``FilePermissionError``, as it reads the TLS files."""

    def __init__(self, name: str, options: Options) -> None:
        self.place = f"{name} ({options.url})"
        self._options = options
        url = URL(options.url)
        self._host, self._port = str(url.host), url.port or 0
        self._context: ssl.SSLContext | None = None
        if options.tls_files is not None:
            self._context = client_context(
                options.tls_files, check_hostname=options.check_hostname, peer_id=options.kme_id
            )

    async def connect(self, call: str) -> Line:
        """A new connection; raises a ``KeySourceError``."""
        try:
            async with asyncio.timeout(self._options.timeout):
                return await self._dial()
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            raise self.failure(call, error) from None

    async def _dial(self) -> Line:
        tls = None if self._context is None else self._options.server_hostname or self._host
        _, line = await asyncio.get_running_loop().create_connection(
            Line, self._host, self._port, ssl=self._context, server_hostname=tls
        )
        return line

    def failure(self, call: str, error: Exception, *, lost: int = 0) -> KeySourceError:
        """The named error for what went wrong on the way."""
        if isinstance(error, TimeoutError):
            detail = f"no answer within {self._options.timeout:g} s"
            return KeySourceTimeoutError(self.place, call, detail, lost=lost)
        if isinstance(error, MalformedError):
            return KeySourceProtocolError(self.place, call, str(error), lost=lost)
        said = explain(error)
        if said is not None:
            return KeySourceCertificateError(self.place, call, said + self._remedy(said), lost=lost)
        if isinstance(error, socket.gaierror | UnicodeError):
            return KeySourceUnreachableError(self.place, call, "the host name is not found", lost=lost)
        return KeySourceUnreachableError(self.place, call, _reason(error), lost=lost)

    async def refusal_behind(self, call: str) -> KeySourceError | None:
        """Whether a lost connection means that the KME refuses our certificate; asks for nothing.

        With TLS 1.3 the refusal comes after the client's handshake and races with the reset that our request causes, so
        it is often lost. A connection on which we only listen shows it.
        """
        if self._context is None:
            return None
        line = None
        try:
            async with asyncio.timeout(min(LISTEN_TIME, self._options.timeout)):
                line = await self._dial()
                await line.exchange(b"", 1, lambda header: 0)
        except (OSError, ValueError) as error:
            failure = self.failure(call, error)
            return failure if isinstance(failure, KeySourceCertificateError) else None
        finally:
            if line is not None:
                line.abort()
        return None

    def _remedy(self, said: str) -> str:
        its = self._options
        return remedy(said, server_hostname=its.server_hostname, ca=its.ca, own=its.certificate)


def _reason(error: Exception) -> str:
    """The operating system's words, without the address, which stands in front of them already."""
    inner = error.__cause__ if isinstance(error, LineLostError) and error.__cause__ is not None else error
    known = inner.errno if isinstance(inner, OSError) else None
    # Where several addresses of a name fail, their errors stand in one text.
    numbers = {known} if known else {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(inner))}
    said = ", ".join(sorted(os.strerror(number).lower() for number in numbers))
    return said or "it closed the connection without an answer"
