"""From the event stream to the audit log; and what becomes of the daemon where that cannot be written."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from contextlib import suppress

from qtunnel import __version__
from qtunnel.audit.kinds import RECORDED, bounded
from qtunnel.auditlog.files import unusable
from qtunnel.auditlog.log import AuditLog, Entry, LogOptions
from qtunnel.auditlog.writer import AuditWriter
from qtunnel.config import Config
from qtunnel.errors import AuditError, QtunnelError
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from qtunnel.telemetry import log

logger = log.get("audit")

OPEN_LIMIT = 20.0
"""Seconds for the disk at a start: as for the state directory."""
HANG_LIMIT = 5.0
"""Seconds that the disk may take for what it was given; then it counts as one that refuses."""
LOOK_EVERY = 1.0
"""Seconds between looks at whether it hangs."""
CLOSE_LIMIT = 5.0
"""Seconds that the end of the daemon waits for the last records."""
STOPS = " (audit.on_failure is stop)"
QUEUE = 8192
"""Events that wait for the loop's own turn; those that wait for the disk are the writer's."""


class Accounting:
    """The audit log of one daemon, or none where the configuration has none.

    end: ends the daemon because of what is said in words; called where policy says so. problem: why nothing is recorded
    now, ``None`` where all is.
    """

    def __init__(self, config: Config, identity: Identity, events: EventStream, end: Callable[[str], None]) -> None:
        self._options, self._events, self._end = config.audit, events, end
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[OSError | QtunnelError | None] | None = None
        self.problem: str | None = None
        if config.audit is None:
            return
        self._subscription = events.subscribe(QUEUE)
        options = LogOptions(
            config.audit.path, config.audit.rotate, config.node.state_dir, config.node.name, __version__
        )
        self._writer = AuditWriter(AuditLog(options, identity.audit_key(), time.time), self._tell, time.time)

    @property
    def records(self) -> int | None:
        """Number of the newest record; ``None`` where there is no audit log."""
        return None if self._options is None else self._writer.records

    async def start(self) -> None:
        """From here on records are written, those of what was told before first. Raises a ``QtunnelError`` for a log
        that can never be used, and where policy is not to go on without one for any."""
        if self._options is None:
            return
        self._loop = asyncio.get_running_loop()
        first = self._first = self._loop.create_future()
        self._writer.start()
        try:
            async with asyncio.timeout(OPEN_LIMIT):
                error = await first
        except TimeoutError:
            error = OSError(errno.ETIMEDOUT, f"the disk takes longer than {OPEN_LIMIT:g} s")
        if error is not None and (isinstance(error, QtunnelError) or self._options.on_failure == "stop"):
            self._writer.close(0)
            raise error if isinstance(error, QtunnelError) else QtunnelError(self._words(error) + STOPS)
        self._first = None
        self._heard(error)
        self._task = asyncio.create_task(self._follow())
        self._watch = asyncio.create_task(self._look())
        for task in (self._task, self._watch):
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        """A defect of ours must not end the log in silence."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.defect("audit.defect", error)
            self._heard(AuditError(f"the audit log is not written: internal error ({type(error).__name__})"))

    async def _follow(self) -> None:
        lost = 0
        async for event in self._subscription:
            if self._subscription.dropped != lost:
                self._writer.lost(self._subscription.dropped - lost)
                lost = self._subscription.dropped
            if event.kind in RECORDED:
                self._writer.put(Entry(event.time, event.kind, event.peer, bounded(event.fields)))

    async def _look(self) -> None:
        hung = False
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._writer.hangs_for() > HANG_LIMIT:
                hung = True
                self._heard(OSError(errno.ETIMEDOUT, f"the disk takes longer than {HANG_LIMIT:g} s"))
            elif hung and self._writer.writes:  # which does not tell of that: for it nothing was refused
                hung = False
                self._heard(None)

    def _tell(self, error: OSError | QtunnelError | None) -> None:
        """In the writer's thread."""
        with suppress(RuntimeError):  # the daemon ended meanwhile
            self._loop.call_soon_threadsafe(self._heard, error)

    def _words(self, error: OSError | QtunnelError) -> str:
        assert self._options is not None
        return str(unusable(self._options.path, error) if isinstance(error, OSError) else error)

    def _heard(self, error: OSError | QtunnelError | None) -> None:
        if self._first is not None:
            if not self._first.done():
                self._first.set_result(error)
            return
        before, self.problem = self.problem, None if error is None else self._words(error)
        assert self._options is not None
        if self.problem is None:
            if before is not None:
                self._events.publish("audit.resumed", None, detail="the audit log is written again")
        elif before is None:
            going_on = self._options.on_failure == "go-on"
            words = "; the daemon goes on, as audit.on_failure says" if going_on else ""
            self._events.publish("audit.failing", None, detail=self.problem + words)
            if not going_on:
                self._end(self.problem + STOPS)

    async def finish(self) -> None:
        """Write what was told up to the end of the stream, and a signed head."""
        if self._task is None:
            return
        await asyncio.wait({self._task})
        self._watch.cancel()
        unwritten = await asyncio.to_thread(self._writer.close, CLOSE_LIMIT)
        if unwritten:
            logger.error("audit.unwritten", number=unwritten, detail="the daemon ends without having recorded these")
