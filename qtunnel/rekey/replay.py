"""The replay times of offers that were looked at: none of them is looked at twice."""

from __future__ import annotations

from bisect import insort


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
