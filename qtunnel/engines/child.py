"""An engine that is a process of its own, or that one holds: started, watched, ended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from qtunnel.engines import survivor
from qtunnel.engines.base import Left
from qtunnel.engines.clocks import SYSTEM, Clocks
from qtunnel.engines.device import Client
from qtunnel.engines.host import index_of, is_other
from qtunnel.engines.ledger import EpochLedger
from qtunnel.engines.peers import DeviceEngine
from qtunnel.engines.process import ChildProcess, LogLine
from qtunnel.engines.programs import Program
from qtunnel.engines.steward_client import StewardClient, StewardProcess
from qtunnel.engines.survivor import SurvivingProcess
from qtunnel.engines.voice import log_to
from qtunnel.errors import EngineError, InterfaceError
from qtunnel.secret import RandomBytes
from qtunnel.telemetry import log

START_BOUND = 45.0
"""Seconds until it answers. A Python program needs 0.3 s, on a loaded machine with cold caches some seconds, and in a
virtual machine without help of the processor 20; systemd waits 90 s for a daemon."""

GONE_BOUND = 5.0
"""Seconds for the interface to go away once the process ended; the kernel does it while closing the TUN."""

START_POLL = 0.02
WATCH_POLL = 0.25
"""Seconds between looks at the process and the interface: a dead engine is noticed well within one rekey interval."""

OTHERWISE_MADE = "it is of another version, or was started with other options"

logger = log.get("engine")


class ChildEngine(DeviceEngine):
    """One instance per interface, may be started again after stop.

    record: a file that tells which process the engine is, where it may outlive this one: only one that ends its own
    traffic in time (``epochs`` of ``Program``). steward: who starts it in place of this process, and keeps it.
    """

    def __init__(
        self, program: Program, interface: str, client: Client, *, record: Path | None = None,
        log_line: LogLine | None = None, steward: StewardClient | None = None,
        clocks: Clocks = SYSTEM, random_bytes: RandomBytes = os.urandom,
    ) -> None:  # fmt: skip
        super().__init__(
            program.name, interface, client, epochs=program.epochs, updates=program.updates, clocks=clocks,
            random_bytes=random_bytes,
        )  # fmt: skip
        self._program = program
        self._log_line = log_line or log_to(logger, interface=interface)
        self._record = record
        self._steward = steward
        self._child: ChildProcess | SurvivingProcess | StewardProcess | None = None
        self._index: int | None = None
        self._why_replaced: str | None = None

    @property
    def index(self) -> int | None:
        return self._index

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    # What each kind of engine does in its own way

    async def _prepare(self) -> None:
        """Before the start: refuse what is in the way."""

    async def _answers(self) -> bool:
        """Whether it can be told and asked."""
        raise NotImplementedError

    def _made(self) -> int | None:
        """The number of the interface that its process has made, right after the start."""
        return index_of(self._interface)

    def _lost(self) -> str:
        """What it lost that it cannot work without, in words; empty where all is there."""
        return ""

    async def _inherited(
        self, process: SurvivingProcess | StewardProcess, public_key: bytes, listen_port: int, mark: int
    ) -> dict[bytes, Left] | str:
        """The peers of an engine that outlived its daemon; why not, where it is not what this one would start."""
        return "it cannot be asked"

    async def _clear_away(self) -> None:
        """After the end: what a killed process leaves behind."""

    def _failed_start(self, ending: str, said: str) -> EngineError:
        """The process ended before it answered; said: its last line, or none."""
        return self._error(f"{ending} at its start: {said or 'without a word'}")

    # What all do

    async def start(self) -> None:
        if self.pid is not None:
            raise self._error("is running already")
        command = self._program.command(self._interface)
        await self._prepare()
        self._forget_all()
        self._index = None
        self._child = child = await self._started(command)
        try:
            await self._await_answer(child)
            self._index = self._made()
        except BaseException:
            await self.stop()
            raise

    async def _started(self, command: list[str]) -> ChildProcess | StewardProcess:
        if self._steward is not None:
            making = survivor.making_of(self._interface, command)
            program = self._program
            return await StewardProcess.start(self._steward, program.name, self._interface, program.processes, making)
        record = self._record if self._epochs else None
        told = None if record is None else survivor.making_of(self._interface, command)
        child = ChildProcess(command, self._program.full_environment(), self._log_line, record, told)
        self._child = child  # which may be half started where this is cancelled
        await child.start()
        return child

    @property
    def replaced(self) -> str | None:
        return self._why_replaced

    async def adopt(self, public_key: bytes, listen_port: int, mark: int = 0) -> dict[bytes, Left] | None:
        """Also ends one of ours that another engine takes the place of."""
        if self.pid is not None or (self._record is None and self._steward is None):
            return None
        found = await self._found(survivor.making_of(self._interface, self._program.command(self._interface)))
        if found is None:
            return None
        process, same = found
        left = await self._inherited(process, public_key, listen_port, mark) if same else OTHERWISE_MADE
        if isinstance(left, str):
            self._why_replaced = left
            await process.stop()  # ours, but not what is wanted now
            await self._until_gone()
            return None
        self._forget_all()
        self._child, self._index, self._listen_port = process, index_of(self._interface), listen_port
        self._peers = {key: its.spec for key, its in left.items()}
        self._ledgers = {key: EpochLedger(self._clocks.moment()) for key in left}
        return left

    async def _found(self, making: dict[str, Any]) -> tuple[SurvivingProcess | StewardProcess, bool] | None:
        if self._steward is not None:
            return await StewardProcess.find(self._steward, making)
        return None if self._record is None else survivor.find(self._record, making)

    def leave(self) -> None:
        """Let it go on with its steward, for the next daemon; from here on it is not watched."""
        if isinstance(self._child, StewardProcess):
            self._child.leave()
            self._child = None

    async def _await_answer(self, child: ChildProcess | StewardProcess) -> None:
        ended = asyncio.create_task(child.wait())
        try:
            async with asyncio.timeout(START_BOUND):
                while not (index_of(self._interface) is not None and await self._answers()):
                    done, _ = await asyncio.wait([ended], timeout=START_POLL)
                    if done:
                        raise self._failed_start(ended.result(), child.tail[-1] if child.tail else "")
        except TimeoutError:
            raise self._error(f"did not answer within {START_BOUND:g} s of its start") from None
        finally:
            ended.cancel()

    async def wait_dead(self) -> str:
        child = self._child
        if child is None:
            return f"engine {self.name} of {self._interface} is not running"
        ended = asyncio.create_task(child.wait())
        try:
            while True:
                done, _ = await asyncio.wait([ended], timeout=WATCH_POLL)
                if done:
                    last = f"; it said: {child.tail[-1]}" if child.tail else ""
                    return f"engine {self.name} of {self._interface} {ended.result()}{last}"
                if is_other(self._interface, self._index):
                    return f"interface {self._interface} is gone, or another one has its name"
                lost = self._lost()
                if lost:
                    return lost
        finally:
            ended.cancel()

    async def stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        await child.stop()
        self._forget_all()
        await self._clear_away()
        if self._index is not None:
            await self._until_gone()
            self._index = None

    async def _until_gone(self) -> None:
        for _ in range(round(GONE_BOUND / START_POLL)):
            found = index_of(self._interface)
            if found is None or self._index not in (None, found):
                return
            await asyncio.sleep(START_POLL)
        raise InterfaceError(
            f"interface {self._interface} is still there {GONE_BOUND:g} s after its engine ended; "
            f"remove it (ip link del {self._interface})"
        )
