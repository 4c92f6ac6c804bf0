"""From the configuration's words to an engine."""

from __future__ import annotations

from pathlib import Path

from qtunnel.engines.existing import ExistingEngine
from qtunnel.engines.kernel import KernelEngine
from qtunnel.engines.process import LogLine
from qtunnel.engines.programs import KERNEL, find
from qtunnel.engines.steward_client import StewardClient
from qtunnel.engines.uapi import UapiEngine
from qtunnel.errors import EngineError


def open_engine(
    name: str, interface: str, *, processes: int = 1, public_key: bytes = b"", record: Path | None = None,
    log_line: LogLine | None = None, steward: StewardClient | None = None,
) -> UapiEngine | KernelEngine:  # fmt: skip
    """The engine of that name; raises ``EngineError`` for an unknown one. Starts nothing.

    processes: that our own engine may use; the others see to that themselves. public_key: as of ``KernelEngine``.
    record: a file that tells of the engine where it may outlive this process. steward: who starts it instead.
    """
    program = find(name)
    if name == KERNEL:
        if steward is not None:
            raise EngineError(
                "engine kernel sets keys by netlink, for which this service has no capability: docs/operations.md has "
                "the drop-in for it (or use engine: qtunnel)"
            )
        return KernelEngine(program, interface, public_key=public_key, record=record, log_line=log_line)
    return UapiEngine(program.with_processes(processes), interface, record=record, log_line=log_line, steward=steward)


def open_existing(interface: str) -> ExistingEngine:
    """Of an interface that somebody else made. Starts nothing."""
    return ExistingEngine(interface)
