"""What scripts/kernel-vm and scripts/kernel-uml have in common: a guest with this machine's files runs a command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

UP, EXIT = "vm: up", re.compile(r"vm: exit (\d+)")
GIVEN_UP = 70

GUEST = """\
echo "{up}"
mount -n -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm; mount -n -t devpts devpts /dev/pts; mount -n -t tmpfs tmpfs /dev/shm
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
ip link set lo up
cd {directory}
env -i PATH={path} HOME=/root LANG=C.UTF-8 {environment} {command} < /dev/null
echo "vm: exit $?"
echo o > /proc/sysrq-trigger
sleep 60
"""


def arguments(name: str, summary: str | None) -> tuple[Path, list[str], float]:
    """DIR, COMMAND and the bound in seconds; ends the program where it was called wrongly."""
    if len(sys.argv) < 3:
        sys.exit(str(summary).splitlines()[0])
    if os.geteuid() != 0 or os.uname().machine != "x86_64":
        sys.exit(f"{name}: needs root on an x86_64 machine")
    return Path(sys.argv[1]).absolute(), sys.argv[2:], float(os.environ.get("KERNEL_VM_LIMIT", "1500"))


def write(guest: Path, command: list[str]) -> None:
    """The script that the guest's first process becomes."""
    passed = " ".join(f"{key}={shlex.quote(os.environ[key])}" for key in ("CI", "PYTHONPATH") if key in os.environ)
    guest.write_text(
        GUEST.format(
            up=UP,
            directory=shlex.quote(os.getcwd()),
            path=shlex.quote(os.environ["PATH"]),
            environment=passed,
            command=shlex.join(command),
        )
    )


def listen(name: str, machine: subprocess.Popen[bytes], boot_limit: float, limit: float) -> int | None:
    """Show what the guest says, and find its last word in it; ``None`` where it did not boot."""
    timer = threading.Timer(boot_limit, machine.kill)
    timer.start()
    booted, code = False, None
    assert machine.stdout is not None
    for raw in machine.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        if line.endswith(UP):
            timer.cancel()
            timer = threading.Timer(limit, machine.kill)
            timer.start()
            booted = True
        elif booted and (found := EXIT.search(line)):
            code = int(found[1])
        elif booted and code is None:
            print(line, flush=True)
    timer.cancel()
    if booted and code is None:
        print(f"{name}: the machine was ended after {limit:g} s, or ended by itself", file=sys.stderr)
        return GIVEN_UP
    return code
