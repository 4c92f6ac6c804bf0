"""A demo run as a process of its own, and what must not be left of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.sandbox import inside, processes

KEYS = ["ok", "seconds", "rekeys", "pings_sent", "pings_lost", "throughput_gbps", "protection", "sources", "errors"]

BOUND = 60.0
"""Seconds for anything that is waited for."""


class Demo:
    """``qtunnel demo`` with its standard error read into ``told``."""

    def __init__(self, *arguments: str, prefix: tuple[str, ...] = (), env: dict[str, str] | None = None) -> None:
        self._told = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by finish
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "qtunnel", "demo", *arguments],
            stdout=subprocess.PIPE, stderr=self._told, text=True, env=env, start_new_session=True,
        )  # fmt: skip

    def wait_for(self, words: str) -> None:
        """Until standard error has these words."""
        limit = time.monotonic() + BOUND
        while words not in self.told:
            assert self.process.poll() is None, self.told
            assert time.monotonic() < limit, self.told
            time.sleep(0.05)

    @property
    def told(self) -> str:
        self._told.seek(0)
        return self._told.read()

    def namespace(self, kind: str) -> str:
        """The identity of a namespace that its programs are in."""
        return os.readlink(f"/proc/{self.process.pid}/ns/{kind}")

    def program(self, name: str) -> int:
        """The process id of a KME or gateway, found by its configuration file."""
        inside = self.namespace("pid_for_children")
        for pid in processes():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if os.readlink(f"/proc/{pid}/ns/pid") == inside and f"{name}.yaml".encode() in words:
                    return pid
        raise AssertionError(f"no program {name}: {self.told}")

    def finish(self) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        try:
            output, _ = self.process.communicate(timeout=BOUND)
            return self.process.returncode, output, self.told
        finally:
            self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self._told.close()


PLACES = {
    "/run/netns": ("alice", "bob", "kme", "qtunnel"),
    "/run/wireguard": ("qt0",),
    "/run/qtunnel": ("alice", "bob"),
    "/run/qtunnel-demo": ("",),
    "/sys/class/net": ("wan", "qt0"),
}
"""Where a run could leave something, and how its names begin there; others use these places too."""


def traces() -> list[str]:
    """What a run could leave on the machine."""
    found = [
        f"{place}/{name}"
        for place, names in PLACES.items()
        if os.path.isdir(place)
        for name in os.listdir(place)
        if name.startswith(names)
    ]
    return sorted(found + [f"tmp/{name}" for name in os.listdir(tempfile.gettempdir()) if "qtunnel" in name])


@contextmanager
def running(*arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[Demo]:
    """A run whose traffic has begun; afterwards nothing of it may be left."""
    before = traces()
    demo = Demo(*arguments, prefix=prefix)
    try:
        demo.wait_for("traffic begins")
        namespace = demo.namespace("pid_for_children")
        assert len(inside(namespace)) >= 7, "two KMEs, two gateways, two engines and the demo's own"
        yield demo
        limit = time.monotonic() + BOUND
        while inside(namespace):  # the kernel ends them after a SIGKILL in its own time
            assert time.monotonic() < limit, inside(namespace)
            time.sleep(0.05)
        assert traces() == before
    finally:
        demo.close()


def report(output: str) -> dict[str, Any]:
    """Standard output with ``--json``: one object, nothing else."""
    lines = output.splitlines()
    assert len(lines) == 1, output
    document: dict[str, Any] = json.loads(lines[0])
    assert list(document) == KEYS
    return document
