"""How soon a link's two ends see that its error rate has changed."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Monitor:
    """The error over the last ``sample`` sifted bits.

    While old and new conditions share the window, the mean over it moves in a straight line from the one to the other.
    """

    sample: float
    estimate: float = 0.0
    _base: float = 0.0
    _target: float = 0.0
    _progress: float = 1.0

    @property
    def settled(self) -> bool:
        """Whether all of the window is from the present conditions."""
        return self._progress >= 1.0

    def begin(self, error: float) -> None:
        """Nothing is remembered, and all that comes has this error."""
        self.estimate = self._base = self._target = error
        self._progress = 1.0

    def change(self, error: float) -> None:
        """From now on the bits have this error."""
        if error == self._target:
            return
        self._base, self._target, self._progress = self.estimate, error, 0.0

    def take(self, bits: float) -> None:
        """So many sifted bits were compared."""
        self._progress = min(1.0, self._progress + bits / self.sample)
        if self._progress > 1.0 - 1e-12:  # what is left of a sum of parts
            self._progress = 1.0
            self.estimate = self._target
        else:
            self.estimate = self._base + (self._target - self._base) * self._progress

    def bits_until(self, limit: float, *, above: bool) -> float:
        """Sifted bits until the estimate is above ``limit``, or not above it any more; infinite where it never is."""
        if (self.estimate > limit) == above:
            return 0.0
        if (self._target > limit) != above:
            return math.inf
        crossing = (limit - self._base) / (self._target - self._base)
        # at the limit itself it is not above yet: a millionth of the window more
        return max(0.0, crossing - self._progress + 1e-6) * self.sample

    def bits_until_settled(self) -> float:
        return (1.0 - self._progress) * self.sample
