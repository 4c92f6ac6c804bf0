"""Real KMEs, SAEs and broken servers on loopback, with mutual TLS from a PKI made for the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from qtunnel.drivers import etsi014
from qtunnel.kme.config import KmeConfig
from qtunnel.kme.pki import Authority, KmeName, create_pki
from qtunnel.kme.server import running
from qtunnel.tls import TlsFiles, client_context

Result = TypeVar("Result")

SAES = {"sae-alice": "kme-a", "sae-bob": "kme-b", "sae-carol": "kme-b"}
"""Each SAE and the KME it asks."""
NOT_FOUND = "one or more keys specified are not found on KME"
"""The message of ETSI GS QKD 014 v1.1.1 for a key that a KME does not have, or has no more."""


def run(test: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a test's coroutine; a hanging one fails instead of holding the suite."""

    async def bounded() -> Result:
        async with asyncio.timeout(60):
            return await test()

    return asyncio.run(bounded())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait, 20 s at most, until the condition holds."""
    for _ in range(1000):
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the condition never held")


@contextlib.contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Ports of 127.0.0.1 that nobody used when asked, below those that the kernel gives to any client meanwhile."""
    first_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(first_of_clients // 2, first_of_clients)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    yield ports


def make_pki(directory: Path) -> Path:
    """A PKI for both KMEs and all SAEs, and for a stranger that no KME knows."""
    create_pki(
        directory,
        now=datetime.now(UTC),
        kmes=[KmeName("kme-a"), KmeName("kme-b")],
        saes=[*SAES, "sae-stranger"],
    )
    return directory


def files(pki: Path, name: str) -> TlsFiles:
    return TlsFiles(pki / "ca.pem", pki / f"{name}.pem", pki / f"{name}.key")


def write_pair(directory: Path, name: str, authority: Authority, **issue: Any) -> None:
    """A certificate of ``authority`` and its key as NAME.pem and NAME.key."""
    certificate, key = authority.issue(name, **{"now": datetime.now(UTC), **issue})
    (directory / f"{name}.pem").write_bytes(certificate)
    (directory / f"{name}.key").touch(0o600)
    (directory / f"{name}.key").write_bytes(key)


@dataclass
class Pair:
    """Two KMEs' configurations, and clients to them."""

    pki: Path
    a: KmeConfig
    b: KmeConfig
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    def config(self, sae_id: str) -> KmeConfig:
        return self.a if SAES.get(sae_id, "kme-a") == "kme-a" else self.b

    def sae(self, sae_id: str, at: KmeConfig | None = None) -> Sae:
        """A plain HTTPS client with the certificate of that SAE, at its own KME or ``at`` another."""
        return Sae(f"https://{at.listen if at else self.config(sae_id).listen}", files(self.pki, sae_id))

    def source(self, sae_id: str, peer_sae_id: str, **options: Any) -> etsi014.Source:
        """The driver of that SAE, closed when the pair stops."""
        hub = etsi014.Hub("metro", self.options(sae_id, **options))
        self.stack.push_async_callback(hub.close)
        return hub.for_peer(etsi014.PeerOptions(peer_sae_id=peer_sae_id))

    def options(self, sae_id: str, **options: Any) -> etsi014.Options:
        return driver_options(self.pki, sae_id, f"https://{self.config(sae_id).listen}", **options)


def driver_options(pki: Path, sae_id: str, url: str | list[str], **options: Any) -> etsi014.Options:
    mine = files(pki, sae_id)
    given = {"ca": mine.ca, "certificate": mine.certificate, "private_key": mine.private_key}
    return etsi014.Options.model_validate({"url": url, "sae_id": sae_id, **given, **options})


def pair_configs(pki: Path, key: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both KMEs' configurations as they would stand in YAML."""
    with free_ports(4) as (a, a_link, b, b_link):
        pass
    ports = {"kme-a": (a, a_link), "kme-b": (b, b_link)}

    def one(kme_id: str, partner: str) -> dict[str, Any]:
        mine = files(pki, kme_id)
        return {
            "kme_id": kme_id,
            "listen": f"127.0.0.1:{ports[kme_id][0]}",
            "certificate": str(mine.certificate),
            "private_key": str(mine.private_key),
            "ca": str(mine.ca),
            "partner": {
                "kme_id": partner,
                "listen": f"127.0.0.1:{ports[kme_id][1]}",
                "url": f"https://127.0.0.1:{ports[partner][1]}",
                "timeout": "20s",  # nothing here waits for it; a busy machine takes seconds for a TLS handshake
            },
            "saes": [{"sae_id": sae, "kme": "local" if home == kme_id else "partner"} for sae, home in SAES.items()],
            "key": key or {},
        }

    return one("kme-a", "kme-b"), one("kme-b", "kme-a")


@contextlib.asynccontextmanager
async def kme_pair(pki: Path, *, start: str = "ab", **key: Any) -> AsyncIterator[Pair]:
    """Both KMEs, serving; ``start`` says which."""
    a, b = (KmeConfig.model_validate(one) for one in pair_configs(pki, key))
    pair = Pair(pki, a, b)
    async with pair.stack:
        for letter, config in (("a", a), ("b", b)):
            if letter in start:
                await pair.stack.enter_async_context(running(config))
        yield pair


class Sae:
    """Asks a KME as curl would."""

    def __init__(self, url: str, mine: TlsFiles) -> None:
        self._url = url
        self._context = client_context(mine)

    async def ask(self, method: str, path: str, body: object = None, **params: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of the answer; a body that is not bytes is sent as JSON."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._context)) as session:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            url = f"{self._url}/api/v1/keys/{path}"
            async with session.request(method, url, data=data, params=params or None) as answer:
                return answer.status, await answer.json()


Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(status: str, body: bytes | str = b"", kind: str = "application/json", headers: str = "") -> bytes:
    """A whole HTTP answer, e.g. ``answer("400 Bad Request", "{}")``."""
    payload = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(payload)}", "Connection: close"]
    return ("\r\n".join(lines) + f"\r\n{headers}\r\n").encode() + payload


@dataclass
class Requests:
    """What a broken server saw."""

    port: int = 0
    lines: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def broken_server(mine: TlsFiles | None, *replies: bytes | None, hang: bool = False) -> AsyncIterator[Requests]:
    """A server that answers each request with the next of ``replies``, the last one again and again.

    ``None`` closes the connection without an answer. hang: it reads the request and never answers. mine: its TLS
    certificate; without it the server speaks no TLS.
    """
    seen = Requests()
    queue = list(replies)
    finish = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if mine is None:
                await reader.read(1)  # of a ClientHello, which has no end that HTTP knows
                writer.write(queue[0] or b"")
                return await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            seen.lines.append(head.splitlines()[0])
            length = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length:")]
            if length:
                await reader.readexactly(int(length[0]))
            if hang:
                await finish.wait()
            reply = queue.pop(0) if len(queue) > 1 else queue[0] if queue else None
            if reply is not None:
                writer.write(reply)
                await writer.drain()
        writer.close()
        return None

    context = None
    if mine is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(mine.certificate, mine.private_key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        finish.set()
        server.close()
        await server.wait_closed()
