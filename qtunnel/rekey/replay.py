"""The replay times of offers that were looked at: none of them is looked at twice."""

from __future__ import annotations

from bisect import insort

from qtunnel.rekey.timing import CLOCK_INSISTS, CLOCK_SLACK, seconds_between


class ReplayTimes:
    """The ``size`` latest replay times (TAI64N, so that they compare as bytes), and a floor under which all are old."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._latest: list[bytes] = []
        self._floor = b""

    def __contains__(self, timestamp: bytes) -> bool:
        return timestamp <= self._floor or timestamp in self._latest

    def add(self, timestamp: bytes, clock: bytes) -> None:
        """An offer was looked at. clock: the present as a replay time.

        The earliest gives way and becomes the floor, unless it is later than the clock: whoever forges replay times far
        ahead must not lock out the peer, whose own are those of its clock.
        """
        insort(self._latest, timestamp)
        if len(self._latest) > self._size:
            earliest = self._latest.pop(0)
            if earliest <= clock:
                self._floor = max(self._floor, earliest)


class OldOffers:
    """Whether authentic offers that are too old look like those of a peer whose clock is behind: several new ones, each
    as much later than the one before as it came later.

    That is no proof, as somebody may send recorded ones in their old rhythm. So it may decide what is said, and nothing
    else.
    """

    def __init__(self) -> None:
        self._last = b""
        self._came = 0.0
        self._in_a_row = 0

    def insist(self, timestamp: bytes, now: float) -> bool:
        """One that was never seen came at ``now`` (monotonic seconds). Whether there were ``CLOCK_INSISTS`` by now."""
        steady = timestamp > self._last != b"" and (
            abs(seconds_between(self._last, timestamp) - (now - self._came)) <= CLOCK_SLACK
        )
        self._in_a_row = self._in_a_row + 1 if steady else 1
        self._last, self._came = timestamp, now
        return self._in_a_row >= CLOCK_INSISTS
