"""A router that holds back what it forwards, by the program in ``delay.py``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from qtunnel.errors import SandboxError
from qtunnel.sandbox import delay
from qtunnel.sandbox.programs import call

DEVICE = "delay"
"""The device into which the router sends all that is to be delayed; it comes back from there, to be forwarded again."""

_QUEUE = 10_000
"""Packets that wait for the delaying program; a TUN's own 500 are 6 ms of 1 Gbit/s."""

_TABLE = "100"


def delay_forwarding(interfaces: Iterable[str], seconds: float) -> None:
    """In the present network namespace, which forwards: what comes from an interface goes through the delaying program
    first. That ends with the sandbox. Raises ``SandboxError``."""
    command = [sys.executable, "-I", "-S", delay.__file__, DEVICE, str(seconds)]
    program = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert program.stdout is not None
    if program.stdout.readline() != b"ready\n":
        raise SandboxError(f"nothing can be delayed: {program.communicate()[1].decode().strip()}")
    call("ip", "link", "set", DEVICE, "txqueuelen", str(_QUEUE), "up")
    for name in ("all", DEVICE):  # the sources of what comes back from it are elsewhere
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
    call("ip", "route", "add", "default", "dev", DEVICE, "table", _TABLE)
    for name in interfaces:
        call("ip", "rule", "add", "iif", name, "lookup", _TABLE)
