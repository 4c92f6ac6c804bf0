"""What a process with keys does to itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOK = """
import ctypes, resource
from qtunnel.process import drop_privileges, guard_memory
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
if {drop}:
    drop_privileges()
may = bool(int(dict(line.split(":", 1) for line in open("/proc/self/status"))["CapEff"], 16) >> 14 & 1)
locked = guard_memory()
more = [bytearray(1 << 20) for _ in range(64)]
kilobytes = int(dict(line.split(":", 1) for line in open("/proc/self/status"))["VmLck"].split()[0])
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
print(may, locked, kilobytes > 64 << 10, *resource.getrlimit(resource.RLIMIT_CORE), dumpable)
"""


def looked(*, drop: bool) -> tuple[bool, bool, bool, list[str]]:
    """Whether it may lock memory, says that it has, and has; and core limits and PR_GET_DUMPABLE."""
    script = LOOK.format(drop=drop)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    may, locked, is_locked, *dumps = done.stdout.split()
    return may == "True", locked == "True", is_locked == "True", dumps


def test_below_a_limit_nothing_is_locked_and_the_process_goes_on() -> None:
    """With MCL_FUTURE it would fail at the first allocation above the limit."""
    assert looked(drop=True) == (False, False, False, ["0", "0", "0"])


@pytest.mark.root
def test_where_it_may_a_process_locks_its_memory_also_what_comes_later() -> None:
    may, locked, is_locked, dumps = looked(drop=False)
    assert may == locked == is_locked
    assert dumps == ["0", "0", "0"], "no core dump, and no look into it by another process of the user"
