"""The kernel's WireGuard: an interface that a keeper of ours holds, driven by netlink."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

from qtunnel.engines.child import ChildEngine
from qtunnel.engines.clocks import SYSTEM, Clocks
from qtunnel.engines.keeper import HOLDS
from qtunnel.engines.kernel_client import KernelClient
from qtunnel.engines.netlink import netlink_for, words
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
        clocks: Clocks = SYSTEM, random_bytes: RandomBytes = os.urandom,
    ) -> None:  # fmt: skip
        if public_key:
            program = replace(program, arguments=lambda name: [*_keeper(name), public_key.hex()])
        self._kernel = KernelClient(interface)
        super().__init__(
            program, interface, self._kernel, record=record, log_line=log_line, clocks=clocks,
            random_bytes=random_bytes,
        )  # fmt: skip

    async def _prepare(self) -> None:
        self._kernel.index = None

    async def _answers(self) -> bool:
        for line in self._child.tail if self._child is not None else ():
            if line.startswith(HOLDS):
                self._kernel.index = int(line.removeprefix(HOLDS))
        return self._kernel.index is not None

    def _made(self) -> int | None:
        return self._kernel.index

    async def _clear_away(self) -> None:
        """A keeper that was killed leaves the interface, with keys that nobody would end: it goes, and no other of the
        name."""
        index = self._kernel.index
        if index is not None:
            async with netlink_for(self._interface) as netlink:
                with words(self._interface, "removing what its keeper left", (errno.ENODEV,)):
                    await netlink.link("del", index=index)

    def _failed_start(self, ending: str, said: str) -> EngineError:
        return InterfaceError(f"engine {self.name}: {said}") if said else super()._failed_start(ending, said)


def _keeper(interface: str) -> list[str]:
    return ["-m", "qtunnel.engines.keeper", interface]
