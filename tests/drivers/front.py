"""A TLS server in front of a real KME, which hands its answers on, and on demand does to one what broken ones do.

It asks the real KME as the SAE whose certificate it has been given; to the driver it is the KME.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from qtunnel.tls import TlsFiles, client_context, server_context
from tests.support import https_server
from tests.support.https_server import HttpsServer
from tests.support.kme import answer, files


@dataclass(kw_only=True)
class Exchange(https_server.Exchange):
    """What the real KME answered to a request."""

    method: str
    path: str
    fields: dict[str, Any]
    body: bytes = b""

    @property
    def whole(self) -> bytes:
        return answer(f"{self.status} Word", self.body)

    async def reply(self, document: object | None = None, status: int | None = None) -> None:
        """As a KME answers; document: instead of the real one's."""
        body = self.body if document is None else json.dumps(document).encode()
        await self.write(answer(f"{status or self.status} Word", body))

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


Fault = Callable[[Exchange], Awaitable[None]]


async def honest(exchange: Exchange) -> None:
    await exchange.reply()


@dataclass
class Front(HttpsServer):
    """fault: what becomes of the answers to consuming calls; status_fault: of those to the others. before: whether it
    strikes before the real KME is asked, which then never is. requests: the calls that reached it, as ``POST
    enc_keys``."""

    pki: Path
    upstream: str
    sae_id: str
    port: int
    fault: Fault = honest
    before: bool = False
    status_fault: Fault = honest
    requests: list[Exchange] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def calls(self) -> list[str]:
        return [f"{one.method} {one.call}" for one in self.requests if one.call != "status"]

    asked_for_keys = calls

    def spoil(self, fault: Fault | None) -> None:
        self.fault = fault or honest

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        """Listen with this context, else with the certificate of kme-a."""
        await self.listen("127.0.0.1", self.port, context or self.context())

    def context(self, mine: TlsFiles | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """With that certificate, else with that of kme-a. version: of TLS, no other."""
        made = server_context(replace(mine or files(self.pki, "kme-a"), ca=self.pki / "ca.pem"), lambda _: None)
        if version is not None:
            made.minimum_version = made.maximum_version = version
        return made

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        method, path = head[0].split()[:2]
        length = [line.split(":")[1] for line in head if line.lower().startswith("content-length:")]
        body = await reader.readexactly(int(length[0])) if length else b""
        call = path.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
        exchange = Exchange(
            method=method, path=path, call=call, fields=json.loads(body) if body else {}, status=200, writer=writer
        )  # fmt: skip
        self.requests.append(exchange)
        consuming = call != "status"
        if not (consuming and self.before):
            exchange.status, exchange.body = await self._ask(method, path.replace(f"{call}/", call), body)
        await (self.fault if consuming else self.status_fault)(exchange)
        return False

    async def _ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        connector = aiohttp.TCPConnector(ssl=client_context(files(self.pki, self.sae_id)), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, self.upstream + path, data=body or None) as response,
        ):
            return response.status, await response.read()


@contextlib.asynccontextmanager
async def front(pki: Path, upstream: str, sae_id: str = "sae-alice") -> AsyncIterator[Front]:
    """A server in front of the KME at ``upstream``, at a port that the kernel chose."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = Front(pki, upstream, sae_id, port)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
