"""The key bits that the two ends of a link have in store, counted so that none is used twice."""

from __future__ import annotations

from dataclasses import dataclass


class ShortageError(Exception):
    """A link has fewer bits than were asked for."""


@dataclass(slots=True)
class Reservoir:
    """Bits of one link. At all times made = used + stored + overflowed + discarded.

    overflowed: what was made while it was full. discarded: what was thrown away because the link raised an alarm, and
    was never stored.
    """

    capacity: int
    made: int = 0
    used: int = 0
    overflowed: int = 0
    discarded: int = 0
    _carry: float = 0.0

    @property
    def stored(self) -> int:
        return self.made - self.used - self.overflowed - self.discarded

    @property
    def kept(self) -> int:
        """The number of the next bit that is stored: bits are numbered as they come, and used in this order."""
        return self.used + self.stored

    def grow(self, bits: float) -> None:
        """So many bits came; parts of a bit are kept for the next time."""
        self._carry += bits
        whole = int(self._carry)
        self._carry -= whole
        self.made += whole
        self.overflowed += max(0, self.stored - self.capacity)

    def take(self, bits: int) -> int:
        """Use ``bits``, the oldest; the number of the first of them, which no other call ever gets.

        Raises ``ShortageError`` and takes nothing where there are not as many.
        """
        if bits > self.stored:
            raise ShortageError
        first = self.used
        self.used += bits
        return first

    def discard(self, bits: float) -> int:
        """So many bits came and are thrown away; how many whole ones these were."""
        lost = int(bits + self._carry)
        self._carry = 0.0
        self.made += lost
        self.discarded += lost
        return lost
