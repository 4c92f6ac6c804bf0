"""How large records are: as large as they come on a clean link, small and with parity where datagrams are lost."""

from __future__ import annotations

from typing import Final

from qtunnel.wireguard.record_format import MAX_COUNT

MIN_SAMPLE: Final = 1000
"""Datagrams that a measurement needs: of fewer, one lost one would say more than 0.1 % of loss."""

ALARM: Final = 1 / 2
RECOVERY: Final = 1 / 16
"""Shares by which the estimate follows a measurement that is worse, and one that is better. With ten measurements a
second, loss is met within a third of a second, and one percent is forgotten after 10 s: a link with bursts of loss is
not believed too soon."""

PARITY_LOSS: Final = 2e-5
"""Loss from which a parity datagram pays. It costs 2 % of a full record's datagrams and 5 % of its CPU time; without it
each lost datagram costs 45 packets, which halves what one TCP flow gets, from about here on."""

_GAIN: Final = 4.0


class RecordSizer:
    """Sizes by the share of datagrams lost.

    A record of ``n`` fragments and parity is lost when two of its datagrams are: at a loss of ``p`` with the chance
    ``(n + 1) n p^2 / 2``. ``count`` is the largest n for which that is at most a quarter of p, so that the tunnel
    loses less than its link has.
    """

    def __init__(self) -> None:
        self.loss = 0.0
        """Estimated share of datagrams lost, 0 to 1."""
        self.count = MAX_COUNT
        """Fragments that a record may have."""
        self.parity = False

    def measured(self, expected: int, received: int) -> bool:
        """Take in a measurement, if it is large enough to mean anything; whether it was."""
        if expected < MIN_SAMPLE or not 0 <= received <= expected:
            return False
        loss = 1 - received / expected
        self.loss += (loss - self.loss) * (ALARM if loss > self.loss else RECOVERY)
        self.parity = self.loss >= PARITY_LOSS
        self.count = fragments_for(self.loss) if self.parity else MAX_COUNT
        return True


def fragments_for(loss: float) -> int:
    """The largest n with ``(n + 1) n loss / 2 <= 1 / 4``, between 2, the least that parity is for, and MAX_COUNT."""
    if loss <= 0:
        return MAX_COUNT
    exact = ((1 + 8 / (_GAIN * loss)) ** 0.5 - 1) / 2
    return max(2, min(MAX_COUNT, int(exact)))
