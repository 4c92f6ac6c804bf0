"""Numbered echoes at a fixed pace, of which every one is accounted for (qtunnel/sandbox/pinger.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from qtunnel.sandbox import pinger
from tests.support.netns import Namespace

PATIENCE = 30.0
"""Seconds for the last answers and for what became of all of them."""


class Echoes:
    """Sent from a namespace to ``address`` from now on. interval: seconds. After ``end``: how many were ``sent`` and
    ``answered``, and the ``gaps``: first and last moment of sending, monotonic, and how many."""

    def __init__(self, namespace: Namespace, address: str, interval: float) -> None:
        self.sent = self.answered = 0
        self.gaps: list[tuple[float, float, int]] = []
        self._process = namespace.start(
            sys.executable, "-I", "-S", str(Path(pinger.__file__)), address, str(interval),
            stdin=subprocess.PIPE, stderr=None,
        )  # fmt: skip

    def stop(self) -> None:
        """No more are sent; the last ones have 2 s for their answers."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None

    def end(self) -> None:
        if self._process.stdin is not None:
            self.stop()
        output, _ = self._process.communicate(timeout=PATIENCE)
        last = json.loads(output.splitlines()[-1])
        self.sent, self.answered = last["sent"], last["answered"]
        self.gaps = [(first, end, count) for first, end, count in last["gaps"]]

    @property
    def lost(self) -> int:
        return self.sent - self.answered
