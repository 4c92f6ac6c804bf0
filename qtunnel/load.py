"""When a rate of messages is load, so that their senders have to prove their address first; and how much of a processor
something may take."""

from __future__ import annotations


class LoadGauge:
    """Counts messages in windows of one second.

    Load begins with more than ``most`` in one window. It lasts ``lasts`` seconds after the last window with more than
    ``few``, so that a rate near the bound does not make it come and go.
    """

    __slots__ = ("_count", "_few", "_lasts", "_most", "_until", "_window")

    def __init__(self, most: int, few: int, lasts: float) -> None:
        self._most, self._few, self._lasts = most, few, lasts
        self._window = float("-inf")
        self._count = 0
        self._until = float("-inf")

    def loaded(self, now: float) -> bool:
        """Whether there is load, without counting."""
        return now < self._until

    def under_load(self, now: float) -> bool:
        """Count one message and tell whether it meets a loaded machine. now: monotonic seconds."""
        if now - self._window >= 1.0:
            self._window, self._count = now, 0
        self._count += 1
        if self._count > (self._few if now < self._until else self._most):
            self._until = now + self._lasts
        return now < self._until


class Budget:
    """Processor time that something may take: ``share`` of a core, and up to ``burst`` seconds of it at once.

    The caller measures, so that this has no clock.
    """

    __slots__ = ("_at", "_burst", "_left", "_share")

    def __init__(self, share: float, burst: float) -> None:
        self._share, self._burst = share, burst
        self._left, self._at = burst, float("-inf")

    def spend(self, took: float, now: float) -> float:
        """So many seconds of processor time went, until ``now`` (monotonic seconds). How long to rest, in seconds; 0
        where some is left."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._share) - took
        self._at = now
        return max(0.0, -self._left / self._share)
