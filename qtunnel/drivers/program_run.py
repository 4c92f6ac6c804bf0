"""Runs a program for one answer: bounded in time and output, ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtunnel import process
from qtunnel.errors import ConfigError, FilePermissionError

LAUNCHER = Path(__file__).with_name("program_launch.py")

TERM_TIME = 1.0
"""Seconds from SIGTERM to SIGKILL: to close a session with a device takes tenths of one."""
LINGER_TIME = 1.0
"""Seconds after the program's end in which others may still hold its output open, before they are ended too."""
MAX_STDERR = 4096
"""Bytes of its complaints that are kept; what is beyond is read and dropped, so that it never waits for us."""


class OutputTooLongError(Exception):
    """It wrote more than was allowed, and was ended."""


class NotStartedError(Exception):
    """It cannot be started; the text says why."""


@dataclass(slots=True)
class Ended:
    """A program that ended by itself. code: negative for a signal. output: to be wiped by who has it."""

    code: int
    output: bytearray
    complaints: bytes

    def wipe(self) -> None:
        self.output[:] = bytes(len(self.output))

    @property
    def words(self) -> str:
        """How it ended: ``exit code 3``, ``killed by SIGSEGV``."""
        if self.code >= 0:
            return f"exit code {self.code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-self.code).name}"
        return f"killed by signal {-self.code}"


class _Tap:
    """What comes out of a pipe, in memory of fixed size that can be wiped. Without ``drain`` it ends when full."""

    def __init__(self, capacity: int, *, drain: bool) -> None:
        self._buffer, self._filled, self._drain = bytearray(capacity), 0, drain
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_end, False)
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[bool] = self._loop.create_future()
        """Whether all of it fitted."""
        self._loop.add_reader(self.read_end, self._ready)

    def _ready(self) -> None:
        room = len(self._buffer) - self._filled
        try:
            if room:
                with memoryview(self._buffer) as view:
                    count = os.readv(self.read_end, [view[self._filled :]])
                self._filled += count
            else:
                count = len(os.read(self.read_end, 1 << 16))
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count == 0:
            self._end(True)
        elif self._filled == len(self._buffer) and not self._drain:
            self._end(False)

    def _end(self, whole: bool) -> None:
        self._loop.remove_reader(self.read_end)
        if not self.over.done():
            self.over.set_result(whole)

    def taken(self) -> bytearray:
        """A copy of what came."""
        with memoryview(self._buffer) as view:
            return bytearray(view[: self._filled])

    def started(self) -> None:
        """The other end is the child's alone."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        self.started()
        self._loop.remove_reader(self.read_end)
        os.close(self.read_end)
        self._buffer[:] = bytes(len(self._buffer))


async def run(
    program: Path, arguments: Sequence[str], environment: Mapping[str, str], *, limit: int, timeout: float, drop: bool
) -> Ended:
    """Start it, and wait for its end. arguments: with its own name in front. limit: bytes of its output. drop: no
    capabilities. Raises ``TimeoutError``, ``OutputTooLongError``, ``NotStartedError``."""
    with contextlib.ExitStack() as stack:
        output, complaints, report = _Tap(limit + 1, drain=False), _Tap(MAX_STDERR, drain=True), _Tap(256, drain=True)
        taps = (output, complaints, report)
        for tap in taps:
            stack.callback(tap.close)
        launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(report.write_end)]
        try:
            child = await asyncio.create_subprocess_exec(
                *launch, "drop" if drop else "keep", str(process.__file__), str(program), *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=output.write_end, stderr=complaints.write_end,
                pass_fds=(report.write_end,), env=dict(environment), cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise NotStartedError((error.strerror or str(error)).lower()) from None
        for tap in taps:
            tap.started()
        code = await _end_of(child, output, complaints, timeout)
        why = bytes(report.taken()).decode("utf-8", "replace")
        if why:
            raise NotStartedError(why)
        return Ended(code, output.taken(), bytes(complaints.taken()))


async def _end_of(child: asyncio.subprocess.Process, output: _Tap, complaints: _Tap, timeout: float) -> int:
    """Its exit code once it ended; whatever else happens, it and all that it started is ended."""
    ended = asyncio.ensure_future(child.wait())
    try:
        async with asyncio.timeout(timeout):
            either: set[asyncio.Future[Any]] = {ended, output.over}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if output.over.done() and not output.over.result():
                raise OutputTooLongError
            code = await asyncio.shield(ended)
        _, held = await asyncio.wait({output.over, complaints.over}, timeout=LINGER_TIME)
        if output.over.done() and not output.over.result():
            raise OutputTooLongError
        if held:
            _signal(child.pid, signal.SIGKILL)  # others of its group have the pipes, so the number is still theirs
        return code
    except (TimeoutError, OutputTooLongError):
        if not ended.done():
            _signal(child.pid, signal.SIGTERM)
            await asyncio.wait({ended}, timeout=TERM_TIME)
        raise
    finally:
        if not (ended.done() and output.over.done() and complaints.over.done()):
            _signal(child.pid, signal.SIGKILL)
        if not ended.done():
            await asyncio.wait({ended}, timeout=TERM_TIME)
        ended.cancel()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def check_program(path: Path) -> Path:
    """See that nobody but root and this process's user can put something else in the program's place; the file itself.

    Raises ``ConfigError`` or ``FilePermissionError``.
    """
    try:
        real = path.resolve(strict=True)
        found = real.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path}: is no program; name a file that can be run")
        if not os.access(real, os.X_OK):
            raise ConfigError(f"{path}: cannot be run; chmod +x {path}")
        for place in (real, *real.parents):
            _check_place(path, place, place.stat())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such program") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be run: {(error.strerror or str(error)).lower()}") from None
    return real


def _check_place(path: Path, place: Path, found: os.stat_result) -> None:
    where = f"{path}: " + ("" if place == path else f"{place} ")
    if found.st_uid not in (0, os.geteuid()):
        raise FilePermissionError(
            f"{where}belongs to user {found.st_uid}, who could put another program there; chown root {place}"
        )
    # In a sticky directory such as /tmp nobody can take the place of a file of somebody else.
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    group = found.st_mode & stat.S_IWGRP and found.st_gid != 0
    if (found.st_mode & stat.S_IWOTH or group) and not sticky:
        raise FilePermissionError(f"{where}can be written by others; chmod go-w {place}")
