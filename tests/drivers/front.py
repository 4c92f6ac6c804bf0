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
from tests.support.kme import answer, files


@dataclass
class Exchange:
    """One request, and what the real KME answered to it."""

    method: str
    path: str
    call: str
    fields: dict[str, Any]
    status: int
    body: bytes
    writer: asyncio.StreamWriter = field(repr=False)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

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
class Front:
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
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def calls(self) -> list[str]:
        return [f"{one.method} {one.call}" for one in self.requests if one.call != "status"]

    async def start(self, mine: TlsFiles | None = None, version: ssl.TLSVersion | None = None) -> None:
        """Listen with this certificate, else with that of kme-a."""
        mine = mine or files(self.pki, "kme-a")
        context = server_context(replace(mine, ca=self.pki / "ca.pem"), lambda _: None)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=context, family=socket.AF_INET, reuse_address=True
        )

    async def stop(self) -> None:
        """Nobody listens any more, and whoever waits for an answer gets none."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._exchange(reader, writer)
        except asyncio.CancelledError:
            pass  # of ``stop``; asyncio would log it
        finally:
            writer.transport.abort() if task.cancelling() else writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        method, path = head[0].split()[:2]
        length = [line.split(":")[1] for line in head if line.lower().startswith("content-length:")]
        body = await reader.readexactly(int(length[0])) if length else b""
        call = path.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
        fields = json.loads(body) if body else {}
        exchange = Exchange(method, path, call, fields, 200, b"", writer)
        self.requests.append(exchange)
        consuming = call != "status"
        if not (consuming and self.before):
            exchange.status, exchange.body = await self._ask(method, path.replace(f"{call}/", call), body)
        await (self.fault if consuming else self.status_fault)(exchange)

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
