"""Becomes a vendor's program, after it gave up capabilities and sees to it that the program ends with the daemon.

Run as a file of its own by ``python -I -S program_launch.py PARENT_PID REPORT PRIVILEGES TOOLS PROGRAM ARGUMENT...``:
so nothing runs between fork and exec inside the daemon, where threads may hold locks. REPORT: a descriptor that takes
the reason where the program cannot be started, and is closed where it can. PRIVILEGES: ``drop`` or ``keep``. TOOLS: the
path of qtunnel/process.py. PROGRAM: the file; the first ARGUMENT is the name that it sees.
"""

from __future__ import annotations

import ctypes
import os
import resource
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1
FAILED = 127


def main() -> None:
    parent, report, privileges, tools, program, *arguments = sys.argv[1:]
    os.set_inheritable(int(report), False)
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and its child would
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o077)
        if privileges == "drop":
            runpy.run_path(tools)["drop_privileges"]()
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if os.getppid() != int(parent):
            sys.exit(FAILED)  # the daemon is gone
        os.execv(program, arguments)  # noqa: S606  # becoming the program is the purpose
    except OSError as error:
        os.write(int(report), (error.strerror or str(error)).lower().encode())
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
