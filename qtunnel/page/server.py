"""The port that a browser reads: the page's files, and what is live. Nothing can be changed here."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from importlib import resources

from aiohttp import web

from qtunnel.control.messages import KeySourceStatus, Status
from qtunnel.events import EventStream, Subscription
from qtunnel.http_port import HttpPort
from qtunnel.page.guard import HEADERS, Guard, answer
from qtunnel.page.live import MOST_READERS, Live
from qtunnel.page.past import SAMPLE_EVERY, Past
from qtunnel.secret import Secret

FILES = {
    "page.html": "text/html",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
    **{
        f"{name}.js": "text/javascript"
        for name in ("page", "tree", "words", "picture", "tunnels", "timeline", "sources", "happened")
    },
}
"""All that is served, with its media type; ``page.html`` at the address itself."""
WRITE_LIMIT = 10.0
"""Seconds that a reader may take for one frame of some kilobytes; a browser that sleeps comes back by itself."""
SEND_BUFFER = 32 * 1024
"""Bytes that the kernel keeps for one reader (it takes twice that), so that little waits there to become old."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page is made of: the status of all peers, the key sources', events, and an event's level in the log."""

    status: Callable[[], Awaitable[Status]]
    sources: Callable[[], Iterable[KeySourceStatus]]
    events: EventStream
    level: Callable[[str], str]


class PageServer:
    """Serves the page at ``host`` and ``port``. hosts: further names of this host; token: who knows it may look."""

    def __init__(
        self, host: str, port: int, facts: Facts, hosts: Iterable[str] = (), token: Secret | None = None
    ) -> None:
        self._facts, self._token = facts, token
        self._past = Past(facts.level)
        self._heard: Subscription | None = None
        self._live = Live(facts.status, self._past)
        self._closing = asyncio.Event()
        app = web.Application(middlewares=[Guard(hosts, token).middleware()], client_max_size=0)
        directory = resources.files("qtunnel.page") / "static"
        for name, kind in FILES.items():
            app.router.add_get("/" if name == "page.html" else f"/{name}", _file((directory / name).read_bytes(), kind))
        app.router.add_get("/live", self._stream, allow_head=False)
        self._http = HttpPort(app, host, port, "page.listen")

    async def start(self) -> None:
        """Raises ``HttpPortError`` where it cannot listen."""
        for event in self._facts.events.history():
            self._past.happened(event)
        self._heard = self._facts.events.subscribe()
        await self._http.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._http.port

    async def stop(self) -> None:
        """Idempotent."""
        self._closing.set()
        if self._heard is not None:
            self._heard.close()
        await self._http.stop()
        if self._token is not None:
            self._token.wipe()

    async def follow(self) -> None:
        """Keep what is shown up to date; runs until the stream of events ends."""
        assert self._heard is not None
        tasks = [asyncio.create_task(work) for work in (self._live.run(), self._sample())]
        try:
            async for event in self._heard:
                self._past.happened(event)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sample(self) -> None:
        while True:
            self._past.sample(time.time(), self._facts.sources())
            await asyncio.sleep(SAMPLE_EVERY)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        with self._live.reader() as room:
            if not room:
                return answer(503, f"{MOST_READERS} look at this page already; close one\n", {"Retry-After": "10"})
            # X-Accel-Buffering: nginx would hold frames back
            more = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
            response = web.StreamResponse(headers={**HEADERS, **more})
            if request.transport is not None:
                request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
                request.transport.set_write_buffer_limits(0)  # a write ends when the kernel has it, so one frame waits
            await response.prepare(request)
            sending = asyncio.ensure_future(self._send(request, response))
            closing = asyncio.ensure_future(self._closing.wait())
            try:
                await asyncio.wait({sending, closing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, closing):
                    task.cancel()
                await asyncio.gather(sending, closing, return_exceptions=True)
            return response

    async def _send(self, request: web.Request, response: web.StreamResponse) -> None:
        async for frame in self._live.frames():
            try:
                async with asyncio.timeout(WRITE_LIMIT):
                    await response.write(frame)
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()  # a polite end would wait for who does not read
                return
            except ConnectionError:
                return


def _file(content: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=content, headers={**HEADERS, "Content-Type": f"{kind}; charset=utf-8"})

    return serve
