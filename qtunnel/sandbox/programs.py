"""The programs that run in the sandbox: finding them, and what iproute2 and iperf3 say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

from qtunnel.errors import SandboxError

TOOL_BOUND = 10.0
"""Seconds for a tool that only sets something up; each takes some milliseconds."""


def check_tools(packages: Mapping[str, str]) -> None:
    """Raises ``SandboxError`` that names the programs that are missing; packages: program to Debian package."""
    missing = {tool: package for tool, package in packages.items() if shutil.which(tool) is None}
    if missing:
        raise SandboxError(
            f"{', '.join(missing)} not found on PATH; install (Debian): apt-get install {' '.join(missing.values())}"
        )


def call(*command: str, fd: int | None = None) -> str:
    """What a tool prints, run in the present network namespace; raises ``SandboxError`` in its words where it fails.

    fd: a descriptor that it inherits.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TOOL_BOUND, pass_fds=() if fd is None else (fd,)
    )
    if done.returncode != 0:
        raise SandboxError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def qtunnel_command(*arguments: str) -> list[str]:
    """This very qtunnel, whatever stands first on PATH."""
    return [sys.executable, "-m", "qtunnel", *arguments]


def search_path() -> str:
    """PATH with the directories of system programs, which ordinary users often lack."""
    parts = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*parts, *(place for place in ("/usr/sbin", "/sbin") if place not in parts)])


def iperf_received(output: bytes) -> tuple[int, float]:
    """Bytes that arrived and Gbit/s, from iperf3's JSON; raises ``SandboxError`` with its own words where it failed."""
    try:
        report = json.loads(output)
        if "error" in report:
            raise SandboxError(f"iperf3: {report['error']}")
        received = report["end"]["sum_received"]
        return int(received["bytes"]), float(received["bits_per_second"]) / 1e9
    except (ValueError, KeyError, TypeError):
        raise SandboxError("iperf3 gave no report") from None
