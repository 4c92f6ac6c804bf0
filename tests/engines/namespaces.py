"""Network namespaces without a name: this process enters one, and the kernel removes it with its last user."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
THREAD_NAMESPACE = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


class Namespace:
    """A namespace of its own, with ``lo`` up; ``with namespace.entered():`` puts this thread into it."""

    def __init__(self) -> None:
        home = os.open(THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.unshare(CLONE_NEWNET), "unshare")
            try:
                self.descriptor = os.open(THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
                run("ip", "link", "set", "lo", "up")
            finally:
                _checked(_libc.setns(home, CLONE_NEWNET), "setns")
        finally:
            os.close(home)

    @contextmanager
    def entered(self) -> Iterator[None]:
        home = os.open(THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.setns(self.descriptor, CLONE_NEWNET), "setns")
            try:
                yield
            finally:
                _checked(_libc.setns(home, CLONE_NEWNET), "setns")
        finally:
            os.close(home)

    def run(self, *command: str) -> str:
        """A command's output, run inside."""
        with self.entered():
            return run(*command)

    def close(self) -> None:
        os.close(self.descriptor)


def run(*command: str, pass_fds: tuple[int, ...] = ()) -> str:
    """A command's output; fails with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=pass_fds, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def join(left: Namespace, right: Namespace, left_address: str, right_address: str) -> None:
    """A veth pair between two namespaces: ``va`` on the left, ``vb`` on the right, each with its address."""
    with left.entered():
        run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
        there = f"/proc/self/fd/{right.descriptor}"
        run("ip", "link", "set", "vb", "netns", there, pass_fds=(right.descriptor,))
    for namespace, device, address in ((left, "va", left_address), (right, "vb", right_address)):
        namespace.run("ip", "addr", "add", address, "dev", device, "nodad")
        namespace.run("ip", "link", "set", device, "up")
