"""A port of this machine at which an aiohttp application is served: its start, its errors, its end.

Whoever reaches it can open connections and say nothing. aiohttp lets those stay for an hour, and a process has some
thousand descriptors: without bounds anybody here could keep a daemon from reaching its engine, its KMEs and its files.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from qtunnel.errors import HttpPortError

CLOSE_LIMIT = 1.0
"""Seconds that an answer under way may take at the end."""

MOST_CONNECTIONS = 128
"""At a time, of the 1,024 descriptors that a process usually has: 32 readers of the page with what their browsers open
besides, and several Prometheus."""

IDLE = 20.0
"""Seconds that a connection may take for a request, and for the way of an answer: a file of the page has some
kilobytes, the metrics of a large hub a megabyte."""


class _Connection(asyncio.Protocol):
    """One connection: what aiohttp does with it, and since when it has done nothing."""

    def __init__(self, handler: asyncio.Protocol, port: HttpPort) -> None:
        self.handler, self._port = handler, port
        self.transport: asyncio.Transport | None = None
        self.busy = False
        self.idle: asyncio.TimerHandle | None = None

    def rest(self) -> None:
        """No request is being answered from here on."""
        self.busy = False
        self.wake()
        if self.transport is not None:
            self.idle = asyncio.get_running_loop().call_later(IDLE, self.transport.abort)

    def wake(self) -> None:
        if self.idle is not None:
            self.idle.cancel()
            self.idle = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if not self._port.admits(self):
            self.transport.abort()
            return
        self.rest()
        self.handler.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.wake()
        self.transport = None
        if self._port.forget(self):
            self.handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self.handler.eof_received()

    def pause_writing(self) -> None:
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        self.handler.resume_writing()


class HttpPort:
    """Serves ``app`` at ``host`` and ``port`` (0: any that is free). key: of the configuration, for errors."""

    def __init__(self, app: web.Application, host: str, port: int, key: str) -> None:
        self._app, self._host, self._port, self._key = app, host, port, key
        app.middlewares.insert(0, self._middleware())
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.BaseProtocol, _Connection] = {}

    async def start(self) -> None:
        """Raises ``HttpPortError`` where it cannot listen."""
        runner = self._runner = web.AppRunner(
            self._app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_LIMIT
        )
        await runner.setup()
        made = runner.server
        assert made is not None
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: _Connection(made(), self), self._host, self._port
            )
        except OSError as error:
            await self.stop()
            words = (error.strerror or str(error)).lower()
            raise HttpPortError(
                f"{self._key}: {self._host} port {self._port}: {words}; end what has it, or take another"
            ) from None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Idempotent."""
        server, self._server = self._server, None
        runner, self._runner = self._runner, None
        if server is not None:
            server.close()
        if runner is not None:
            await runner.cleanup()
        for connection in tuple(self._open.values()):
            if connection.transport is not None:
                connection.transport.abort()

    # Who is connected

    def admits(self, new: _Connection) -> bool:
        """Whether there is room, made by who has done nothing for longest where it takes that."""
        if len(self._open) >= MOST_CONNECTIONS:
            longest = next((its for its in self._open.values() if not its.busy), None)
            if longest is None or longest.transport is None:
                return False
            longest.transport.abort()
            del self._open[longest.handler]
            longest.handler.connection_lost(None)
        self._open[new.handler] = new
        return True

    def forget(self, connection: _Connection) -> bool:
        """Whether it was there."""
        return self._open.pop(connection.handler, None) is not None

    def _middleware(self) -> Middleware:
        @web.middleware
        async def attend(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = self._open.get(request.protocol)
            if connection is None:
                return await handler(request)
            connection.busy = True
            connection.wake()
            try:
                return await handler(request)
            finally:
                with contextlib.suppress(KeyError):  # it may be gone
                    self._open[request.protocol] = self._open.pop(request.protocol)  # the order is that of rest
                    connection.rest()

        return attend
