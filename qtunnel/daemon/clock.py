"""The daemon's clock for everything that ages: it goes on while the machine sleeps."""

from __future__ import annotations

import time

from qtunnel.rekey.model import Now


def monotonic() -> float:
    """Seconds that never go back; time asleep counts, so that no key outlives ``max_age`` in a suspended machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> Now:
    return Now(monotonic(), time.time_ns())
