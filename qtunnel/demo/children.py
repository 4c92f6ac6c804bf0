"""The programs of a run: started in a gateway's network, their output kept, stopped within a bound."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

from qtunnel.errors import DemoError
from qtunnel.sandbox.namespaces import Network

LAUNCHER = Path(__file__).with_name("launch.py")

STOP_BOUND = 8.0
"""Seconds from SIGTERM to SIGKILL: a daemon takes its engine and its interface down first."""

TAIL = 6
"""Lines of a program's output that an error repeats."""


class Child:
    """One program. Its standard error, and its output unless ``pipe``, go to ``NAME.log`` in the directory."""

    def __init__(self, name: str, command: list[str], network: Network, directory: Path, *, pipe: bool = False) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.expected_to_end = False
        self._command = command
        self._network = network
        self._directory = directory
        self._pipe = pipe
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, again after a stop."""
        self.expected_to_end = False
        network = self._network.descriptor
        launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(network), str(self._pid_file), *self._command]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *launch,
                stdin=asyncio.subprocess.PIPE if self._pipe else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if self._pipe else log,
                stderr=log,
                pass_fds=(network,),
                cwd=self._directory,
                start_new_session=True,  # Ctrl-C is for the demo, which stops its programs in order
            )

    @property
    def _pid_file(self) -> Path:
        return self._directory / f"{self.name}.pid"

    @property
    def outside_pid(self) -> str | None:
        """Its process id as the machine outside sees it; ``None`` where it was never started."""
        try:
            return self._pid_file.read_text() or None
        except FileNotFoundError:
            return None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def check(self) -> None:
        """Raises ``DemoError`` with the program's last words where it ended and should not have."""
        if self._process is not None and self._process.returncode is not None and not self.expected_to_end:
            raise DemoError(f"{self.name} {ending(self._process.returncode)}{self.last_words()}")

    def said_at(self, event: str, since: int = 0) -> float:
        """When its log, read from byte ``since``, has that event: monotonic seconds; now where it has not."""
        present, unix_now = time.monotonic(), time.time()
        found = re.search(rf"^ts=(\S+) .*\bevent={re.escape(event)}\b", self._text(since), re.MULTILINE)
        if found is None:
            return present
        return present - max(0.0, unix_now - datetime.fromisoformat(found[1]).timestamp())

    def _text(self, since: int) -> str:
        return self.log.read_bytes()[since:].decode(errors="replace")

    def last_words(self) -> str:
        """The end of its log, for an error message; empty where there is none."""
        with contextlib.suppress(OSError):
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            if lines:
                return "; its last words: " + " | ".join(lines[-TAIL:])
        return ""

    async def stop(self) -> None:
        """SIGTERM, after ``STOP_BOUND`` SIGKILL. Idempotent; raises ``DemoError`` where it had to be killed."""
        self.expected_to_end = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            # not terminate(), which reaps what has just ended, and asyncio then warns of an unknown child
            os.kill(process.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_BOUND)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise DemoError(
                f"{self.name} did not stop within {STOP_BOUND:g} s and was killed{self.last_words()}"
            ) from None


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
