"""Becomes a program in a gateway's network namespace, with a ``/run/wireguard`` that is the gateway's own.

Run as a file of its own by ``python -I -S launch.py NETWORK_FD PID_FILE PROGRAM ARGUMENT...``, so nothing runs between
fork and exec in the demo's process. PID_FILE gets the process id as the machine outside sees it.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_NOSUID = 2
MS_NODEV = 4
UAPI_DIRECTORY = "/run/wireguard"


def main() -> None:
    network, pid_file, program = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int, what: str) -> None:
        if result != 0:
            sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")

    checked(libc.setns(network, CLONE_NEWNET), "setns")
    os.close(network)
    # wg(8) looks at one directory for the sockets of all interfaces: both gateways have a qt0
    checked(libc.unshare(CLONE_NEWNS), "unshare")
    os.makedirs(UAPI_DIRECTORY, mode=0o700, exist_ok=True)
    checked(
        libc.mount(b"tmpfs", UAPI_DIRECTORY.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0700"),
        f"mount {UAPI_DIRECTORY}",
    )
    with open(pid_file, "w") as file:
        file.write(os.readlink("/proc/self"))  # /proc is still the machine's
    try:
        os.execvp(program[0], program)  # noqa: S606  # becoming the program is the purpose
    except OSError as error:
        sys.exit(f"{program[0]} cannot be run: {(error.strerror or str(error)).lower()}")


if __name__ == "__main__":
    main()
