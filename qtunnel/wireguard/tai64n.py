"""TAI64N timestamps (cr.yp.to/libtai/tai64.html), the initiator's replay protection."""

from __future__ import annotations

SIZE = 12
GRANULARITY = 1 << 24
"""Nanoseconds, 16.8 ms: finer bits are cleared, as the kernel does, so that a timestamp tells little of the clock."""

_TAI_OFFSET = (1 << 62) + 10
_SECOND = 1_000_000_000


def encode(unix_ns: int) -> bytes:
    """12 bytes, big-endian, that compare as the times do; ``unix_ns`` in nanoseconds since 1970."""
    seconds, nanoseconds = divmod(unix_ns, _SECOND)
    return (_TAI_OFFSET + seconds).to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")


class TimestampSource:
    """Timestamps that only grow, whatever the clock does: a clock set back must not lock this peer out."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self, unix_ns: int) -> bytes:
        rounded = unix_ns - unix_ns % GRANULARITY
        self._last = max(rounded, self._last + GRANULARITY)
        return encode(self._last)
