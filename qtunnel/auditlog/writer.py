"""The thread that writes the audit log: whoever has something to record never waits for the disk."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from qtunnel.audit.chain import ALIVE
from qtunnel.auditlog.log import AuditLog, Entry
from qtunnel.errors import AuditError, QtunnelError

GATHER = 0.2
"""Seconds that records wait for others, so that one sync serves a rekey's five or a hub's hundred: a power cut costs
the records of that time and of one sync. An attacker who can cut the power at will can do so with any bound."""
SILENT = 60.0
"""Seconds without a record after which one says that the daemon runs: 0.4 MB a day of a gateway with nothing to do."""
RETRY = 1.0
"""Seconds until a disk that refused is tried again."""
Tell = Callable[[OSError | QtunnelError | None], None]

MAX_WAITING = 20_000
"""Records that wait for the disk, of some 500 bytes each: 10 MB. A hub of 1,000 peers makes them in ten minutes."""


class AuditWriter:
    """Takes records from one thread and writes them in another.

    tell: hears, in the writer's thread, what refuses each time that it cannot write, and ``None`` once it can.
    """

    def __init__(
        self, log: AuditLog, tell: Tell, clock: Callable[[], float], gather: float = GATHER,
        retry: float = RETRY,
    ) -> None:  # fmt: skip
        """clock: Unix seconds. gather, retry: seconds."""
        self._log, self._tell, self._clock = log, tell, clock
        self._gather, self._retry = gather, retry
        self._waiting: deque[Entry] = deque()
        self._lost, self._lost_since = 0, 0.0
        self._changed = threading.Condition()
        self._closing = False
        self._writes: bool | None = None
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        """Of the thread, which opens the log, and tells what came of that."""
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Have it recorded. Never waits; where too many wait it is counted as lost, and the log will say so."""
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self._count_lost(1)
                return
            self._waiting.append(entry)
            self._changed.notify()

    def lost(self, number: int) -> None:
        """So many more things could not be recorded."""
        with self._changed:
            self._count_lost(number)
            self._changed.notify()

    def _count_lost(self, number: int) -> None:
        if not self._lost:
            self._lost_since = self._clock()
        self._lost += number

    def hangs_for(self) -> float:
        """Seconds that the disk has been at work on what it was given; 0 while nothing is."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def writes(self) -> bool | None:
        """Whether the newest batch is on the disk; ``None`` before the first."""
        return self._writes

    @property
    def records(self) -> int:
        """Number of the newest record."""
        return self._log.records

    def close(self, limit: float) -> int:
        """Write what waits, and a signed head; after ``limit`` seconds nobody waits for the disk any more. How many
        records are not written. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(limit)
        return len(self._waiting) + self._lost + self._log.unwritten

    def _run(self) -> None:
        self._write()
        idle_since = time.monotonic()
        while True:
            with self._changed:
                if not (self._waiting or self._lost or self._closing):
                    self._changed.wait(max(0.0, idle_since + SILENT - time.monotonic()))
                work, closing = bool(self._waiting or self._lost), self._closing
            if not closing:
                time.sleep(self._gather if work else 0.0)
            if not work and not closing and time.monotonic() - idle_since >= SILENT:
                self.put(Entry(self._clock(), ALIVE, None, {}))
            elif not work and not closing:
                continue
            written = self._write()
            idle_since = time.monotonic()
            if closing and (not written or not (self._waiting or self._lost)):
                self._busy_since = None
                self._log.close()
                return
            if not written:
                with self._changed:
                    if not self._closing:
                        self._changed.wait_for(lambda: self._closing, self._retry)

    def _write(self) -> bool:
        """One batch; whether it is on the disk."""
        self._busy_since = time.monotonic()
        try:
            self._write_batch()
        except (OSError, QtunnelError) as error:
            self._writes = False
            self._tell(error)
            return False
        except Exception as error:  # a defect must not end the thread in silence
            self._writes = False
            self._tell(AuditError(f"audit log {self._log.path}: internal error ({type(error).__name__}: {error})"))
            return False
        finally:
            self._busy_since = None
        if not self._writes:
            self._writes = True
            self._tell(None)
        return True

    def _write_batch(self) -> None:
        self._log.open()
        self._log.sync()  # what was refused before stands first
        with self._changed:
            batch, lost, since = list(self._waiting), self._lost, self._lost_since
            self._waiting.clear()
            self._lost = 0
        try:
            self._log.add(batch)
            batch.clear()
            if lost:  # those came when the batch was waiting already
                self._log.gap(lost, since)
        except Exception:
            with self._changed:
                if lost:  # no record says so yet
                    self._lost, self._lost_since = self._lost + lost, since
                self._count_lost(len(batch))
            raise
        if self._closing:
            self._log.sign()
        self._log.sync()
