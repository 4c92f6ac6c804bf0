"""What the two ends of a link know of its error rate, and the keys that wait until it is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

MOST_PIECES = 64
"""Stretches of equal conditions that are told apart within a window: a fading link has one for each fade. With more the
two shortest neighbours become one, with their mean, which moves an alarm by less than a sixty-fourth of the window."""


@dataclass(slots=True)
class Piece:
    """Sifted bits under the same conditions. error: of them, a fraction; per_bit: bits of key that each leaves; known:
    to an eavesdropper."""

    bits: float
    error: float
    per_bit: float = 0.0
    known: bool = False

    @property
    def key(self) -> float:
        """Bits."""
        return self.bits * self.per_bit


@dataclass(slots=True)
class Monitor:
    """The mean error over the last ``sample`` sifted bits, and the keys of these bits.

    estimate: that mean; 0 where no light was there yet.

    A key leaves the window with the bits that it was distilled from: once the error of the whole window after them was
    seen, and raised no alarm.
    """

    sample: float
    estimate: float = 0.0
    _pieces: list[Piece] = field(default_factory=list)
    _errors: float = 0.0

    def settled(self, error: float) -> bool:
        """Whether all of the window has this error."""
        return len({piece.error for piece in self._pieces} | {error}) == 1

    @property
    def key(self) -> float:
        """Bits of key that wait."""
        return sum(piece.key for piece in self._pieces)

    def begin(self, error: float) -> None:
        """The ends have measured this error, and made no key meanwhile."""
        self._pieces = [Piece(self.sample, error)]
        self._sum_up()

    def take(self, bits: float, error: float, per_bit: float = 0.0, *, known: bool = False) -> list[Piece]:
        """So many sifted bits came; what leaves the window, the oldest first."""
        if bits <= 0:
            return []
        last = self._pieces[-1]
        if (last.error, last.per_bit, last.known) == (error, per_bit, known):
            last.bits += bits
        else:
            self._pieces.append(Piece(bits, error, per_bit, known))
        left = list(self._leaving(sum(piece.bits for piece in self._pieces) - self.sample))
        if len(self._pieces) > MOST_PIECES:
            self._merge()
        if len(self._pieces) == 1:  # without what is left of sums of parts
            self._pieces[0].bits = self.sample
        self._sum_up()
        return left

    def _sum_up(self) -> None:
        """The mean is never outside of its parts, so a window of one error has that: sums of parts are a little off."""
        errors = [piece.error for piece in self._pieces]
        self._errors = sum(piece.bits * piece.error for piece in self._pieces)
        self.estimate = min(max(self._errors / self.sample, min(errors)), max(errors))

    def _leaving(self, bits: float) -> Iterator[Piece]:
        while bits > 0:
            first = self._pieces[0]
            if first.bits > bits or len(self._pieces) == 1:
                first.bits -= bits
                yield replace(first, bits=bits)
                return
            bits -= first.bits
            yield self._pieces.pop(0)

    def _merge(self) -> None:
        at = min(range(len(self._pieces) - 1), key=lambda n: self._pieces[n].bits + self._pieces[n + 1].bits)
        one, other = self._pieces[at : at + 2]
        bits = one.bits + other.bits
        error = (one.bits * one.error + other.bits * other.error) / bits
        self._pieces[at : at + 2] = [Piece(bits, error, (one.key + other.key) / bits, one.known or other.known)]

    def throw_away(self) -> float:
        """The keys of the window are not to be used; how many bits these were."""
        lost = self.key
        for piece in self._pieces:
            piece.per_bit, piece.known = 0.0, False
        return lost

    def bits_until(self, limit: float, error: float, *, above: bool) -> float:
        """Sifted bits of this error until the estimate is above ``limit``, or not above it any more; infinite where it
        never is."""
        if (self.estimate > limit) == above:
            return 0.0
        passed, errors, wanted = 0.0, self._errors, limit * self.sample
        for piece in self._pieces:
            after = errors + piece.bits * (error - piece.error)
            if error != piece.error and (after > wanted) == above:
                part = min(piece.bits, max(0.0, (wanted - errors) / (error - piece.error)))
                # at the limit itself it is not above yet: a millionth of the window more
                return passed + part + 1e-6 * self.sample
            passed, errors = passed + piece.bits, after
        # of an error that is the limit itself sums cannot tell: the window has it alone then, and is not above
        return passed + 1e-6 * self.sample if (error > limit) == above else math.inf

    def bits_until_settled(self, error: float) -> float:
        """Sifted bits of this error until all of the window has it."""
        same = 0.0
        for piece in reversed(self._pieces):
            if piece.error != error:
                return self.sample - same
            same += piece.bits
        return 0.0
