"""Becomes the engine's program, after seeing to it that the program neither outlives the daemon nor dumps its memory.

Run as a file of its own by ``python -I -S launch.py PARENT_PID PROGRAM ARGUMENT...``: so nothing runs between fork and
exec inside the daemon, where threads may hold locks.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the daemon that asked for this engine is gone")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.execv(program[0], program)  # noqa: S606  # becoming the program is the purpose
    except OSError as error:
        sys.exit(f"{program[0]} cannot be run: {(error.strerror or str(error)).lower()}")


if __name__ == "__main__":
    main()
