"""Tells now and then what the engine dropped: a loss that nobody sees is searched for in the wrong place."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

INTERVAL = 60.0
"""Seconds between two reports: soon enough for whoever looks, too rare for anybody to fill the log from outside."""

log = logging.getLogger(__name__)


def words(counts: Mapping[str, int]) -> str:
    """``bad-tag=3 no-endpoint=1``, in alphabetical order; without what is zero."""
    return " ".join(f"{name}={count}" for name, count in sorted(counts.items()) if count)


class LossReport:
    """One warning an ``INTERVAL``, where a counter has grown since the last; the totals at level debug.

    next: when ``look`` has something to do, in the seconds of the caller's clock.
    """

    def __init__(self, now: float) -> None:
        self.next = now + INTERVAL
        self._before: Counter[str] = Counter()

    def look(self, counts: Mapping[str, int], now: float) -> None:
        """Report what was counted by now, if it is time."""
        if now < self.next:
            return
        self.next = now + INTERVAL
        present = Counter(counts)
        grown = present - self._before
        if grown:
            log.warning("msg=%r", f"dropped since the last report: {words(grown)}")
            log.debug("msg=%r", f"dropped since the start: {words(present)}")
        self._before = present
