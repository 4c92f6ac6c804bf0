"""The engine's side of its workers: tasks go to whoever has the fewest, results come back by worker."""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from qtunnel.errors import EngineError
from qtunnel.secret import Secret
from qtunnel.workers.messages import (
    FORGET,
    IN_SIZE,
    MAX_MESSAGE,
    NOTHING_MISSING,
    REGION,
    RESULT,
    SESSION,
    SLOTS,
    SUITES,
    TASK,
    WRITE,
    Kind,
    Result,
    Status,
    Task,
    slot_places,
)
from qtunnel.workers.process import be_worker

PATIENCE: Final = 5.0
"""Seconds that a worker may take for what it has in work, a few milliseconds usually, before it counts as stuck."""

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Job:
    """A task that was handed out. ``result`` is None as long as it is in work."""

    worker: _Worker
    task: Task
    since: float
    """When it was handed out, in monotonic seconds, which don't pass while the machine is suspended."""
    result: Result | None = None
    writes: tuple[int, ...] = ()
    """Of OPEN_RUN: bytes of each write that lies in ``output``."""

    @property
    def done(self) -> bool:
        """Whether it came out as hoped; if not, ``input`` is still there."""
        return self.result is not None and self.result.status == Status.DONE

    @property
    def messages(self) -> int:
        """See ``Result``."""
        return self.result.messages if self.result is not None else 0

    @property
    def size(self) -> int:
        """See ``Result``."""
        return self.result.size if self.result is not None else 0

    @property
    def counter(self) -> int:
        """See ``Result``."""
        return self.result.counter if self.result is not None else 0

    @property
    def missing(self) -> int:
        """The fragment of a record that was healed; -1 for none."""
        missing = self.result.missing if self.result is not None else NOTHING_MISSING
        return -1 if missing == NOTHING_MISSING else missing

    @property
    def input(self) -> memoryview:
        """The burst as it was handed out."""
        place, _ = slot_places(self.task.slot)
        return self.worker.memory[place : place + self.task.length]

    @property
    def output(self) -> memoryview:
        """What came of it; valid until the job is released."""
        _, out = slot_places(self.task.slot)
        return self.worker.memory[out : out + (self.result.length if self.result is not None else 0)]


@dataclass(eq=False, slots=True)
class _Worker:
    pid: int
    sock: socket.socket
    memory: memoryview
    free: list[int] = field(default_factory=lambda: list(range(SLOTS)))
    jobs: dict[int, Job] = field(default_factory=dict)
    """In work, by slot."""


def _oldest(worker: _Worker) -> float:
    """When its oldest job was handed out."""
    return next((job.since for job in worker.jobs.values()), math.inf)


class Farm:
    """``count`` processes. To be made before the engine has threads, keys or sockets, for they are forked."""

    def __init__(self, count: int, *, udp_segments: bool) -> None:
        """Raises ``EngineError`` where the machine has no room for them."""
        self._workers: dict[int, _Worker] = {}
        self.on_lost: Callable[[int], None] = lambda descriptor: None
        """Told of a descriptor that is closed next, and may be somebody else's soon."""
        self._broken: set[str] = set()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as it may be inherited, the kernel would forget them
        try:
            self._memory = memoryview(mmap.mmap(-1, count * REGION))
            for number in range(count):
                self._start(self._memory[number * REGION : (number + 1) * REGION], udp_segments)
        except OSError as error:
            self.close()
            raise EngineError(f"{count} worker processes cannot be started: {error.strerror}; ask for fewer") from None

    def _start(self, memory: memoryview, udp_segments: bool) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            be_worker(theirs, memory, udp_segments=udp_segments)
        theirs.close()
        ours.setblocking(False)
        self._workers[ours.fileno()] = _Worker(pid, ours, memory)

    @property
    def descriptors(self) -> list[int]:
        """Of living workers: readable when results are there, or the worker is gone."""
        return list(self._workers)

    @property
    def has_room(self) -> bool:
        """Whether a task would find someone who takes it."""
        return any(worker.free for worker in self._workers.values())

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers.values()]

    # Sessions

    def session_began(
        self, index: int, keys: tuple[Secret, Secret], suite: str, record_keys: tuple[Secret, Secret] | None
    ) -> None:
        """Give the keys to every worker; they have them before any task that is handed out from now on."""
        code = SUITES.index(suite) + 1 if record_keys is not None else 0
        message = bytearray(SESSION.pack(Kind.SESSION, index, code))
        for secret in (*keys, *(record_keys or ())):
            message += secret.reveal()
        self._tell(message)
        message[:] = bytes(len(message))

    def session_ended(self, index: int) -> None:
        self._tell(FORGET.pack(Kind.FORGET, index))

    def _tell(self, message: bytes | bytearray) -> None:
        for worker in list(self._workers.values()):
            try:
                worker.sock.send(message)
            except BlockingIOError:
                self._insist(worker, message)
            except OSError:
                self._lose(worker, "has ended")

    def _insist(self, worker: _Worker, message: bytes | bytearray) -> None:
        """Wait for room: a worker that does not have the keys of a session is of no use."""
        poll = select.poll()
        poll.register(worker.sock, select.POLLOUT)
        try:
            if not poll.poll(int(PATIENCE * 1000)):
                raise BlockingIOError
            worker.sock.send(message)
        except OSError:
            self._lose(worker, "is stuck")

    # Bursts

    def submit(self, task: Task, data: memoryview) -> Job | None:
        """Hand ``data`` out; the slot of the task is chosen here. None where all are busy, or it is too long."""
        worker = max(self._workers.values(), key=lambda worker: len(worker.free), default=None)
        if worker is None or not worker.free or len(data) > IN_SIZE:
            return None
        slot = worker.free.pop()
        place, _ = slot_places(slot)
        worker.memory[place : place + len(data)] = data
        task = task._replace(slot=slot, length=len(data))
        try:
            worker.sock.send(TASK.pack(*task))
        except BlockingIOError:
            worker.free.append(slot)
            return None
        except OSError:
            worker.free.append(slot)
            self._lose(worker, "has ended")
            return None
        job = worker.jobs[slot] = Job(worker, task, time.monotonic())
        return job

    def collect(self, descriptor: int) -> None:
        """Take what results there are at one of the descriptors."""
        worker = self._workers.get(descriptor)
        while worker is not None:
            try:
                answer = worker.sock.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                answer = b""
            if not answer or answer[0] == Status.FAILED:
                self._lose(worker, f"has ended: {answer[1:].decode('ascii', 'replace')}" if answer else "has ended")
                return
            result = Result._make(RESULT.unpack_from(answer))
            job = worker.jobs.pop(result.slot)
            job.result = result
            if result.status == Status.BROKEN:
                self._say_broken(job.task, answer[RESULT.size :].decode("ascii", "replace"))
            else:
                job.writes = tuple(size for (size,) in WRITE.iter_unpack(answer[RESULT.size :]))
            if not worker.jobs:  # saves the call that would find nothing
                return

    def time_left(self) -> float:
        """Seconds until ``end_stuck`` has to look; infinite where nothing is in work."""
        oldest = min(map(_oldest, self._workers.values()), default=math.inf)
        return math.inf if oldest == math.inf else oldest + PATIENCE - time.monotonic()

    def end_stuck(self) -> None:
        """End workers that had their time."""
        now = time.monotonic()
        for worker in list(self._workers.values()):
            if now - _oldest(worker) < PATIENCE:
                continue
            self.collect(worker.sock.fileno())  # perhaps it is the engine that was away
            if now - _oldest(worker) >= PATIENCE:
                self._lose(worker, "is stuck")

    def wait(self, job: Job) -> None:
        """Return when the job has a result, also where that takes the end of a stuck worker."""
        while job.result is None:
            poll = select.poll()
            poll.register(job.worker.sock, select.POLLIN)
            if poll.poll(int(PATIENCE * 1000)):
                self.collect(job.worker.sock.fileno())
            else:
                self._lose(job.worker, "is stuck")

    def release(self, job: Job) -> None:
        """The slot of a finished job may be used again."""
        job.worker.free.append(job.task.slot)

    def _lose(self, worker: _Worker, why: str) -> None:
        """A worker is not there any more. What it had in work is undone; its memory is still there."""
        descriptor = worker.sock.fileno()
        del self._workers[descriptor]
        self.on_lost(descriptor)
        left = len(self._workers)
        log.error("msg=%r", f"worker process {worker.pid} {why}; {left} left")
        for job in worker.jobs.values():
            job.result = Result(Status.ODD, job.task.slot)
        worker.jobs.clear()
        self._end(worker)

    def _say_broken(self, task: Task, error: str) -> None:
        words = f"a worker could not do {Kind(task.kind).name}: {error}"
        if words not in self._broken:  # once of each kind
            self._broken.add(words)
            log.error("msg=%r", f"{words}; the engine does these itself, please report it")

    def close(self) -> None:
        """End the workers, who wait for no one."""
        for worker in self._workers.values():
            self._end(worker)
        self._workers.clear()

    @staticmethod
    def _end(worker: _Worker) -> None:
        """At once: it has nothing to save."""
        worker.sock.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
