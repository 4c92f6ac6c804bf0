"""The kernel's WireGuard: an interface that a keeper of ours holds, driven by netlink."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qtunnel.engines.child import ChildEngine
from qtunnel.engines.keeper import HOLDS
from qtunnel.engines.kernel_client import KernelClient
from qtunnel.engines.process import LogLine
from qtunnel.engines.programs import Program
from qtunnel.errors import EngineError, InterfaceError
from qtunnel.secret import RandomBytes


class KernelEngine(ChildEngine):
    """public_key: 32 bytes, of this gateway's WireGuard: what a killed keeper left is known by it.

    It has no lease: a key ends with its daemon, since the keeper then takes the interface away. So there is nothing to
    take over, and ``record`` is that of an engine of another kind.
    """

    def __init__(
        self, program: Program, interface: str, *, public_key: bytes = b"", record: Path | None = None,
        log_line: LogLine | None = None,
        clock: Callable[[], float] = time.time, random_bytes: RandomBytes = os.urandom,
    ) -> None:  # fmt: skip
        if public_key:
            program = replace(program, arguments=lambda name: [*_keeper(name), public_key.hex()])
        super().__init__(
            program, interface, KernelClient(interface), record=record, log_line=log_line, clock=clock,
            random_bytes=random_bytes,
        )  # fmt: skip

    async def _answers(self) -> bool:
        return self._child is not None and any(line.startswith(HOLDS) for line in self._child.tail)

    def _failed_start(self, ending: str, said: str) -> EngineError:
        return InterfaceError(f"engine {self.name}: {said}") if said else super()._failed_start(ending, said)


def _keeper(interface: str) -> list[str]:
    return ["-m", "qtunnel.engines.keeper", interface]
