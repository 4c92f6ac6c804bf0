"""One KME over HTTPS as it is: each request on a connection of its own and sent once, no answer made better."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from qtunnel.drivers.answers import clean, words
from qtunnel.drivers.https import LostAnswerError, once
from qtunnel.tls import PeerCertificate, explain

MAX_BODY = 1 << 20
"""Bytes of an answer: a status, or a handful of keys, is a thousandth of it."""

LISTEN_TIME = 5.0
"""Seconds to wait for the reason of a lost connection, before anything else is asked; it comes at once or never."""


LOST = "it closed the connection without an answer"


class NoAnswerError(Exception):
    """Why there is no answer, in words that begin with "it" or with the failure."""


class SlowError(NoAnswerError):
    """There was none in time."""


@dataclass(slots=True)
class Answer:
    """kind: its content type. body: wiped by whoever reads keys from it."""

    status: int
    kind: str
    location: str
    body: bytearray = field(repr=False)

    @property
    def words(self) -> str:
        """Status and the KME's own words, where it refuses; of a 200 never more than that."""
        if self.status == 200:
            return "HTTP 200"
        where = f" to {clean(self.location)}" if self.location else ""
        return f"HTTP {self.status}{where}: {words(self.kind, self.body)}"

    @property
    def is_json(self) -> bool:
        return self.kind.partition(";")[0].strip().lower() == "application/json"

    def wipe(self) -> None:
        self.body[:] = bytes(len(self.body))

    def document(self) -> Any:
        """The JSON; ``None`` where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class Wire:
    """A KME at ``url``, asked with the client certificate in ``context``; timeout in seconds of a request.

    slash: paths end with one, which the standard's do not.
    """

    def __init__(self, url: str, context: ssl.SSLContext, timeout: float) -> None:
        self.url, self.context, self.timeout = url, context, timeout
        self.slash = False

    async def ask(
        self,
        method: str,
        call: str,
        sae_id: str,
        *,
        query: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        context: ssl.SSLContext | None = None,
        listen: bool = False,
    ) -> Answer:
        """Send a request once; raises ``NoAnswerError``.

        context: in the place of the wire's own. listen: where the connection is lost, make another one to learn why.
        """
        path = f"/api/v1/keys/{quote(sae_id, safe='')}/{call}" + ("/" if self.slash else "")
        more = f"?{urlencode(query, quote_via=quote)}" if query else ""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if fields is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(force_close=True),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    timeout=aiohttp.ClientTimeout(total=self.timeout),
                    middlewares=(once,),
                ) as session,
                session.request(
                    method,
                    URL(self.url + path + more, encoded=True),
                    data=None if fields is None else json.dumps(fields).encode(),
                    headers=headers,
                    allow_redirects=False,
                    ssl=context or self.context,
                ) as response,
            ):
                kind, location = (response.headers.get(name, "") for name in ("Content-Type", "Location"))
                return Answer(response.status, kind, location, await _body(response))
        except TimeoutError:
            raise SlowError(f"no answer within {self.timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            said = _reason(error)
        # With TLS 1.3 a certificate is refused after the handshake, and the reason may be lost with the connection.
        if listen and said == LOST:
            said = await self._refusal(context or self.context) or said
        raise NoAnswerError(said)

    async def handshake(self, context: ssl.SSLContext) -> tuple[str, PeerCertificate]:
        """TLS version and certificate of the KME; raises ``ssl.SSLError``, ``OSError`` or ``TimeoutError``."""
        url = URL(self.url)
        async with asyncio.timeout(self.timeout):
            _, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
        try:
            link: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return link.version() or "", link.getpeercert() or {}
        finally:
            writer.transport.abort()

    async def _refusal(self, context: ssl.SSLContext) -> str | None:
        url = URL(self.url)
        with contextlib.suppress(TimeoutError):
            try:
                async with asyncio.timeout(LISTEN_TIME):
                    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
                    try:
                        await reader.read(1)
                    finally:
                        writer.transport.abort()
            except OSError as error:
                return explain(error)
        return None


def _reason(error: Exception) -> str:
    tls = explain(error)
    if tls is not None:
        return tls
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name is not found"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection was lost in the middle of the answer"
    if isinstance(error, LostAnswerError):
        return LOST
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return "the answer is not HTTP"
    return system_words(getattr(error, "os_error", error))


def system_words(error: Exception) -> str:
    """What the system says of a connection that failed; asyncio's own words for it repeat the address."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number).lower() if number is not None and number > 0 else "the connection failed"


async def _body(response: aiohttp.ClientResponse) -> bytearray:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            body[:] = bytes(len(body))
            raise aiohttp.ClientPayloadError
    return body
