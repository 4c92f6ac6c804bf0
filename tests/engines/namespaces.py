"""Network namespaces without a name: this process enters one, and the kernel removes it with its last user."""

from __future__ import annotations

import os
import subprocess

from qtunnel.sandbox.namespaces import Network


class Namespace(Network):
    """A namespace of its own, with ``lo`` up; ``with namespace.entered():`` puts this thread into it."""

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
