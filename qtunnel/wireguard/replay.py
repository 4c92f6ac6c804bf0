"""The sliding window that lets every counter pass once (in the manner of RFC 6479, with a byte for each counter)."""

from __future__ import annotations

from qtunnel.wireguard.limits import REPLAY_WINDOW

_MASK = REPLAY_WINDOW - 1


class ReplayWindow:
    """Accepts each counter at most once, and none that is ``REPLAY_WINDOW`` or more behind the greatest."""

    __slots__ = ("_greatest", "_seen")

    def __init__(self) -> None:
        self._seen = bytearray(REPLAY_WINDOW)
        self._greatest = -1

    @property
    def next(self) -> int:
        """One more than the greatest counter that was accepted."""
        return self._greatest + 1

    def accept(self, counter: int) -> bool:
        """True, and remembered, if it is new; only for counters whose packet was authenticated."""
        ahead = counter - self._greatest
        slot = counter & _MASK
        if ahead == 1:  # in order: the usual case
            self._greatest = counter
            self._seen[slot] = 1
            return True
        if ahead > 0:
            self._forget(ahead - 1)
            self._greatest = counter
            self._seen[slot] = 1
            return True
        if ahead <= -REPLAY_WINDOW or self._seen[slot]:
            return False
        self._seen[slot] = 1
        return True

    def seen(self, counter: int) -> bool:
        """Whether ``accept`` would refuse it."""
        behind = self._greatest - counter
        return behind >= 0 and (behind >= REPLAY_WINDOW or bool(self._seen[counter & _MASK]))

    def accept_run(self, first: int, count: int) -> bool:
        """``accept`` for ``count`` counters from ``first`` on, where all are just ahead; else False and no change."""
        slot = first & _MASK
        if first != self._greatest + 1 or slot + count > REPLAY_WINDOW:
            return False
        self._seen[slot : slot + count] = b"\1" * count
        self._greatest += count
        return True

    def accept_all(self, first: int, count: int) -> bool:
        """``accept`` for ``count`` counters from ``first`` on, where none was there before; else False, no change."""
        if self.accept_run(first, count):
            return True
        counters = range(first, first + count)
        if any(map(self.seen, counters)):
            return False
        for counter in counters:
            self.accept(counter)
        return True

    def _forget(self, skipped: int) -> None:
        """Clear the slots of the ``skipped`` counters after the greatest, which had another counter before."""
        if skipped >= REPLAY_WINDOW:
            self._seen[:] = bytes(REPLAY_WINDOW)
            return
        first = (self._greatest + 1) & _MASK
        head = min(skipped, REPLAY_WINDOW - first)
        self._seen[first : first + head] = bytes(head)
        self._seen[: skipped - head] = bytes(skipped - head)
