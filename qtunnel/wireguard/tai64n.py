"""TAI64N timestamps (cr.yp.to/libtai/tai64.html), the initiator's replay protection."""

from __future__ import annotations

from qtunnel.tai64n import tai64n

SIZE = 12
GRANULARITY = 1 << 24
"""Nanoseconds, 16.8 ms: finer bits are cleared, as the kernel does, so that a timestamp tells little of the clock."""


class TimestampSource:
    """Timestamps that only grow, whatever the clock does: a clock set back must not lock this peer out."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self, unix_ns: int) -> bytes:
        rounded = unix_ns - unix_ns % GRANULARITY
        self._last = max(rounded, self._last + GRANULARITY)
        return tai64n(self._last)
