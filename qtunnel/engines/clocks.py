"""The clock by which everything ages, and the one in which engines tell their handshakes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """When an engine was asked. asked, answered: seconds of CLOCK_BOOTTIME before and after; unix: Unix seconds in
    between. So by how much the wall clock was ahead then lies between ``unix - answered`` and ``unix - asked``."""

    asked: float
    unix: float
    answered: float


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Clocks:
    """boot: seconds that never go back (clock_gettime(2)). unix: the wall clock, which may be set at any time."""

    boot: Callable[[], float] = _boottime
    unix: Callable[[], float] = time.time

    def moment(self, asked: float | None = None) -> Moment:
        """The present; asked: where what it is of began before."""
        if asked is None:
            asked = self.boot()
        unix = self.unix()
        return Moment(asked, unix, self.boot())


SYSTEM = Clocks()
