"""What is sent to those who look: the newest frame, made once for all, and none when nobody looks.

Nobody has a queue. Who reads slowly gets fewer frames, each the newest when its turn comes; who does not read at all is
let go. So a thousand bad readers cost the daemon no more memory than one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qtunnel.aside import aside
from qtunnel.control.messages import Status
from qtunnel.page.past import Past
from qtunnel.page.present import present, told
from qtunnel.telemetry import log

logger = log.get("page")

EVERY = 1.0
"""Seconds between frames: as often as the daemon itself looks at the engine."""
SHARE = 20.0
"""Times what a frame took to make lie between two: of a large hub's it is long, and one twentieth of a processor is
enough for who looks."""
SELDOM = 4.0
"""Seconds between two all the same: a page takes a longer silence for that of the daemon."""
MOST_READERS = 32
"""At once: some browsers with some tabs each, on both sides of a proxy."""


class Live:
    """Frames of server-sent events (WHATWG HTML, 9.2). status: of all peers, as the control socket has it."""

    def __init__(self, status: Callable[[], Awaitable[Status]], past: Past) -> None:
        self._status, self._past = status, past
        self._readers = 0
        self._somebody = asyncio.Event()
        self._turn = asyncio.Condition()
        self._number = 0
        self._now = b""
        self._then = b""
        self._then_number = -1
        self._failed = False

    @contextmanager
    def reader(self) -> Iterator[bool]:
        """While somebody looks; whether there is room for him."""
        if self._readers >= MOST_READERS:
            yield False
            return
        self._readers += 1
        self._somebody.set()
        try:
            yield True
        finally:
            self._readers -= 1
            if not self._readers:
                self._somebody.clear()

    async def frames(self) -> AsyncIterator[bytes]:
        """For one reader: what holds now each time that it is newer, and the past where that changed."""
        seen, seen_then = self._number, -1
        while True:
            async with self._turn:
                await self._turn.wait_for(lambda seen=seen: self._number > seen)  # type: ignore[misc]
            seen, frame = self._number, self._now
            if self._then_number != seen_then:
                seen_then, frame = self._then_number, self._then + frame
            yield frame

    async def run(self) -> None:
        """Make frames while somebody looks; runs until it is cancelled."""
        while True:
            await self._somebody.wait()
            began = time.monotonic()
            try:
                await self._make()
            except Exception as error:  # no reason to end a tunnel; no frame, so the page says that there is no answer
                if not self._failed:
                    logger.defect("page.defect", error)
                self._failed = True
            took = time.monotonic() - began
            await asyncio.sleep(min(SELDOM, max(EVERY - took, took * SHARE, 0.0)))

    async def _make(self) -> None:
        status, now = await self._status(), time.time()
        number = self._past.number
        then = self._past.view(now, told(status)) if number != self._then_number else None
        # Aside: of a hub's thousand peers it takes a tenth of a second, which no handshake may wait.
        frame = await aside(lambda: _frame("now", {**present(status, now), "clock": time.monotonic()}))
        if then is not None:
            self._then, self._then_number = _frame("past", then), number
        self._now = frame
        async with self._turn:
            self._number += 1
            self._turn.notify_all()


def _frame(name: str, data: dict[str, Any]) -> bytes:
    """JSON has no line breaks of its own, so it is one ``data`` line."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'), allow_nan=False)}\n\n".encode()
