"""Traffic of a run: pings that are counted one by one, and a throughput test."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qtunnel.demo.children import Child
from qtunnel.demo.stage import Stage
from qtunnel.errors import DemoError
from qtunnel.sandbox import pinger as pinger_file
from qtunnel.sandbox.programs import iperf_received

PINGER = Path(pinger_file.__file__)

WINDOW = "256K"
"""iperf3's socket buffer. What TCP has under way waits in the TUN's queue while an engine is scheduled out. That queue
has room for 500 packets or more, 0.7 MB, so with this much under way the pings that share it are not dropped. More does
not make it faster: 0.26 to 0.34 Gbit/s with 64K to 4M, in no order."""

IPERF_SLACK = 10.0
"""Seconds beyond its time that iperf3 gets to connect and to report."""

PINGER_BOUND = 10.0
"""Seconds for the last echoes (2 s) and the report."""

Gap = tuple[float, float, int]
"""A run of echoes that were never answered: first sent at, last sent at (monotonic seconds), how many."""


@dataclass(slots=True)
class Pings:
    """The pinger's latest report. silences: times without an answer, from and to, monotonic seconds."""

    sent: int = 0
    answered: int = 0
    overdue: int = 0
    rtt_ms: float = 0.0
    gaps: Sequence[Gap] = field(default_factory=list)
    silences: Sequence[tuple[float, float]] = field(default_factory=list)
    final: bool = False

    @property
    def lost(self) -> int:
        """Without an answer: at the end all of them, before that those that are overdue."""
        return self.sent - self.answered if self.final else self.overdue

    def take(self, line: bytes) -> None:
        report: dict[str, Any] = json.loads(line)
        self.sent, self.answered = report["sent"], report["answered"]
        self.overdue, self.rtt_ms = report["overdue"], report["rtt_ms"]
        if "gaps" in report:
            self.gaps = [(first, last, count) for first, last, count in report["gaps"]]
            self.silences = [(begin, end) for begin, end in report["silences"]]
            self.final = True


class Pinger:
    """Pings an address all the time from a gateway's network, into ``pings``."""

    def __init__(self, child: Child, pings: Pings) -> None:
        self._child = child
        self.pings = pings

    @classmethod
    async def start(cls, stage: Stage, name: str, gateway: str, address: str, interval: float, pings: Pings) -> Pinger:
        command = [sys.executable, "-I", "-S", str(PINGER), address, str(interval)]
        return cls(await stage.tool(name, command, gateway, pipe=True), pings)

    async def read(self) -> None:
        """Take its reports until it ends; raises ``DemoError`` where nobody asked it to."""
        child = self._child
        assert child.process.stdout is not None
        while line := await child.process.stdout.readline():
            self.pings.take(line)
        await child.process.wait()
        if not child.expected_to_end:
            child.check()
            raise DemoError(f"{child.name} ended early{child.last_words()}")

    async def finish(self, reading: asyncio.Task[None]) -> None:
        """Have it wait for the last echoes and report; reading: of ``read``. Raises ``DemoError``."""
        self._child.expected_to_end = True
        assert self._child.process.stdin is not None
        self._child.process.stdin.close()
        try:
            async with asyncio.timeout(PINGER_BOUND):
                await reading
        except TimeoutError:
            words = f"{self._child.name} did not report within {PINGER_BOUND:g} s{self._child.last_words()}"
            raise DemoError(words) from None


async def throughput(stage: Stage, server_at: str, client_at: str, address: str, seconds: int) -> tuple[int, float]:
    """Bytes that arrived at ``address``, and Gbit/s, by iperf3 from one gateway to the other; raises ``DemoError``."""
    listen = ["iperf3", "--server", "--one-off", "--forceflush", "--bind", address]
    server = await stage.tool("iperf3-server", listen, server_at)
    server.expected_to_end = True
    await stage.until(
        lambda: b"listening" in server.log.read_bytes(), IPERF_SLACK, lambda: "the iperf3 server does not listen", []
    )
    client = await stage.tool(
        "iperf3",
        ["iperf3", "--client", address, "--time", str(seconds), "--window", WINDOW, "--json",
         "--connect-timeout", "3000"],
        client_at, pipe=True,
    )  # fmt: skip
    client.expected_to_end = True
    try:
        async with asyncio.timeout(seconds + IPERF_SLACK):
            output, _ = await client.process.communicate()
    except TimeoutError:
        raise DemoError(f"iperf3 did not end within {seconds + IPERF_SLACK:g} s") from None
    return iperf_received(output)
