"""Traffic while a fault is there: a bounded TCP flow, and numbered echoes, of which every one is accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from qtunnel.sandbox import pinger
from tests.support.netns import Namespace, stop, wait_until

INTERVAL = 0.01
RATE = "20M"
"""Of the load: so little that the processor is not what loses packets, on two cores that others use, too."""


class Traffic:
    """From alice to bob through the tunnel, within the ``with`` block; afterwards what became of it."""

    def __init__(self, here: Namespace, there: Namespace, address: str) -> None:
        self._here, self._there, self._address = here, there, address
        self.sent = self.answered = 0
        self.gaps: list[tuple[float, float, int]] = []

    def __enter__(self) -> Traffic:
        self._server = self._there.start("iperf3", "--server", "--bind", self._address, "--forceflush")
        wait_until(self._listens, "iperf3 listens")
        self._load = self._here.start(
            "iperf3", "--client", self._address, "--time", "900", "--bitrate", RATE, "--window", "256K"
        )  # fmt: skip
        self._pings = self._here.start(
            sys.executable, "-I", "-S", str(Path(pinger.__file__)), self._address, str(INTERVAL),
            stdin=subprocess.PIPE, stderr=None,
        )  # fmt: skip
        time.sleep(0.5)
        return self

    def _listens(self) -> bool:
        return ":5201" in self._there.run("ss", "-Hlnt", "sport = 5201").stdout

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        output, _ = self._pings.communicate(timeout=30)  # it ends with its input, and gives the last echoes 2 s
        for process in (self._load, self._server):
            stop(process)
        last = json.loads(output.splitlines()[-1])
        self.sent, self.answered = last["sent"], last["answered"]
        self.gaps = [(first, end, count) for first, end, count in last["gaps"]]

    @property
    def lost(self) -> int:
        return self.sent - self.answered

    def lost_between(self, begin: float, end: float) -> int:
        """Echoes of the gaps that lie within, monotonic seconds."""
        return sum(count for first, last, count in self.gaps if begin <= first and last <= end)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, and the end awaited."""
    os.kill(process.pid, 9)
    process.wait(10)
