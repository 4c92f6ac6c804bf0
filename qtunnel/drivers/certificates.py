"""TLS contexts that follow their files: another certificate, key or CA is in force for the next connection."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from qtunnel.aside import aside
from qtunnel.errors import QtunnelError

Stamp = tuple[tuple[int, int, int, int] | None, ...]
"""Of each file its inode, size, and times of the last change of content and of attributes; None where it is missing."""

NO_THREAD = "its certificate files cannot be looked at, so those of before stay: no thread can be started"
HANGS = "the disk with its certificate files does not answer, so those of before stay"


class Files(Protocol):
    """Files that a context is made of, such as ``qtunnel.tls.AnyFiles``."""

    @property
    def paths(self) -> tuple[Path, ...]: ...


LOOK_AGAIN = 1.0
"""Seconds from one look at the files to the next: a hub makes ten calls a second, and each look takes a thread."""
LOOK_LIMIT = 1.0
"""Seconds that a connection waits for a look at the files: a disk answers in a millisecond, and one that has to wake up
is heard with the next connection."""
MAKE_LIMIT = 3.0
"""Seconds for a new context: opening a private key takes up to one, and a driver's connection has four by default."""

Result = TypeVar("Result")


class Certificates:
    """One TLS context, made anew when the files that it comes from have changed.

    make: makes it; raises a ``QtunnelError`` for files that cannot be used. Where that happens to files that changed,
    the context of before stays in force, and ``problem`` says why, until they are good again. The same where the disk
    hangs, which nothing else waits for: files are looked at aside from the event loop. clock: monotonic seconds.
    """

    def __init__(
        self, files: Files, make: Callable[[], ssl.SSLContext], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._paths, self._make, self._clock = files.paths, make, clock
        self._looked = float("-inf")
        self._stamp = _stamp(self._paths)
        self._context = make()
        self._lock = asyncio.Lock()
        self._under_way: asyncio.Task[object] | None = None
        self.problem: str | None = None

    async def current(self) -> ssl.SSLContext:
        """The context for a connection that is made now; of a change of the files a second ago it may not know yet."""
        async with self._lock:
            if self._clock() - self._looked < LOOK_AGAIN:
                return self._context
            try:
                # Taken before the files are read: what changes while they are is seen at the next look.
                begun = self._clock()
                stamp = await self._aside(lambda: _stamp(self._paths), LOOK_LIMIT)
                self._looked = begun
                if stamp != self._stamp:
                    await self._renew(stamp)
                elif self.problem in (HANGS, NO_THREAD):
                    self.problem = None
            except TimeoutError:
                self.problem = HANGS
            except OSError:
                self.problem = NO_THREAD
        return self._context

    async def _aside(self, work: Callable[[], Result], limit: float) -> Result:
        """What it returns or raises; ``TimeoutError`` where it takes longer, or one of before still does: a disk that
        hangs costs one thread."""
        if self._under_way is not None and not self._under_way.done():
            raise TimeoutError
        task = self._under_way = asyncio.create_task(aside(work))
        task.add_done_callback(lambda its: its.cancelled() or its.exception())  # which nobody may wait for any more
        async with asyncio.timeout(limit):
            return await asyncio.shield(task)

    async def _renew(self, stamp: Stamp) -> None:
        try:
            self._context = await self._aside(self._make, MAKE_LIMIT)
        except QtunnelError as error:
            self.problem = f"its certificate files changed and cannot be used, so those of before stay: {error}"
        else:
            self.problem = None
        self._stamp = stamp


def _stamp(paths: tuple[Path, ...]) -> Stamp:
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
