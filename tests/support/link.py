"""A link with faults (tests/support/emulator.py) in the place of a veth pair."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support import emulator
from tests.support.netns import Namespace, stop

PRIORITY = -10
"""Of its process: a link does not wait for a processor."""


class Link:
    """Between ``interface`` of either namespace. What it does to frames is said by ``set``."""

    def __init__(self, left: Namespace, right: Namespace, interface: str = "eth0", seed: int = 1) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(emulator.__file__)), str(seed), left.name, interface, right.name,
             interface],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, PRIORITY)
        self._answer()

    def set(self, **impairment: Any) -> dict[str, int]:
        """From now on, and nothing else (``emulator.Impairment``); how many frames went which way (``emulator.Fate``)
        since it was said last."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(impairment) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        stop(self._process)


@contextmanager
def emulated(left: Namespace, right: Namespace, seed: int = 1) -> Iterator[Link]:
    """While the block lasts."""
    link = Link(left, right, seed=seed)
    try:
        yield link
    finally:
        link.close()
