"""How much went through a tunnel since its last rekey, and whether that is enough for the next one."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_PART = 0.1
"""Part of the usual interval that traffic alone cannot shorten it below, where no ``min_interval`` says otherwise: who
can send through the tunnel must not be able to empty a KME."""
FAR = 4
"""Times a limit that may pass while keys are scarce, before it brings a rekey all the same. With the usual times a
scarce supply stretches the interval by 2.9 at most: a limit that suits the usual interval is not passed so far. Nothing
but the limit itself stands behind it: WireGuard renews its session keys by time (120 s) and by messages (2^60) whatever
the PSK, and the age of a PSK is bounded by ``max_age``."""
LEAST = 1.0
"""Seconds; what the configuration allows as the shortest interval."""


def least_gap(interval: float, shortest: float | None) -> float:
    """Seconds between a rekey and one that traffic brings about. shortest: ``min_interval`` where it is set."""
    return shortest if shortest is not None else max(LEAST, LEAST_PART * interval)


@dataclass(slots=True)
class Volume:
    """Counts both directions from what an engine's counters show. Limits: ``None`` for none.

    The engine is looked at now and then, so what passes between two looks may come on top of a limit, and counts for
    the epoch that is in place at the second of them.
    """

    max_bytes: int | None = None
    max_packets: int | None = None
    bytes: int = 0
    packets: int = 0
    _bytes_seen: int | None = None
    _packets_seen: int | None = None

    def count(self, total_bytes: int, total_packets: int | None) -> None:
        """The counters as they stand. total_packets: ``None`` where the engine does not count them.

        The first look only says where they begin: the interface may have been there before. A counter that went back is
        that of an engine which was started anew, from 0.
        """
        self.bytes += _more(self._bytes_seen, total_bytes)
        self._bytes_seen = total_bytes
        if total_packets is not None:
            self.packets += _more(self._packets_seen, total_packets)
            self._packets_seen = total_packets

    def restart(self) -> None:
        """A new epoch is in place."""
        self.bytes = self.packets = 0

    @property
    def reached(self) -> str | None:
        """Which limit was reached: ``bytes`` or ``packets``."""
        return self._passed(1)

    @property
    def far_passed(self) -> str | None:
        """Likewise, ``FAR`` times over."""
        return self._passed(FAR)

    def _passed(self, times: int) -> str | None:
        if self.max_bytes is not None and self.bytes >= times * self.max_bytes:
            return "bytes"
        if self.max_packets is not None and self.packets >= times * self.max_packets:
            return "packets"
        return None


def _more(before: int | None, total: int) -> int:
    if before is None:
        return 0
    return total - before if total >= before else total
