"""The key bits that the two ends of a link have in store, counted so that none is used twice."""

from __future__ import annotations

from dataclasses import dataclass


class ShortageError(Exception):
    """A link has fewer bits than were asked for."""


@dataclass(slots=True)
class Reservoir:
    """Bits of one link. At all times made = used + stored + overflowed + discarded.

    overflowed: what was made while it was full. discarded: what was thrown away because the link raised an alarm.
    unconfirmed: of what is stored, the newest bits, whose error rate is not known well enough yet.
    """

    capacity: int
    made: int = 0
    used: int = 0
    overflowed: int = 0
    discarded: int = 0
    unconfirmed: int = 0
    _carry: float = 0.0

    @property
    def stored(self) -> int:
        return self.made - self.used - self.overflowed - self.discarded

    @property
    def kept(self) -> int:
        """The number of the next bit that is stored: bits are numbered as they come, and used in this order."""
        return self.used + self.stored

    def grow(self, bits: float, *, confirmed: bool = True) -> None:
        """So many bits were distilled; parts of a bit are kept for the next time."""
        self._carry += bits
        whole = int(self._carry)
        self._carry -= whole
        self.made += whole
        kept = whole
        if self.stored > self.capacity:
            over = self.stored - self.capacity
            self.overflowed += over
            kept -= over
        if not confirmed:
            self.unconfirmed += kept

    def take(self, bits: int) -> int:
        """Use ``bits``, the oldest; the number of the first of them, which no other call ever gets.

        Raises ``ShortageError`` and takes nothing where there are not as many.
        """
        if bits > self.stored:
            raise ShortageError
        first = self.used
        self.used += bits
        self.unconfirmed = min(self.unconfirmed, self.stored)
        return first

    def confirm(self) -> None:
        """The error rate of all that is stored is known to be low."""
        self.unconfirmed = 0

    def distrust(self) -> int:
        """Throw away what is not confirmed; how many bits that were."""
        lost, self.unconfirmed = self.unconfirmed, 0
        self.discarded += lost
        self._carry = 0.0
        return lost
