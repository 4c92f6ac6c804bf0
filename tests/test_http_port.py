"""A port that anybody may connect to: who only holds connections costs the daemon few of them, and not for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from qtunnel import http_port
from qtunnel.http_port import HttpPort

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LARGE = bytes(range(256)) * 100_000
"""More than the buffers of both ends hold."""
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[HttpPort, asyncio.Event]]:
    """A port whose answers to /slow come when the event is set."""
    go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await go_on.wait()
        return web.Response(text="slow")

    async def quick(request: web.Request) -> web.Response:
        return web.Response(text="quick")

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=LARGE)

    app = web.Application()
    app.router.add_get("/large", large)
    app.router.add_get("/", quick)
    app.router.add_get("/slow", slow)
    port = HttpPort(app, "127.0.0.1", 0, "test.listen")
    await port.start()
    try:
        async with asyncio.timeout(60):
            yield port, go_on
    finally:
        await port.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def it() -> None:
        await test()

    asyncio.run(it())


async def connect(port: HttpPort) -> Streams:
    return await asyncio.open_connection("127.0.0.1", port.port)


async def answered(streams: Streams) -> bool:
    """Whether the connection answers; False where it was ended."""
    reader, writer = streams
    try:
        writer.write(GET)
        head = await reader.readuntil(b"\r\n\r\n")
        return b" 200 " in head and await reader.readexactly(5) == b"quick"
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


async def until(condition: Callable[[], bool]) -> None:
    while True:  # within the bound of ``serving``
        if condition():
            return
        await asyncio.sleep(0.01)


async def ended(streams: Streams) -> None:
    """Waits for the end of a connection."""
    try:
        while await streams[0].read(1024):
            pass
    except ConnectionError:
        pass


def test_who_says_nothing_makes_room_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "MOST_CONNECTIONS", 4)

    async def test() -> None:
        async with serving() as (port, go_on):
            busy = await connect(port)
            busy[1].write(GET.replace(b" / ", b" /slow "))
            silent = [await connect(port) for _ in range(40)]
            asks = await connect(port)
            assert await answered(asks)
            assert await answered(asks), "again on the same connection"
            for one in silent[:37]:
                await ended(one)
            assert len(port._open) <= 4
            go_on.set()
            assert b" 200 " in await busy[0].readuntil(b"\r\n\r\n"), "what is being answered stays"

    run(test)


def test_where_all_are_busy_nobody_is_thrown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "MOST_CONNECTIONS", 2)

    async def test() -> None:
        async with serving() as (port, go_on):
            busy = [await connect(port) for _ in range(2)]
            for _, writer in busy:
                writer.write(GET.replace(b" / ", b" /slow "))
            await until(lambda: [its.busy for its in port._open.values()] == [True, True])
            await ended(await connect(port))
            go_on.set()
            for reader, _ in busy:
                assert b" 200 " in await reader.readuntil(b"\r\n\r\n")

    run(test)


def test_who_reads_slowly_gets_a_large_answer_whole() -> None:
    async def test() -> None:
        async with serving() as (port, _):
            reader, writer = await connect(port)
            writer.write(GET.replace(b" / ", b" /large "))
            (connection,) = port._open.values()
            await until(lambda: connection.transport is not None and connection.transport.get_write_buffer_size() > 0)
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(LARGE)) == LARGE

    run(test)


def test_who_goes_before_the_answer_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving() as (port, go_on):
            _, writer = await connect(port)
            writer.write(GET.replace(b" / ", b" /slow "))
            await until(lambda: [its.busy for its in port._open.values()] == [True])
            writer.transport.abort()
            await until(lambda: not port._open)
            go_on.set()
            assert await answered(await connect(port)), "others are answered"

    run(test)
    assert caplog.records == []


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: ", GET])
def test_a_connection_is_let_go_that_does_not_come_to_the_point(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor after an answer, for the next question."""
    monkeypatch.setattr(http_port, "IDLE", 0.2)

    async def test() -> None:
        async with serving() as (port, _):
            streams = await connect(port)
            streams[1].write(said)
            await ended(streams)
            await until(lambda: not port._open)

    run(test)
