"""Network namespaces and veth pairs for tests: named after this process, and always removed with what ran in them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_numbers = itertools.count()

TERMINATE_TIMEOUT = 5.0
PATIENCE = float(os.environ.get("QTUNNEL_TEST_PATIENCE", "1"))
"""By which all waiting is multiplied: in a virtual machine without help of the processor everything takes ten times."""
COMMAND_TIMEOUT = 60.0 * PATIENCE


def unique_name(prefix: str) -> str:
    """A name of at most 15 characters that no other test process uses, for interfaces and namespaces."""
    name = f"{prefix}{os.getpid() % 10**7:x}n{next(_numbers) % 1000}"
    assert len(name) <= 15, name
    return name


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 15.0) -> Any:
    """The first true value of ``condition``; fails with ``what`` where it does not come."""
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"in vain waited {timeout:g} s: {what}"
        time.sleep(0.02)


def ticks(pid: int) -> int:
    """Processor time of a process, in ticks of the kernel's clock."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def gone(pid: int) -> bool:
    """Whether the process is no more, or only a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; a failure shows what it said."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=options.pop("timeout", COMMAND_TIMEOUT), **options
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


class Namespace:
    """A named network namespace with ``lo`` up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._processes: list[subprocess.Popen[str]] = []
        run("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")

    def run(self, *command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command inside, to its end."""
        return run("ip", "netns", "exec", self.name, *command, check=check, **options)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command inside; it is ended with the namespace, if not before."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
        process: subprocess.Popen[str] = subprocess.Popen(["ip", "netns", "exec", self.name, *command], **options)
        self._processes.append(process)
        return process

    def ip(self, *arguments: str) -> str:
        """``ip`` on this namespace; its output."""
        return run("ip", "-n", self.name, *arguments).stdout

    def links(self) -> dict[str, dict[str, Any]]:
        """Interfaces by name, as ``ip -j link`` tells them."""
        return {str(link["ifname"]): link for link in json.loads(self.ip("-j", "link"))}

    def address(self, interface: str, *addresses: str) -> None:
        """Add addresses (with prefix length) and set the interface up."""
        for address in addresses:
            # nodad: an address that can be used at once
            self.ip("addr", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
        self.ip("link", "set", interface, "up")

    def close(self) -> None:
        for process in self._processes:
            stop(process)
        run("ip", "netns", "del", self.name, check=False)


def stop(process: subprocess.Popen[str]) -> str:
    """End a process by its own id, first asking; what it had written to its pipe."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.communicate(timeout=TERMINATE_TIMEOUT)[0] or ""
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0] or ""


def join(left: Namespace, right: Namespace, interface: str = "eth0") -> None:
    """A veth pair between the two, with the same interface name at each end."""
    run("ip", "link", "add", interface, "netns", left.name, "type", "veth", "peer", interface, "netns", right.name)


@contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    """That many namespaces, gone afterwards whatever happens."""
    made: list[Namespace] = []
    try:
        for _ in range(count):
            made.append(Namespace(unique_name("qt")))
        yield made
    finally:
        for namespace in made:
            namespace.close()


@contextmanager
def two_hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces joined by a veth pair ``eth0``: 10.99.0.1/24, fd99::1/64 and 10.99.0.2/24, fd99::2/64."""
    with namespaces(2) as (left, right):
        join(left, right)
        left.address("eth0", "10.99.0.1/24", "fd99::1/64")
        right.address("eth0", "10.99.0.2/24", "fd99::2/64")
        yield left, right
