"""Becomes the engine's program, after seeing to it that the program does not dump its memory, and that it either ends
with the daemon or can be found by the next one.

Run as a file of its own by ``python -I -S launch.py PARENT_PID RECORD CONTENT PROGRAM ARGUMENT...``: so nothing runs
between fork and exec inside the daemon, where threads may hold locks. RECORD: a file that says which process this is,
for a program that ends its own traffic in time; empty for one that ends with the daemon. CONTENT: a JSON object that
goes into it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
START_FIELD = 22
"""Of /proc/PID/stat (proc(5)), from 1: when the process began, in ticks since the boot."""


def main() -> None:
    parent, record, content, *program = int(sys.argv[1]), *sys.argv[2:]
    # Who cannot be found again must not stay: as where the disk is full.
    if not record or not write(record, content):
        end_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.execv(program[0], program)  # noqa: S606  # becoming the program is the purpose
    except OSError as error:
        sys.exit(f"{program[0]} cannot be run: {(error.strerror or str(error)).lower()}")


def end_with(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the daemon that asked for this engine is gone")


def write(record: str, content: str) -> bool:
    """Before the program begins: so that there is none which the next daemon does not know of."""
    with open("/proc/self/stat") as file:
        began = int(file.read().rpartition(")")[2].split()[START_FIELD - 3])
    document = json.dumps({**json.loads(content), "pid": os.getpid(), "began": began})
    new = f"{record}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(document)
        os.replace(new, record)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(record)  # which tells of another process
        return False
    return True


if __name__ == "__main__":
    main()
