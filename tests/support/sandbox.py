"""Processes: all, and those of a run in a sandbox."""

from __future__ import annotations

import contextlib
import os


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def inside(namespace: str) -> list[int]:
    """The processes that are in that PID namespace."""
    found = []
    for pid in processes():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                found.append(pid)
    return found
