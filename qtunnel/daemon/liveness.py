"""The sign of life for the service manager: only while keys are really looked after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from qtunnel.daemon.clock import monotonic
from qtunnel.sd_notify import Notifier

EFFECT_LIMIT = 60.0
"""Seconds that one effect may take: an engine's restart, which it may have to wait for, is bounded by some 30 s."""


class Liveness:
    """What the parts of the daemon report, and whether that is life."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._ticked = True
        self._begun: dict[int, float] = {}  # in the order of their beginnings
        self._numbers = count()

    def ticked(self) -> None:
        """The timers of the rekeying core were served."""
        self._ticked = True

    def begins(self) -> int:
        """An effect is being carried out: its number, for ``ends``."""
        number = next(self._numbers)
        self._begun[number] = self._clock()
        return number

    def ends(self, number: int) -> None:
        """It is done, well or not."""
        del self._begun[number]

    def check(self) -> bool:
        """Whether the timers were served since the last call, and no effect hangs."""
        ticked, self._ticked = self._ticked, False
        since = next(iter(self._begun.values()), None)
        return ticked and (since is None or self._clock() - since < EFFECT_LIMIT)

    async def watchdog(self, notifier: Notifier, interval: float, wake: Callable[[], None]) -> None:
        """Tell the manager every ``interval`` seconds, and wake the timers to see whether they are served; runs until
        cancelled."""
        while True:
            if self.check():
                notifier.watchdog()
            wake()
            await asyncio.sleep(interval)
