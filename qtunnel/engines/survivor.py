"""An engine that outlived its daemon: found by the record of its start, and held by a descriptor, not by its number.

Only an engine that ends its own traffic in time (UAPI ``expires_boottime_msec``) is let outlive its daemon. The record
lies in the state directory, which is locked: so no other daemon can take it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
from collections import deque
from pathlib import Path
from typing import Any

from qtunnel.constants import ENGINE_GENERATION
from qtunnel.engines.launch import START_FIELD

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NETWORK = "/proc/self/ns/net"

TERM_BOUND = 3.0
"""Seconds from SIGTERM to SIGKILL, as for a child."""


def making_of(interface: str, command: list[str]) -> dict[str, Any]:
    """All that has to be the same for an engine to be the one that this daemon would start now."""
    return {
        "boot": BOOT_ID.read_text().strip(),
        "network": os.readlink(NETWORK),
        "interface": interface,
        "command": command,
        "generation": ENGINE_GENERATION,
    }


def find(record: Path, making: dict[str, Any]) -> tuple[SurvivingProcess, bool] | None:
    """The process of the record, where it still runs; and whether it is as ``making`` says."""
    try:
        document = json.loads(record.read_bytes())
        pid, began = int(document["pid"]), int(document["began"])
        here = all(document[key] == making[key] for key in ("boot", "network"))
        same = all(document[key] == value for key, value in making.items())
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # a file that nobody of ours wrote
    if not here or pid <= 1:
        return None  # a number of another boot or container says nothing here
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, OverflowError):  # there is none, or can be none, of that number
        return None
    # Looked at after the descriptor was opened: from here on the number cannot have become another's.
    if _began(pid) != began:
        os.close(descriptor)
        return None
    return SurvivingProcess(pid, descriptor), same


def _began(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[START_FIELD - 3])


class SurvivingProcess:
    """As ``ChildProcess``, for one that is not our child: its output goes to syslog."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self._pid, self._descriptor = pid, descriptor
        self._over = False
        self.tail: deque[str] = deque(maxlen=1)

    @property
    def pid(self) -> int | None:
        """``None`` after its end."""
        if not self._over:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            if poll.poll(0):  # a pidfd is readable from the end on
                self._end()
        return None if self._over else self._pid

    def _end(self) -> None:
        if not self._over:
            self._over = True
            os.close(self._descriptor)

    async def wait(self) -> str:
        """Wait for the end, whose code only its parent is told."""
        while self.pid is not None:  # noqa: ASYNC110  # no event of ours: a loop of its own would have to watch it
            await asyncio.sleep(0.1)
        return "ended"

    async def stop(self) -> None:
        """SIGTERM, after ``TERM_BOUND`` SIGKILL, and the end awaited. Idempotent."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.pid is None:
                return
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TERM_BOUND):
                    await self.wait()
