"""A Debian of its own that boots systemd in a container, and forgets everything at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.support.netns import PATIENCE, run

BOOT_BOUND = 120.0 * PATIENCE
"""Seconds; a machine that does nothing else boots this container within two."""

COMMAND_BOUND = 180.0 * PATIENCE


class Machine:
    """A container that has booted. ``files`` of this host are at ``/package`` there."""

    def __init__(self, process: subprocess.Popen[bytes], leader: int) -> None:
        self._process, self._leader = process, leader

    def command(self, *command: str) -> list[str]:
        """What runs a command inside, as root."""
        enter = ["nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        return [
            *enter,
            "--root",
            "--wd",
            "--",
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            *command,
        ]

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside to its end; what it said."""
        done = run(*self.command(*command), check=check, timeout=COMMAND_BOUND)
        return done.stdout + done.stderr

    def succeeds(self, *command: str) -> bool:
        return run(*self.command(*command), check=False, timeout=COMMAND_BOUND).returncode == 0

    def start(self, *command: str, output: IO[str]) -> subprocess.Popen[str]:
        """Start a command inside, with all that it says in a file."""
        return subprocess.Popen(self.command(*command), stdout=output, stderr=subprocess.STDOUT, text=True)

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Make a file inside, with its directories."""
        script = 'install -D -m "$2" /dev/stdin "$1"'
        subprocess.run(
            self.command("sh", "-c", script, "sh", path, mode), input=text, text=True, check=True, timeout=COMMAND_BOUND
        )

    def read(self, path: str) -> str:
        return self.run("cat", path)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-o", "short-monotonic", check=False)

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)  # to systemd inside: power off
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.kill(self._leader, signal.SIGKILL)  # with its first process all of the container ends
            self._process.wait(30)


@contextmanager
def booted(tree: Path, package: Path, console: Path) -> Iterator[Machine]:
    """tree: Debian's files, which stay as they are. package: a directory that is seen inside. console: what it says."""
    command = [
        "systemd-nspawn", "--boot", f"--directory={tree}", "--volatile=overlay", "--register=no", "--keep-unit",
        "--private-network", "--console=pipe", "--kill-signal=SIGRTMIN+4", f"--machine=qtunnel{os.getpid()}",
        "--bind=/dev/net/tun", f"--bind-ro={package}:/package",
    ]  # fmt: skip
    with console.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    machine = Machine(process, _leader(process, console))
    try:
        deadline = time.monotonic() + BOOT_BOUND
        while not machine.run("systemctl", "is-system-running", check=False).startswith(("running", "degraded")):
            assert time.monotonic() < deadline, console.read_text(errors="replace")
            time.sleep(0.2)
        yield machine
    finally:
        machine.end()


def _leader(process: subprocess.Popen[bytes], console: Path) -> int:
    """The container's first process, as this host numbers it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + BOOT_BOUND
    while time.monotonic() < deadline and process.poll() is None:
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        time.sleep(0.05)
    raise AssertionError(f"no systemd within {BOOT_BOUND:g} s: {console.read_text(errors='replace')}")
