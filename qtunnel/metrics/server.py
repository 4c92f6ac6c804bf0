"""The port that Prometheus reads: ``GET /metrics``, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from qtunnel.aside import aside
from qtunnel.control.messages import Status
from qtunnel.events import EventStream
from qtunnel.http_port import HttpPort
from qtunnel.metrics.families import families

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 90.0)
"""Seconds of an exchange: some 20 ms in a LAN with a quick KME, a second with a slow one; at the top the
bounds: 30 s of fetching and of waiting for an answer, and the responder's 90 s."""
SCRAPE_LIMIT = 8.0
"""Seconds for an answer: Prometheus waits 10 s by default."""
SHARE = 20.0
"""Times what an answer took to make in which it is given once more: of a large hub's that is 0.15 s of a processor, and
whoever can reach the port could ask all the time. A twentieth of one is enough."""
OLDEST = 4.0
"""Seconds after which it is made anew all the same; of a gateway with few peers it is so after some 0.04 s."""


class _Everything(Collector):
    """One status as metrics, and what was counted."""

    def __init__(self, status: Status, unix_now: float, counted: Collector) -> None:
        self._found = [*families(status, unix_now), *counted.collect()]

    def collect(self) -> list[Metric]:
        return self._found


class MetricsServer:
    """Serves metrics at ``host`` and ``port``. status: of all peers, as the control socket has it."""

    def __init__(self, host: str, port: int, status: Callable[[], Awaitable[Status]], events: EventStream) -> None:
        self._status, self._events = status, events
        disable_created_metrics()  # series that say when each was made, twice as many, which nobody asked for
        self._counted = CollectorRegistry()
        self._durations = Histogram(
            "qtunnel_handshake_duration_seconds", "Key handshakes that were done, by this end's role.", ["role"],
            buckets=BUCKETS, registry=self._counted,
        )  # fmt: skip
        self._failures = Counter(
            "qtunnel_rekey_failures", "Rekeys that failed, by reason.", ["reason"], registry=self._counted
        )
        for role in ("initiator", "responder"):
            self._durations.labels(role)
        self._turn = asyncio.Lock()
        self._made: tuple[str, bytes] = "", b""
        """The newest answer's media type, and the answer."""
        self._rest = 0.0
        """Until when no other one is made; monotonic seconds."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        self._http = HttpPort(app, host, port, "metrics.listen")

    async def start(self) -> None:
        """Raises ``HttpPortError`` where it cannot listen."""
        await self._http.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._http.port

    async def stop(self) -> None:
        """Idempotent."""
        await self._http.stop()

    async def follow(self) -> None:
        """Count what no status says; runs until the stream ends."""
        with self._events.subscribe() as events:
            async for event in events:
                if event.kind == "rekey.done" and isinstance(seconds := event.fields.get("seconds"), int | float):
                    self._durations.labels(str(event.fields.get("role"))).observe(seconds)
                elif event.kind == "rekey.failed":
                    more = event.fields.get("more", 0)
                    number = 1 + (more if isinstance(more, int) else 0)
                    self._failures.labels(str(event.fields.get("reason"))).inc(number)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        try:
            async with asyncio.timeout(SCRAPE_LIMIT), self._turn:  # who asks often waits
                resting = self._rest - time.monotonic()
                if resting > 0 and self._made[0] == content_type:
                    return web.Response(body=self._made[1], headers={"Content-Type": content_type})
                await asyncio.sleep(max(0.0, resting))
                began = time.monotonic()
                status, now = await self._status(), time.time()
                # Aside: of a hub's thousand peers it takes a tenth of a second, which no handshake may wait.
                body = await aside(lambda: encode(_Everything(status, now, self._counted)))
                made = time.monotonic()
                self._made, self._rest = (content_type, body), made + min(OLDEST, SHARE * (made - began))
        except TimeoutError:
            return web.Response(status=503, text="busy; ask again\n")
        return web.Response(body=body, headers={"Content-Type": content_type})
