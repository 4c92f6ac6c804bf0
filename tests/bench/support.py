"""``qtunnel bench`` as a process of its own, and a check that nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.support.sandbox import inside

PLACES = {
    "/run": ("qtunnel-bench",),
    "/run/wireguard": ("qa-", "ra-"),
    "/sys/class/net": ("qa-", "ra-", "qh0", "wan", "to-"),
}
"""Where a run could leave something, and how its names begin there."""

BOUND = 100.0
"""Seconds for anything that is waited for."""


def traces() -> list[str]:
    """What is left of runs on the machine."""
    return [
        f"{place}/{name}"
        for place, names in PLACES.items()
        if os.path.isdir(place)
        for name in os.listdir(place)
        if name.startswith(names)
    ]


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished run."""

    code: int
    output: str
    told: str


def bench(*arguments: str, interrupt_at: str | None = None) -> Ended:
    """Run it to its end, or send it SIGINT when standard error has those words; nothing may be left of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qtunnel", "bench", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    namespace, told = "", ""
    assert process.stderr is not None
    try:
        for line in process.stderr:
            told += line
            # read while it runs: where it fails early, there are no namespaces of its own
            namespace = namespace or os.readlink(f"/proc/{process.pid}/ns/pid_for_children")
            if interrupt_at is not None and interrupt_at in line:
                process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=BOUND)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if namespace != os.readlink("/proc/self/ns/pid_for_children"):
        limit = time.monotonic() + BOUND
        while inside(namespace):
            assert time.monotonic() < limit, inside(namespace)
            time.sleep(0.05)
    assert traces() == []
    return Ended(process.returncode, output, told)
