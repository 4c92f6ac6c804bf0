"""Which of several servers to ask, in the order of preference. Pure: seconds on a monotonic clock are an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

RETURN_AFTER = 60.0
"""Seconds until a server that failed is preferred again: a call pays for finding it still away, so not at each; and a
KME that restarts takes about as long."""

REMEMBERED = 4096
"""key_IDs by whose memory none is asked for at a second server: those of some hours of a hub of 100 tunnels."""


class Preference:
    """The servers by their number, 0 being the one preferred."""

    def __init__(self, count: int) -> None:
        self._failed_at: list[float | None] = [None] * count

    def order(self, now: float) -> list[int]:
        """All of them: those that work, then those that failed within ``RETURN_AFTER``, which may be back."""
        return sorted(range(len(self._failed_at)), key=lambda number: self.resting(number, now))

    def resting(self, number: int, now: float) -> bool:
        """Whether that one failed a short while ago."""
        at = self._failed_at[number]
        return at is not None and now - at < RETURN_AFTER

    def failed(self, number: int, now: float) -> None:
        self._failed_at[number] = now

    def works(self, number: int) -> None:
        self._failed_at[number] = None


class Asked:
    """Where keys were asked for that may have been given out: each is asked for there again, and nowhere else.

    Of the keys of longer ago than the last ``REMEMBERED`` nothing is known any more.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._at: OrderedDict[str, int] = OrderedDict()

    def at(self, key_id: str) -> int | None:
        """The server that may have given it out."""
        return self._at.get(key_id.lower())

    def note(self, key_ids: Iterable[str], number: int) -> None:
        for key_id in key_ids:
            self._at.setdefault(key_id.lower(), number)
        while len(self._at) > self._remembered:
            self._at.popitem(last=False)
