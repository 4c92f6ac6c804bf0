"""A qtunnel program of a benchmark, in a network of its own: its log is what it says."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from qtunnel.errors import BenchError
from qtunnel.sandbox.namespaces import Network
from qtunnel.sandbox.programs import qtunnel_command

START_BOUND = 60.0
"""Seconds for a KME, a daemon, or its peers to be ready; each takes a few."""
STOP_BOUND = 30.0
POLL = 0.1
TAIL = 4
"""Lines of a program's output that an error repeats."""


class Program:
    """A program in its network, with its output in ``NAME.log``; ended with the context."""

    def __init__(self, network: Network, directory: Path, name: str, *arguments: str) -> None:
        self.name, self._log = name, directory / f"{name}.log"
        with network.entered(), self._log.open("wb") as log:
            self._process = subprocess.Popen(
                qtunnel_command(*arguments), cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for the benchmark
            )  # fmt: skip

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def check(self) -> None:
        """Raises ``BenchError`` with its last words where it ended."""
        if self._process.poll() is not None:
            lines = [line for line in self.text().splitlines() if line.strip()]
            words = " | ".join(lines[-TAIL:])
            raise BenchError(f"{self.name} ended with exit code {self._process.returncode}: {words}")

    def until(self, event: str) -> None:
        """Until its log has that event."""
        if not self.says(event, START_BOUND):
            raise BenchError(f"{self.name}: no {event} after {START_BOUND:g} s")

    def says(self, event: str, bound: float) -> bool:
        """Whether its log has that event within so many seconds."""
        limit = time.monotonic() + bound
        while f"event={event}" not in self.text():
            self.check()
            if time.monotonic() > limit:
                return False
            time.sleep(POLL)
        return True

    def stop(self) -> None:
        """SIGTERM, and wait; raises ``BenchError`` where it does not end well."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_BOUND)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} did not stop within {STOP_BOUND:g} s") from None
        if code:
            self.check()
