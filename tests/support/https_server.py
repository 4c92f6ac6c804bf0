"""A small HTTPS server on loopback, request by request, whose answers a test can spoil in any way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Exchange:
    """One request, by its ``call``, and what is about to be answered to it: ``whole``, unless a fault writes another
    thing."""

    call: str
    status: int
    writer: asyncio.StreamWriter = field(repr=False)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    @property
    def whole(self) -> bytes:
        """The honest answer, with its head."""
        raise NotImplementedError


@dataclass
class HttpsServer:
    """``exchange`` is called for each request of a connection for as long as it gives True."""

    connections: int = field(init=False, default=0)
    _server: asyncio.Server | None = field(init=False, default=None, repr=False)
    _tasks: set[asyncio.Task[None]] = field(init=False, default_factory=set, repr=False)

    async def listen(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """The port, which the kernel chooses where it is 0."""
        self._server = await asyncio.start_server(
            self._serve, host, port, ssl=context, family=socket.AF_INET, reuse_address=True
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Nobody listens any more, and whoever waits for an answer gets none."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                while await self.exchange(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # of ``stop``; asyncio would log it
        finally:
            writer.transport.abort() if task.cancelling() else writer.close()
