"""Work that blocks, in a thread that nobody waits for at the end of the process."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

BIRTH = 3.0
"""Seconds in which a thread comes to its work; one for which there was no memory never does. Fewer than those that a
disk may take, so that a thread which never began is not taken for a disk that hangs."""


class Aside:
    """Work in a thread of its own. Not one of ``threading``: that waits for the thread's first step, for ever where
    memory is so short that it makes none, and the event loop with it; and the end of the process waits for those of a
    pool."""

    def __init__(self, work: Callable[[], object]) -> None:
        """Raises ``OSError`` where no thread can be started."""
        self._lock = threading.Lock()
        self._begun = self._given_up = False
        self._work = work
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            raise OSError(errno.EAGAIN, "no thread can be started: out of memory or of processes") from None

    def _run(self) -> None:
        with self._lock:
            if self._given_up:
                return
            self._begun = True
        self._work()

    def give_up(self) -> bool:
        """Whether the work has not begun; then it never will."""
        with self._lock:
            self._given_up = not self._begun
            return self._given_up


async def aside(work: Callable[[], Result]) -> Result:
    """What ``work`` returns or raises; ``OSError`` where it could not be begun. Not of a pool: a file on a disk that
    hangs must not keep the daemon from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def tell(result: Result | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # without an error there is a result

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the daemon ended meanwhile
            loop.call_soon_threadsafe(tell, result, failure)

    thread = Aside(run)
    try:
        finished, _ = await asyncio.wait([done], timeout=BIRTH)
        if not finished and thread.give_up():
            raise OSError(errno.EAGAIN, "a thread did not begin: out of memory")
        return await done
    finally:
        done.cancel()  # where nobody waits any more, the loop would tell of an error that nobody has asked for
