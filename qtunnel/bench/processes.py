"""What the kernel says of processes: their processor time and memory (proc(5)).

``/proc`` is the machine's, so process ids here are those that the machine outside the sandbox sees.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12
"""Fields of /proc/PID/stat counted from the state, which follows the name in parentheses."""


def with_argument(word: str) -> list[int]:
    """The processes of this sandbox that have that word in their command line, this one left out."""
    sandbox, own = os.readlink("/proc/self/ns/pid"), os.readlink("/proc/self")
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == own:
            continue
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{name}/ns/pid") != sandbox:
                continue
            if word.encode() in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads so far; in steps of the kernel's tick, 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS


def stand_back(steps: int) -> None:
    """Lower this process's priority by steps of nice(1), among others of its session and, where the kernel groups
    processes by session (sched(7), autogroup), its session's among others."""
    os.nice(steps)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(steps))


def peak_memory(pid: int) -> int:
    """The most bytes that were ever resident at once (VmHWM)."""
    return _status(pid, "VmHWM")


def memory(pid: int) -> int:
    """The bytes that are resident (VmRSS)."""
    return _status(pid, "VmRSS")


def _status(pid: int, wanted: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == wanted:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/{pid}/status has no {wanted}")
