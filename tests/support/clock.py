"""A wall clock of a process's own, which a test sets forwards and back while it runs.

The machine has one real-time clock, which others use, and time namespaces do not have another. So Python programs that
are started with ``environment`` add an offset to ``time.time`` and ``time.time_ns``; their children with the same
PYTHONPATH, such as the engine, do as well. Monotonic clocks are left alone, as by clock_settime(2).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

_CUSTOMIZE = """
import mmap, os, struct, time
with open(os.path.join(os.path.dirname(__file__), "offset"), "r+b") as file:
    shared = mmap.mmap(file.fileno(), 8)
def offset(real=time.time, real_ns=time.time_ns):
    time.time_ns = lambda: real_ns() + struct.unpack("=q", shared[:])[0]
    time.time = lambda: real() + struct.unpack("=q", shared[:])[0] / 10**9
offset()
"""
"""Python imports a module ``sitecustomize`` at its start, where it finds one."""


class SteppedClock:
    """In files in ``directory``."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        (directory / "sitecustomize.py").write_text(_CUSTOMIZE)
        (directory / "offset").write_bytes(bytes(8))

    @property
    def environment(self) -> dict[str, str]:
        """Of a process with this clock."""
        return {**os.environ, "PYTHONPATH": str(self._directory)}

    def set(self, seconds: float) -> None:
        """Ahead of the machine's by that much, from now on; negative: behind it."""
        with (self._directory / "offset").open("r+b") as file:
            file.write(struct.pack("=q", round(seconds * 10**9)))
