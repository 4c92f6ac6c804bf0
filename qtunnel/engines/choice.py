"""From the configuration's words to an engine."""

from __future__ import annotations

from pathlib import Path

from qtunnel.engines.existing import ExistingEngine
from qtunnel.engines.kernel import KernelEngine
from qtunnel.engines.process import LogLine
from qtunnel.engines.programs import KERNEL, find
from qtunnel.engines.uapi import UapiEngine


def open_engine(
    name: str, interface: str, *, processes: int = 1, public_key: bytes = b"", record: Path | None = None,
    log_line: LogLine | None = None,
) -> UapiEngine | KernelEngine:  # fmt: skip
    """The engine of that name; raises ``EngineError`` for an unknown one. Starts nothing.

    processes: that our own engine may use; the others see to that themselves. public_key: as of ``KernelEngine``.
    record: a file that tells of the engine where it may outlive this process.
    """
    program = find(name)
    if name == KERNEL:
        return KernelEngine(program, interface, public_key=public_key, record=record, log_line=log_line)
    return UapiEngine(program.with_processes(processes), interface, record=record, log_line=log_line)


def open_existing(interface: str) -> ExistingEngine:
    """Of an interface that somebody else made. Starts nothing."""
    return ExistingEngine(interface)
