"""Numbered echoes at a fixed pace, of which every one is accounted for (qtunnel/sandbox/pinger.py)."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

from qtunnel.sandbox import pinger
from tests.support.netns import Namespace

PATIENCE = 30.0
"""Seconds for the last answers and for what became of all of them."""


class Echoes:
    """Sent from a namespace to ``address`` from now on. interval: seconds. After ``end``: how many were ``sent`` and
    ``answered``, the ``gaps``: first and last moment of sending, monotonic, and how many; ``round_trip``: seconds in
    which 99 of 100 were back."""

    def __init__(self, namespace: Namespace, address: str, interval: float) -> None:
        self.sent = self.answered = 0
        self.gaps: list[tuple[float, float, int]] = []
        self.round_trip = 0.0
        self._process = namespace.start(
            sys.executable, "-I", "-S", str(Path(pinger.__file__)), address, str(interval),
            stdin=subprocess.PIPE, stderr=None,
        )  # fmt: skip
        self._last = ""
        self._reader = threading.Thread(target=self._read, daemon=True)  # or it would wait for the pipe after minutes
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last = line

    @property
    def so_far(self) -> dict[str, float]:
        """``sent``, ``answered`` and ``overdue`` (without an answer for 2 s), a moment ago."""
        found: dict[str, float] = json.loads(self._last or "{}")
        return found

    def stop(self) -> None:
        """No more are sent; the last ones have 2 s for their answers."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None

    def end(self) -> None:
        if self._process.stdin is not None:
            self.stop()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        last = json.loads(self._last)
        self.sent, self.answered = last["sent"], last["answered"]
        self.round_trip = (last["p99_ms"] or 0.0) / 1000
        self.gaps = [(first, end, count) for first, end, count in last["gaps"]]

    @property
    def lost(self) -> int:
        return self.sent - self.answered
