"""When to rekey: by time with jitter, sooner and with backoff after a failure, later for the end that only watches."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_RETRY = 1.0
"""Seconds after a first failure; a KME that restarts is back in a few."""
LONGEST_RETRY = 60.0
"""Seconds. A KME or peer that was away for hours is used again within a minute."""
OVERDUE_FACTOR = 1.5
"""The end that only answers takes over when half an interval has gone by without a rekey ..."""
OVERDUE_SLACK = 10.0
"""... and these seconds for the initiator's retries, so that a lossy minute does not change the roles."""


@dataclass(slots=True)
class Schedule:
    """The schedule of one peer. interval: seconds; jitter: fraction of it, e.g. 0.1."""

    interval: float
    jitter: float
    failures: int = 0

    def after_success(self, now: float, fraction: float) -> float:
        """When the initiator starts the next rekey. fraction: random, 0 <= fraction < 1."""
        self.failures = 0
        return now + self.interval * (1 + self.jitter * (2 * fraction - 1))

    def after_failure(self, now: float, fraction: float) -> float:
        """When to try again: doubling, never slower than the schedule itself, with half of it random."""
        self.failures += 1
        delay = min(FIRST_RETRY * 2.0 ** min(self.failures - 1, 10), LONGEST_RETRY, max(self.interval, FIRST_RETRY))
        return now + delay * (0.5 + fraction / 2)

    def overdue(self, now: float) -> float:
        """When the end that is not the initiator takes over."""
        self.failures = 0
        return now + self.interval * (OVERDUE_FACTOR + self.jitter) + OVERDUE_SLACK
