"""How large records are: as large as they come on a clean link, smaller and with parity where datagrams are lost.

A record of ``n`` fragments and parity is lost when two of its datagrams are: at a loss of ``p`` with the chance
``(n + 1) n p^2 / 2``. That share of the inner packets is lost, n side by side. Of what a record costs besides
its bytes, the parity datagram and the work for it, each packet bears 1/n. So where the processor is the bound, records
are as large as a loss clearly below the link's allows. Where loss is the bound, they are smaller: TCP's rate goes with
the inverse square root of how often it loses something, for each packet ``(n + 1) p^2 / 2``.
"""

from __future__ import annotations

from typing import Final

from qtunnel.wireguard.record_format import MAX_COUNT

MIN_SAMPLE: Final = 1000
"""Datagrams that a measurement needs: of fewer, one lost one would say more than 0.1 % of loss."""

MIN_LOST: Final = 10
"""Or datagrams lost, which tell the loss to a third: at 5 % and 500 datagrams a second in half a second."""

ALARM: Final = 1 / 2
CALM: Final = 1 / 16
"""Shares by which the estimate follows a measurement that is worse than chance explains, and any other. With ten
measurements a second, loss is met within a third of a second, and one percent is forgotten after 10 s: a link with
bursts of loss is not believed too soon. Were chance followed by half upwards, 1 % would be taken for 2 %."""

CHANCE: Final = 3.0
"""Standard deviations, and datagrams besides, that chance explains: one measurement in 1,000 has more."""

PARITY_LOSS: Final = 2e-5
"""Loss from which a parity datagram pays. It costs 2 % of a full record's datagrams and 5 % of its CPU time; without it
each lost datagram costs 45 packets, which halves what one TCP flow gets, from about here on."""

FIRST_GUESS: Final = 2e-3
"""What is believed at most before parity shows whether datagrams are lost one by one or records whole: such records
have 21 fragments, of which up to 10 % of loss leaves enough to heal. The next measurement goes on from there."""

DOUBLING_LOSS: Final = 1e-3
"""Loss from which records of one datagram are sent twice. Their parity is as large as they are; with fewer losses TCP
without parity, too, keeps 40 packets under way."""

DOUBLED: Final = 2000
DOUBLED_AT_ONCE: Final = 32
"""Such records a second, and without a pause between them: 2 % of a processor, at most 24 Mbit/s. TCP that loss holds
back sends no more of them."""

SMALL: Final = 128
SMALL_COUNTS: Final = 4
"""Bytes up to which one counts as so many: mostly acknowledgments of TCP, each of which says what those before it said.
A fast flow has thousands a second, with which the processor has enough to do."""

BUSY: Final = 8_000
"""Fragments a second from which the processor may be the bound: half of what one of 2017, at its slowest, carries in
standard mode over a link that takes no bursts."""

THIN: Final = 3_000
"""Fragments a second below which it is not: so far below BUSY that a rate which halves now and then changes nothing."""

BUSY_LOSS: Final = 1 / 2
THIN_LOSS: Final = 1 / 8
"""Share of the link's loss that the inner packets see at most. Measured at 1 %, on 62 kB both engines spend 0.5 ms with
1/2, nine fragments, and nearly 1 ms with 1/8, four, besides the kernel's work. At 1/1 parity would only save TCP's
reactions, not a byte that is sent again."""


class RecordSizer:
    """Sizes by the share of datagrams lost and by how many there are."""

    def __init__(self) -> None:
        self.loss = 0.0
        """Estimated share of datagrams lost, 0 to 1."""
        self.busy = True
        """Whether the processor is taken for the bound, not the loss."""
        self.count = MAX_COUNT
        """Fragments that a record may have."""
        self.parity = False
        self._doubling = 0.0

    def measured(self, expected: int, received: int) -> bool:
        """Take in a measurement, if it is large enough to mean anything; whether it was."""
        if not 0 <= received <= expected or (expected < MIN_SAMPLE and expected - received < MIN_LOST):
            return False
        lost, usual = expected - received, expected * self.loss
        worse = lost - usual > CHANCE * (1 + usual**0.5)
        loss = self.loss + (lost / expected - self.loss) * (ALARM if worse else CALM)
        self.believe(loss if self.parity else min(loss, FIRST_GUESS))
        return True

    def believe(self, loss: float) -> None:
        """That share of the datagrams is lost."""
        self.loss = loss
        self.parity = loss >= PARITY_LOSS
        self.count = fragments_for(loss, BUSY_LOSS if self.busy else THIN_LOSS) if self.parity else MAX_COUNT

    def carries(self, rate: float) -> None:
        """So many fragments a second go out."""
        busy = rate > THIN if self.busy else rate > BUSY
        if busy is not self.busy:
            self.busy = busy
            self.believe(self.loss)

    def doubles(self, length: int, now: float) -> bool:
        """Whether to send a record of one datagram, with ``length`` bytes of plaintext, twice; where so it is counted.

        now: monotonic seconds.
        """
        if self.loss < DOUBLING_LOSS or self._doubling > now + DOUBLED_AT_ONCE / DOUBLED:
            return False
        self._doubling = max(self._doubling, now) + (SMALL_COUNTS if length <= SMALL else 1) / DOUBLED
        return True


def fragments_for(loss: float, share: float) -> int:
    """The largest n with ``(n + 1) n loss / 2 <= share``, between 2, the least that parity is for, and MAX_COUNT."""
    if loss <= 0:
        return MAX_COUNT
    exact = ((1 + 8 * share / loss) ** 0.5 - 1) / 2
    return max(2, min(MAX_COUNT, int(exact)))
