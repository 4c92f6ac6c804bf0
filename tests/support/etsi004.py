"""Two KMEs that speak ETSI GS QKD 004 in QUBIP's framing over TCP or mutual TLS, share one link's keys, and can fail.

They are written from the framing's description alone, and use nothing of the driver but its options.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import struct
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qtunnel.drivers import etsi004
from qtunnel.drivers.etsi004_options import Options, PeerOptions
from qtunnel.tls import TlsFiles, server_context
from tests.support.kme import files

OPEN, GET, CLOSE = 2, 4, 8
URIS = {"a": ("qkd://alice", "qkd://bob"), "b": ("qkd://bob", "qkd://alice")}
SAES = {"a": "sae-alice", "b": "sae-bob"}


@dataclass
class KeyStream:
    """What both KMEs know of one stream. open: ends at which a connection has it; delivered: (end, index)."""

    uris: tuple[str, str]
    chunk: int
    chunks: dict[int, bytes] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    delivered: set[tuple[str, int]] = field(default_factory=set)


@dataclass
class Link:
    """What the KMEs share, and how strict they are.

    stock: indexes from this one on are not there yet. both_first: nothing before both ends have opened the stream.
    most_chunk, most_bps: more is answered with a counter-proposal; opens_anyway: and with an open stream. ttl: offered
    in place of what is asked. new_id: of every stream that is the KME's to name; a good one has another each time.
    """

    streams: dict[uuid.UUID, KeyStream] = field(default_factory=dict)
    stock: int = 1_000_000
    both_first: bool = False
    most_chunk: int = 1 << 20
    most_bps: int = 500_000
    opens_anyway: bool = True
    same_uris: bool = True
    ttl: int | None = None
    new_id: uuid.UUID | None = None
    metadata: bytes = json.dumps({"age": 3, "hops": 2}).encode()

    def chunk(self, stream: KeyStream, index: int) -> bytes:
        return stream.chunks.setdefault(index, os.urandom(stream.chunk))


class Kme:
    """One end. tls: its certificate; without one it speaks no TLS. asked: (service, body) of every request."""

    def __init__(
        self, link: Link, end: str, tls: TlsFiles | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.link, self.end, self.tls = link, end, tls
        self.host, self.port = host, port
        self.asked: list[tuple[int, bytes]] = []
        self.faults: dict[int, list[str]] = {OPEN: [], GET: [], CLOSE: []}
        self.last: bytes | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._release = asyncio.Event()

    @property
    def services(self) -> list[int]:
        """Of the requests."""
        return [service for service, _ in self.asked]

    def inject(self, fault: str, service: int = GET) -> None:
        """The next request of that service meets this fault: a word that ``_answer`` knows, or a status."""
        self.faults[service].append(fault)

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        self._release = asyncio.Event()
        if context is None and self.tls is not None:
            context = server_context(self.tls, lambda said: None)
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Go away as a process that is killed does."""
        assert self._server is not None
        self._server.close()
        self._release.set()
        self.drop()
        await self._server.wait_closed()

    async def replace(self, context: ssl.SSLContext) -> None:
        """Another server at the port from now on; then cut the connections of this one."""
        assert self._server is not None
        self._server.close()
        self._release.set()
        await self.start(context)
        self.drop()

    def drop(self) -> None:
        """Cut all connections."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    @property
    def connections(self) -> int:
        return len(self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine: set[uuid.UUID] = set()
        self._writers.add(writer)
        try:
            while True:
                major, minor, patch, service, size = struct.unpack("!BBBbI", await reader.readexactly(8))
                if (major, minor, patch) != (1, 0, 1):
                    raise ConnectionError
                body = await reader.readexactly(size)
                self.asked.append((service, body))
                await self._answer(writer, service, body, mine)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for ksid in mine:
                if ksid in self.link.streams:
                    self.link.streams[ksid].open.discard(self.end)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, writer: asyncio.StreamWriter, service: int, body: bytes, mine: set[uuid.UUID]) -> None:
        fault = self.faults[service].pop(0) if self.faults[service] else ""
        if fault == "hang":
            await self._release.wait()
            return
        handler = {OPEN: self._open, GET: self._get, CLOSE: self._close}[service]
        reply = struct.pack("!I", int(fault)) if fault.isdigit() else handler(body, mine, fault)
        message = struct.pack("!BBBbI", 1, 0, 1, service + 1, len(reply)) + reply
        if fault == "version":
            message = b"\x02" + message[1:]
        elif fault == "service":
            message = message[:3] + b"\x63" + message[4:]
        elif fault == "huge":
            message = message[:4] + struct.pack("!I", 1 << 31) + reply
        elif fault == "http":
            message = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        elif fault == "cut":
            message = message[: len(message) // 2]
        elif fault == "extra":
            message += b"\0"
        if fault == "drip":
            for at in range(len(message)):
                writer.write(message[at : at + 1])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await self._release.wait()
            return
        writer.write(message)
        await writer.drain()
        if fault == "cut":
            raise ConnectionError

    def _open(self, body: bytes, mine: set[uuid.UUID], fault: str) -> bytes:
        source, destination, rest = body.split(b"\0", 2)
        uris = (source.decode(), destination.decode())
        assert len(rest) == 28 + 256 + 16
        chunk, most, *others = struct.unpack("!7I", rest[:28])
        ksid = uuid.UUID(bytes=rest[-16:])
        stream = self.link.streams.get(ksid)
        if stream is not None and (self.end in stream.open or (self.link.same_uris and stream.uris != uris)):
            return struct.pack("!I", 5)
        met = chunk <= self.link.most_chunk and most <= self.link.most_bps
        chunk, most = min(chunk, self.link.most_chunk), min(most, self.link.most_bps)
        if self.link.ttl is not None:
            others[-1] = self.link.ttl
        if fault == "other-chunk":
            chunk += 16
        qos = struct.pack("!7I", chunk, most, *others) + rest[28:284]
        if not met and not self.link.opens_anyway:
            return struct.pack("!I", 7) + qos + bytes(16)
        if ksid.int == 0:
            ksid = self.link.new_id or uuid.uuid4()
        if fault == "other-ksid":
            ksid = uuid.uuid4()
        stream = self.link.streams.setdefault(ksid, KeyStream(uris, chunk))
        stream.open.add(self.end)
        mine.add(ksid)
        status = 7 if not met else 0 if len(stream.open) == 2 else 1
        return struct.pack("!I", status) + qos + ksid.bytes

    def _get(self, body: bytes, mine: set[uuid.UUID], fault: str) -> bytes:
        ksid, (index, room) = uuid.UUID(bytes=body[:16]), struct.unpack("!II", body[16:])
        stream = self.link.streams.get(ksid)
        if stream is None or ksid not in mine or (self.link.both_first and len(stream.open) < 2):
            return struct.pack("!I", 3)
        if index >= self.link.stock or (self.end, index) in stream.delivered:
            return struct.pack("!I", 2)
        metadata = self.link.metadata
        if room < len(metadata):
            return struct.pack("!II", 8, len(metadata))
        stream.delivered.add((self.end, index))
        chunk = self.link.chunk(stream, index)
        size = len(chunk)
        if fault == "zero":
            chunk = bytes(size)
        elif fault == "block":
            chunk = chunk[:8] * (size // 8)
        elif fault == "repeat":
            assert self.last is not None
            chunk = self.last
        elif fault == "short":
            chunk = chunk[:-1]
        elif fault == "hex":
            chunk = chunk.hex().encode()
        elif fault == "other-index":
            index += 1
        elif fault == "too-much-metadata":
            metadata = bytes(room + 1)
        self.last = chunk
        length = 9 if fault == "lying-length" else len(chunk)
        return struct.pack("!III", 0, index, length) + chunk + struct.pack("!I", len(metadata)) + metadata

    def _close(self, body: bytes, mine: set[uuid.UUID], fault: str) -> bytes:
        ksid = uuid.UUID(bytes=body)
        if ksid not in mine:
            return struct.pack("!I", 3)
        mine.discard(ksid)
        if ksid in self.link.streams:
            self.link.streams[ksid].open.discard(self.end)
        return struct.pack("!I", 0)


@dataclass
class Pair:
    """Both KMEs, and sources at them that are closed with the pair."""

    link: Link
    kmes: dict[str, Kme]
    pki: Path | None
    stack: contextlib.AsyncExitStack

    def options(self, end: str, **given: Any) -> Options:
        if self.pki is not None:
            mine = files(self.pki, SAES[end])
            given = {"ca": mine.ca, "certificate": mine.certificate, "private_key": mine.private_key, **given}
        url = f"{'tcp' if self.pki is None else 'tls'}://127.0.0.1:{self.kmes[end].port}"
        return Options.model_validate({"url": url, **given})

    def source(self, end: str, peer: dict[str, Any] | None = None, **given: Any) -> etsi004.Source:
        hub = etsi004.Hub("fibre", self.options(end, **given))
        self.stack.push_async_callback(hub.close)
        return hub.for_peer(peer_options(end, **(peer or {})))


def peer_options(end: str, **given: Any) -> PeerOptions:
    source, destination = URIS[end]
    return PeerOptions.model_validate({"source": source, "destination": destination, **given})


@contextlib.asynccontextmanager
async def kme_pair(pki: Path | None = None, **link: Any) -> AsyncIterator[Pair]:
    """Both KMEs, serving: over TLS with certificates of ``pki``, or over TCP."""
    shared = Link(**link)
    tls = {end: None if pki is None else files(pki, f"kme-{end}") for end in "ab"}
    pair = Pair(shared, {end: Kme(shared, end, tls[end]) for end in "ab"}, pki, contextlib.AsyncExitStack())
    for kme in pair.kmes.values():
        await kme.start()
    try:
        async with pair.stack:
            yield pair
    finally:
        for kme in pair.kmes.values():
            await kme.stop()
