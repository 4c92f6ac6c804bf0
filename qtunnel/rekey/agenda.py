"""When which peer has something to do: looked up without asking them all, however many there are."""

from __future__ import annotations

import heapq

STALE_KEPT = 64
"""Entries that no longer count, and are kept besides as many as there are peers, before the heap is made anew."""


class Agenda:
    """One time for each peer, in monotonic seconds. A heap; what was planned anew leaves its old entry behind."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._times: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def plan(self, peer: str, time: float | None) -> None:
        """Something is to be done for ``peer`` at ``time``, and at no other; None: nothing."""
        if time is None:
            self._times.pop(peer, None)
        elif self._times.get(peer) != time:
            self._times[peer] = time
            heapq.heappush(self._heap, (time, peer))
            if len(self._heap) > 2 * len(self._times) + STALE_KEPT:
                self._heap = [(its, name) for name, its in self._times.items()]
                heapq.heapify(self._heap)

    @property
    def first(self) -> float | None:
        """The earliest time."""
        heap = self._heap
        while heap and self._times.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> list[str]:
        """The peers whose time has come, the earliest first. They stay planned as they are."""
        found: dict[str, float] = {}
        while (first := self.first) is not None and first <= now:
            found.setdefault(self._heap[0][1], first)
            heapq.heappop(self._heap)
        for peer, time in found.items():
            heapq.heappush(self._heap, (time, peer))
        return list(found)
