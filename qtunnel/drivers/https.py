"""One HTTPS server that gives keys: a call to it, sent once, and every way in which it can fail by its name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from qtunnel.errors import (
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnreachableError,
)
from qtunnel.tls import explain

KEEPALIVE = 4.0
"""Seconds an idle connection is kept: shorter than servers keep theirs (5 s: uvicorn, Node.js), so that a call never
meets one that is just being closed, and books a key for it."""

CALLS_AT_ONCE = 16
"""Calls and connections at a time: a KME answers some hundred a second, and takes longer to set a connection up than to
deliver a key. A hub of 1,000 peers that all start at once asks for as many keys."""

TURN_LIMIT = 15.0
"""Seconds that a call waits for its turn; with ``timeout`` that is within the 25 s that the daemon gives a source."""

LISTEN_TIME = 1.0
"""Seconds to wait for the reason of a lost connection; it comes at once or never."""

MAX_BODY = 256 * 1024
"""Bytes of an answer besides the key itself; larger ones are refused unread."""

Refusal = Callable[[int, Mapping[str, str], bytearray], KeySourceError]
"""The named error for an answer other than 200: by status, headers and body."""


class LostAnswerError(aiohttp.ClientError):
    """The connection was lost after the request may have been sent."""


async def once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """aiohttp sends a GET again where the connection is lost before its answer; one that consumes a key must not be."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise LostAnswerError from error


@dataclass(frozen=True, slots=True)
class Request:
    """path: from the server's URL on, encoded. body: JSON. keys: how many it may consume, which are lost where the
    answer is; 0 for a question. limit: bytes of the answer at most."""

    method: str
    path: str
    call: str
    body: bytes | None = None
    keys: int = 0
    limit: int = MAX_BODY


class HttpsServer:
    """A server at ``url``, for people ``place``.

    context: the TLS context for a connection that is made now. timeout: seconds of a call; connect_timeout: of these
    for the connection. remedy: what to say besides of a failure of TLS, by its words.
    """

    def __init__(
        self,
        place: str,
        url: str,
        context: Callable[[], Awaitable[ssl.SSLContext]],
        *,
        timeout: float,
        connect_timeout: float,
        server_hostname: str | None = None,
        remedy: Callable[[str], str] = lambda said: "",
    ) -> None:
        self.place, self.url = place, url
        self._context, self._remedy = context, remedy
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._server_hostname = server_hostname
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, request: Request, refusal: Refusal) -> bytearray:
        """The body of the 200 answer, which the caller wipes where keys are in it.

        Raises a ``KeySourceError``, whose ``lost`` is 0 where nothing was consumed.
        """
        try:
            async with asyncio.timeout(TURN_LIMIT):
                await self._turns.acquire()
        except TimeoutError:
            what = f"not asked: {CALLS_AT_ONCE} other calls of ours took longer than {TURN_LIMIT:g} s"
            raise KeySourceTimeoutError(self.place, request.call, what) from None
        try:
            return await self._call(request, refusal)
        finally:
            self._turns.release()

    async def _call(self, request: Request, refusal: Refusal) -> bytearray:
        place, call = self.place, request.call
        if self._closed:
            raise KeySourceUnreachableError(place, call, "the source is closed")
        context = await self._context()
        try:
            async with self._open().request(
                request.method,
                URL(self.url + request.path, encoded=True),
                data=request.body,
                headers={"Accept": "application/json", "Accept-Encoding": "identity"}
                | ({"Content-Type": "application/json"} if request.body is not None else {}),
                allow_redirects=False,
                server_hostname=self._server_hostname,
                ssl=context,
            ) as response:
                body = await _read(response, request.limit)
                if response.status != 200 and body is not None:
                    raise refusal(response.status, response.headers, body)
                if body is None:
                    what = f"HTTP {response.status} with more than {request.limit} bytes"
                elif response.headers.get("Content-Encoding", "identity") != "identity":
                    what = "HTTP 200 with a compressed body that was not asked for"
                else:
                    return body
                raise KeySourceProtocolError(place, call, what, lost=request.keys)
        except KeySourceError:
            raise
        except Exception as error:
            failure = self._failure(request, error)
            if isinstance(failure, KeySourceUnreachableError) and isinstance(error, LostAnswerError):
                failure = await self._refusal_behind(request, context) or failure
            if failure is None:
                raise
            raise failure from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(keepalive_timeout=KEEPALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=self._connect_timeout),
                middlewares=(once,),
            )
        return self._session

    def _failure(self, request: Request, error: Exception) -> KeySourceError | None:
        """The named error for what went wrong on the way; ``None`` for what should not happen."""
        place, call, keys = self.place, request.call, request.keys
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return KeySourceTimeoutError(place, call, f"no connection within {self._connect_timeout:g} s")
        if isinstance(error, TimeoutError):
            return KeySourceTimeoutError(place, call, f"no answer within {self._timeout:g} s", lost=keys)
        if not isinstance(error, aiohttp.ClientError | OSError):
            return None
        # What fails before there is a connection costs nothing.
        if isinstance(error, aiohttp.ClientConnectorError):
            keys = 0
        tls = explain(error)
        if tls is not None:
            if "refused our" in tls or "client certificate" in tls:
                keys = 0  # with TLS 1.3 after the request was sent, but before anybody reads it
            return KeySourceCertificateError(place, call, tls + self._remedy(tls), lost=keys)
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return KeySourceUnreachableError(place, call, "the host name is not found")
        if isinstance(error.__cause__, aiohttp.ServerDisconnectedError):
            what = "it closed the connection without an answer"
            return KeySourceUnreachableError(place, call, what, lost=keys)
        if isinstance(error, aiohttp.ClientPayloadError):
            what = "the connection was lost in the middle of the answer"
            return KeySourceUnreachableError(place, call, what, lost=keys)
        if isinstance(error, aiohttp.ClientResponseError | ValueError):
            return KeySourceProtocolError(place, call, "the answer is not HTTP", lost=keys)
        return KeySourceUnreachableError(place, call, _reason(error), lost=keys)

    async def _refusal_behind(self, request: Request, context: ssl.SSLContext) -> KeySourceCertificateError | None:
        """Whether a lost connection means that the server refuses our certificate; asks for nothing.

        With TLS 1.3 the refusal comes after the client's handshake and races with the reset that our request causes, so
        it is often lost. A connection on which we only listen shows it. What was sent on the first counts as consumed
        all the same: that both met the same server is likely, and not certain.
        """
        url = URL(self.url)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(LISTEN_TIME, self._timeout)):
                writer = None
                try:
                    reader, writer = await asyncio.open_connection(
                        url.host, url.port, ssl=context, server_hostname=self._server_hostname or url.host
                    )
                    await reader.read(1)
                except OSError as error:
                    tls = explain(error)
                    if tls is not None:
                        what = tls + self._remedy(tls)
                        return KeySourceCertificateError(self.place, request.call, what, lost=request.keys)
                finally:
                    if writer is not None:
                        writer.transport.abort()
        return None


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytearray | None:
    """The whole body; ``None`` where it has more than ``limit`` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            return None
    return body


def _reason(error: Exception) -> str:
    """The operating system's words, without the address, which stands in front of them already."""
    inner: BaseException = getattr(error, "os_error", error.__cause__ or error)
    known = inner.errno if isinstance(inner, OSError) else None
    # Where several addresses of a name fail, their errors stand in one text.
    numbers = {known} if known else {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(inner))}
    return ", ".join(sorted(os.strerror(number).lower() for number in numbers)) or "the connection failed"
