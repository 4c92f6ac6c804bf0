"""The programs that move packets or, for the kernel, hold its interface; and what each of them can do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from qtunnel.errors import EngineError

OWN = "qtunnel"
KERNEL = "kernel"


@dataclass(frozen=True, slots=True)
class Program:
    """A userspace WireGuard that serves the UAPI socket, or the keeper of the kernel's.

    arguments: its argument list for an interface. epochs: it knows our own UAPI keys (``epoch``,
    ``previous_preshared_key``, ``drop_sessions``, ``handshake``). processes: that it is told to use. updates: a peer
    that is there can be changed; where not, it is removed and added again, and each new key costs what is on its way
    until the next handshake. python: it is code of ours, which has to be found.
    """

    name: str
    executable: str
    arguments: Callable[[str], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    epochs: bool = False
    processes: int = 1
    updates: bool = True
    python: bool = False
    remedy: str = ""

    def command(self, interface: str) -> list[str]:
        """The whole argument list; raises ``EngineError`` where the program is not installed."""
        path = shutil.which(self.executable)
        if path is None:
            raise EngineError(f"engine {self.name}: program {self.executable} is not found on PATH; {self.remedy}")
        return [path, *self.arguments(interface)]

    def with_processes(self, count: int) -> Program:
        """The same in that many processes, where it is one that can be told."""
        if count == 1 or self.name != OWN:
            return self
        return replace(self, processes=count, arguments=lambda name: [*self.arguments(name), "--processes", str(count)])

    def full_environment(self) -> dict[str, str]:
        """All that the program gets to see: no secrets, no notify socket, nothing of the daemon's own."""
        passed = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        if not self.python:
            passed.pop("PYTHONPATH", None)
        return {**passed, "LANG": "C.UTF-8", **self.environment}


PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (
        Program(
            name=OWN,
            executable=sys.executable,
            arguments=lambda interface: ["-m", "qtunnel", "wg", "--foreground", interface],
            epochs=True,
            python=True,
            remedy="install qtunnel again",
        ),
        Program(
            name=KERNEL,
            executable=sys.executable,
            arguments=lambda interface: ["-m", "qtunnel.engines.keeper", interface],
            python=True,
            remedy="install qtunnel again",
        ),
        Program(
            name="wireguard-go",
            executable="wireguard-go",
            arguments=lambda interface: ["-f", interface],
            environment={"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"},
            remedy="install it (apt install wireguard-go) or use engine: qtunnel",
        ),
        Program(
            name="boringtun-cli",
            executable="boringtun-cli",
            arguments=lambda interface: ["--foreground", interface],
            # It would drop to the login user of a session, which a service does not have.
            environment={"WG_SUDO": "true", "WG_LOG_LEVEL": "error"},
            updates=False,  # all releases up to 0.7.1 panic at a peer that they know
            remedy="install it (cargo install boringtun-cli) or use engine: qtunnel",
        ),
    )
}


def find(name: str) -> Program:
    """The program of that engine name; raises ``EngineError`` that lists the names."""
    program = PROGRAMS.get(name)
    if program is None:
        raise EngineError(f"no engine {name!r}; there are: {', '.join(PROGRAMS)}")
    return program
