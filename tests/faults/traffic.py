"""Traffic while a fault is there: a bounded TCP flow, and numbered echoes, of which every one is accounted for."""

from __future__ import annotations

import os
import subprocess
import time
from types import TracebackType

from tests.support.echoes import Echoes
from tests.support.netns import Namespace, stop, wait_until

PATIENCE = 60.0
"""Seconds until the programs run, on a machine that does other things too."""
INTERVAL = 0.01
RATE = "20M"
"""Of the load: so little that the processor is not what loses packets, on two cores that others use, too."""
SLOW_RATE = "5M"
"""Beside engines of others: wireguard-go of Debian 12 lost 111 of 3,077 echoes beside ``RATE``, without any fault, and
none beside this."""


class Traffic:
    """From alice to bob through the tunnel, within the ``with`` block; afterwards what became of it. seconds: of the
    load, at most; rate: of it, bits per second as iperf3 has them."""

    def __init__(self, here: Namespace, there: Namespace, address: str, seconds: int = 900, rate: str = RATE) -> None:
        self._here, self._there, self._address, self._seconds = here, there, address, seconds
        self._rate = rate

    def __enter__(self) -> Traffic:
        quiet = {"stdout": subprocess.DEVNULL}  # a pipe that nobody reads would stop it after some minutes
        self._server = self._there.start("iperf3", "--server", "--bind", self._address, **quiet)
        wait_until(self._listens, "iperf3 listens")
        self._load = self._here.start(
            "iperf3", "--client", self._address, "--time", str(self._seconds), "--bitrate", self._rate,
            "--window", "256K", **quiet,
        )  # fmt: skip
        self._echoes = Echoes(self._here, self._address, INTERVAL)
        wait_until(lambda: self.so_far.get("answered", 0) > 0, "the first echo is answered", PATIENCE)
        time.sleep(0.5)
        return self

    def _listens(self) -> bool:
        return ":5201" in self._there.run("ss", "-Hlnt", "sport = 5201").stdout

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._echoes.end()
        for process in (self._load, self._server):
            stop(process)

    @property
    def so_far(self) -> dict[str, float]:
        return self._echoes.so_far

    @property
    def loaded(self) -> bool:
        """Whether the TCP flow goes on."""
        return self._load.poll() is None

    @property
    def sent(self) -> int:
        return self._echoes.sent

    @property
    def gaps(self) -> list[tuple[float, float, int]]:
        return self._echoes.gaps

    @property
    def lost(self) -> int:
        return self._echoes.lost

    @property
    def round_trip(self) -> float:
        """Seconds within which 99 of 100 echoes were back."""
        return self._echoes.round_trip

    def lost_between(self, begin: float, end: float) -> int:
        """Lost echoes that were sent then, monotonic seconds; those of a gap count as sent evenly over it."""
        return sum(within(gap, begin, end) for gap in self.gaps)


def within(gap: tuple[float, float, int], begin: float, end: float) -> int:
    """How many of a gap's echoes were sent from ``begin`` to ``end``."""
    first, last, count = gap
    step = (last - first) / max(1, count - 1)
    return sum(begin <= first + number * step <= end for number in range(count))


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, and the end awaited."""
    os.kill(process.pid, 9)
    process.wait(10)
