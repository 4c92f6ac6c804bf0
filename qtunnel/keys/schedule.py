"""When to rekey: by time with jitter, sooner and with backoff after a failure, later for the end that only watches."""

from __future__ import annotations

from dataclasses import dataclass, field

from qtunnel.keys.pace import STEP, Bounds, Pace

FIRST_RETRY = 1.0
"""Seconds after a first failure; a KME that restarts is back in a few."""
LONGEST_RETRY = 60.0
"""Seconds. A KME or peer that was away for hours is used again within a minute."""
OVERDUE_FACTOR = 1.5
"""The end that only answers takes over when half an interval has gone by without a rekey ..."""
OVERDUE_SLACK = 10.0
"""... and these seconds for the initiator's retries, so that a lossy minute does not change the roles."""
AGE_MARGIN = 30.0
"""Seconds before ``max_age`` by which the other end, too, has begun, however long the interval was stretched: what one
attempt takes at most."""
START_RATE = 200.0
"""First offers a second of a gateway that starts with many peers: a hub of 1,000 makes its own in 5 s. An exchange
costs it 1.5 ms of CPU, and the peers' rate for first messages from anybody is the same."""
ALONE = 0.5
"""Part of the interval after which the rekey that follows a start or an outage may come: an end with one peer cannot
know how many others began in the same moment, as after a power cut. It costs a quarter of a key ..."""
CROWD = 10
"""... and an end with many peers knows: from twice as many on, the part is this number divided by theirs, so that they
are spread over nearly all of an interval."""


def ceiling(jitter: float, max_age: float) -> float:
    """The longest interval, in seconds, that keeps both ends' turns clear of ``max_age``."""
    return (max_age - OVERDUE_SLACK - AGE_MARGIN) / (OVERDUE_FACTOR + jitter)


def start_delay(peers: int, fraction: float) -> float:
    """Seconds until one of so many peers that start together makes its first offer; a single one at once."""
    return (max(1, peers) - 1) / START_RATE * fraction


@dataclass(slots=True)
class Schedule:
    """The schedule of one peer. interval, max_age: seconds; jitter: fraction of the interval, e.g. 0.1.

    shortest, longest: bounds in which the supply of keys moves the interval, ``None`` for none.
    """

    interval: float
    jitter: float
    max_age: float = float("inf")
    shortest: float | None = None
    longest: float | None = None
    failures: int = 0
    pace: Pace = field(init=False)
    expected: float = field(init=False)
    """Seconds between the peer's rekeys as this end, which only answers, has seen them; at least ``interval``."""
    _last: float | None = field(init=False, default=None)
    _gathered: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        at_most = ceiling(self.jitter, self.max_age)
        self.pace = Pace(Bounds.of(self.interval, self.shortest, self.longest, at_most))
        self.expected = self.interval

    def after_success(self, now: float, fraction: float, crowd: int = 1) -> float:
        """When the initiator starts the next rekey. fraction: random, 0 <= fraction < 1. crowd: peers of this gateway.

        After a start or an outage many are done at about the same time, so each draws its next from half an interval or
        more.
        """
        interval = self.pace.interval
        gathered, self._gathered = self._gathered or self.failures > 0, False
        self._agreed(now)
        earliest = interval * (1 - self.jitter)
        if gathered:
            earliest = max(min(earliest, FIRST_RETRY), earliest * min(ALONE, CROWD / max(1, crowd)))
        delay = earliest + fraction * (interval * (1 + self.jitter) - earliest)
        if gathered:
            self.pace.shown = min(interval, delay)
        return now + delay

    def after_failure(self, now: float, fraction: float) -> float:
        """When to try again: doubling, never slower than the schedule itself, with half of it random."""
        self.failures += 1
        delay = min(FIRST_RETRY * 2.0 ** min(self.failures - 1, 10), LONGEST_RETRY, max(self.interval, FIRST_RETRY))
        return now + delay * (0.5 + fraction / 2)

    def overdue(self, now: float) -> float:
        """When the end that is not the initiator takes over: by what it has seen, as the initiator may have stretched
        its interval."""
        gap = 0.0 if self._last is None else now - self._last
        stretched = gap > self.interval * (1 + self.jitter)
        longest = gap / (1 - self.jitter) if stretched else 0.0  # the interval that this gap may have been drawn from
        self._expect(max(longest, self.expected / STEP))
        self._agreed(now)
        return self.takes_over(now)

    def takes_over(self, agreed: float) -> float:
        """The same once more, for a last rekey at ``agreed`` that was counted before."""
        return agreed + self.expected * (OVERDUE_FACTOR + self.jitter) + OVERDUE_SLACK

    def _expect(self, seen: float) -> None:
        """The peer's interval, as far as this end's own and ``max_age`` let it be waited for."""
        self.expected = min(max(self.interval, seen), max(self.interval, ceiling(self.jitter, self.max_age)))

    def scarce(self, *, initiates: bool) -> bool:
        """Whether there are too few keys for more rekeys than time brings. initiates: this end began the last one;
        otherwise it also goes by what it has seen, as only the peer may know of it."""
        return self.pace.scarce or (not initiates and self.expected > self.interval)

    def go_on(self, before: Schedule) -> None:
        """Take the place of another one: what was known of the supply and of the peer's rekeys is known on.

        An interval longer than this end's own is the peer's doing, whatever changed here: the bounds of this end's pace
        are for when it begins, and say nothing of it.
        """
        self._last, self._gathered = before._last, before._gathered
        if before.expected > before.interval:
            self._expect(before.expected)
        self.pace.know(before.pace)

    def _agreed(self, now: float) -> None:
        self.failures, self._last = 0, now
