"""What is sent or written waits for the jobs of workers that were handed out before it, so that order is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from qtunnel.workers.farm import Farm, Job
from qtunnel.workers.messages import Task

MAX_WAITING: Final = 96
"""Entries that may wait until the engine waits itself for the first of them. Of 64 datagrams each they take 6,144
counters: what goes around the queue and overtakes them pushes none out of the peer's replay window of 8,192."""

Action = Callable[[float], None]
"""What to do when its turn has come, at that time."""


class InOrder:
    """A queue of one direction. Where nothing waits, nothing has to be put into it: see ``busy``."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._waiting: deque[tuple[Job | None, Action]] = deque()
        self._at_work = False

    @property
    def busy(self) -> bool:
        """Whether something is before what would be sent now. Not so for what an action itself sends."""
        return bool(self._waiting) and not self._at_work

    def put(self, action: Action) -> None:
        """Do this after all that waits."""
        self._waiting.append((None, action))

    @property
    def has_room(self) -> bool:
        """Whether a worker would take a task."""
        return self._farm.has_room

    def hand_out(self, task: Task, data: memoryview, done: Callable[[Job, float], None]) -> bool:
        """Whether a worker took the task; ``done`` is called with it in its turn, once it is over."""
        job = self._farm.submit(task, data)
        if job is None:
            return False
        self._waiting.append((job, partial(done, job)))
        return True

    def go_on(self, now: float) -> None:
        """Do what may be done by now; where too much waits, wait for what is first."""
        waiting = self._waiting
        while waiting:
            job, action = waiting[0]
            if job is not None and job.result is None:
                if len(waiting) < MAX_WAITING:
                    return
                self._farm.wait(job)
                continue
            self._at_work = True
            try:
                action(now)
            finally:
                self._at_work = False
                waiting.popleft()
                if job is not None:
                    self._farm.release(job)
