"""A broker that means harm to the gateways that report to it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from qtunnel.control.messages import Status
from qtunnel.errors import BrokerError
from qtunnel.events import EventStream
from qtunnel.fleet import broker as module
from qtunnel.fleet.broker import Broker, connected
from qtunnel.fleet.publisher import Publisher
from tests.fleet.test_fleet import status
from tests.support.kme import files, make_pki

CONNACK = b"\x20\x03\x00\x00\x00"
Says = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def length(number: int) -> bytes:
    """As MQTT has it (clause 1.5.5)."""
    found = b""
    while True:
        number, low = divmod(number, 128)
        found += bytes([low | (128 if number else 0)])
        if not number:
            return found


def publish(payload: bytes) -> bytes:
    body = b"\x00\x01t\x00" + payload
    return b"\x30" + length(len(body)) + body


@contextlib.asynccontextmanager
async def broker(says: Says, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """One that accepts everybody, and then does as it likes; its port."""
    over: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await reader.read(4096)
            writer.write(CONNACK)
            await says(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(
        lambda reader, writer: over.add(asyncio.create_task(accept(reader, writer))), "127.0.0.1", 0, ssl=context
    )
    try:
        async with asyncio.timeout(60):
            yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in over:
            task.cancel()
        await asyncio.gather(*over, return_exceptions=True)


def test_a_gateway_leaves_a_broker_that_sends_what_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(publish(bytes(50_000)))
                await writer.drain()
        finally:
            ended.set()

    monkeypatch.setattr(module, "TIMEOUT", 1.0)

    async def told() -> Status:
        return status("alice")

    async def test() -> None:
        events = EventStream()
        async with broker(floods) as port:
            place = Broker("127.0.0.1", port)
            publisher = Publisher(place, "qtunnel", "alice", told, events, interval=60, discover=False)
            following = asyncio.create_task(publisher.follow())
            with events.subscribe() as heard:
                async for event in heard:
                    if event.kind == "mqtt.down":
                        assert "nobody has asked for any" in str(event.fields["detail"])
                        break
            await ended.wait()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    asyncio.run(test())


def test_a_packet_of_any_size_is_not_taken_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 20.0)
    sent = 0

    async def one_large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"\x30" + length(200 << 20))
        while sent < 200 << 20:
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent += 1 << 16

    async def test() -> None:
        pki = make_pki(tmp_path / "pki")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files(pki, "kme-a").certificate, files(pki, "kme-a").private_key)
        async with broker(one_large, context) as port:
            with pytest.raises(BrokerError):
                async with connected(Broker("127.0.0.1", port, pki / "ca.pem"), "watcher", waiting=10) as client:
                    await anext(client.messages)
        assert sent < 32 << 20, "what sockets hold, and no more"

    asyncio.run(test())
