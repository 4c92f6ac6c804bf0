"""An engine's child process: started, listened to, stopped by its own pid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qtunnel.engines.voice import Paragraphs
from qtunnel.errors import EngineError

LAUNCHER = Path(__file__).with_name("launch.py")

TERM_BOUND = 3.0
"""Seconds from SIGTERM to SIGKILL; wireguard-go and our engine need under 0.2 s."""

TAIL = 20
"""Lines of output kept, to find the reason in when the process dies."""

MAX_LINE = 4096
"""Characters of one line of output that are passed on."""

LogLine = Callable[[str], None]
"""Takes a line without its end; of a traceback all of them at once."""


class ChildProcess:
    """One child in a session of its own; its output goes to ``log_line``, line by line, a traceback whole.

    It ends with this process, unless there is a ``record``: a file that tells which process it is, with ``making``.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log_line: LogLine,
        record: Path | None = None, making: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._command = list(command)
        self._record = "" if record is None else str(record)
        self._making = json.dumps(dict(making or {}))
        self._environment = dict(environment)
        self._paragraphs = Paragraphs(log_line)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.tail: deque[str] = deque(maxlen=TAIL)

    @property
    def pid(self) -> int | None:
        """``None`` before the start and after the end."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), self._record, self._making]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *launch,
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            raise EngineError(
                f"{self._command[0]} cannot be started: {(error.strerror or str(error)).lower()}"
            ) from None
        self._reader = asyncio.create_task(self._forward())

    async def _forward(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        pending = bytearray()
        while chunk := await self._process.stdout.read(MAX_LINE):
            pending += chunk
            *lines, rest = bytes(pending).split(b"\n")
            if len(rest) >= MAX_LINE:
                lines.append(rest)
                rest = b""
            pending = bytearray(rest)
            for line in lines:
                self._take(line)
        self._take(bytes(pending))
        self._paragraphs.end()

    def _take(self, line: bytes) -> None:
        text = line[:MAX_LINE].decode("utf-8", "replace")
        bare = text.strip()
        if bare and not bare.startswith(("┌", "│", "└")):  # wireguard-go's box that advertises the kernel module
            self.tail.append(bare)
            self._paragraphs.line(text)

    async def wait(self) -> str:
        """Wait for the end; says in words how the process ended."""
        if self._process is None:
            return "was not started"
        code = await self._process.wait()
        if self._reader is not None:  # what it said last; a grandchild may hold the pipe open, so not for ever
            await asyncio.wait([self._reader], timeout=1.0)
        if code >= 0:
            return f"exited with code {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    async def stop(self) -> None:
        """SIGTERM, after ``TERM_BOUND`` SIGKILL, and the end awaited. Idempotent."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(TERM_BOUND):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._reader is not None:
            await asyncio.wait([self._reader], timeout=1.0)
            self._reader.cancel()
