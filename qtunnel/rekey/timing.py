"""The tuned times of an exchange, each with its reason, and the small clocks that use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PENDING_LIMIT = 90.0
"""Seconds that an unfinished exchange lives at the responder, from message 1: half of the 180 s for which WireGuard
lets a session go on, so that a second exchange can put things right before traffic stops."""
COMMIT_LIMIT = 45.0
"""Seconds that the initiator waits for the confirmation of a commit: WireGuard asks for a new session after 120 s of
180, and within the 60 s between a peer that forgot the exchange (it was restarted) is to be asked anew."""
ATTEMPT_LIMIT = 30.0
"""Seconds to wait for an answer before a new attempt with fresh ephemerals: covers a peer whose KME takes 10 s."""
UNANSWERED_AFTER = 6.0
"""Seconds without an answer that are worth a word before the attempt is over: longer than the 5 s for which a peer
waits for its KME by default, so that a slow KME over there is no false alarm."""
FETCH_LIMIT = 30.0
"""Seconds for all key sources to answer; drivers time out earlier, this ends a driver that does not."""
FIRST_RETRANSMIT = 0.5
"""Seconds; above the round trip between continents (0.3 s), so that a clean link sees no retransmission."""
LONGEST_RETRANSMIT = 8.0
"""Seconds; keeps nine tries within COMMIT_LIMIT."""
RETRANSMIT_JITTER = 0.25
"""Part of a gap by which it is shorter or longer: a thousand peers that begin in one moment, as after a power cut, must
not come again in one moment. The shortest gap stays above the round trip between continents."""
REPLACED_KEPT = 200.0
"""Seconds that a replaced epoch is still described: WireGuard ends a session after 180 s, and a handshake under way
may begin one with the previous key some seconds after the change."""
RESTART_AFTER_DEFECT = 60.0
"""Seconds until a peer for whom the code failed is tried again: quick enough to heal, too slow to fill the log."""
KEY_LIFETIME = 300.0
"""Seconds that a key waits for an exchange to succeed; the shortest retention that common KMEs promise is longer."""
GRACE_AT_START = 3.0
"""Seconds that the end which is not the initiator by rule waits for the other before it begins itself."""
CLOCK_DOUBT = 60.0
"""Seconds that a new offer may be older than the newest committed one without a word about clocks: more than what the
network delays, and what an offer of before a restart may be late."""
CLOCK_INSISTS = 3
"""New offers in a row that are so old, before it is put down to a clock: a single one is what anybody has recorded who
ever saw one that was not agreed on. They have to be as much later than each other as they came later ..."""
CLOCK_SLACK = 30.0
"""... but for so many seconds, for which a message is sent again until it arrives (ATTEMPT_LIMIT)."""
OFFER_HOLD = 10.0
"""Seconds that we hold our own offer back while an exchange of the peer's is under way."""
INSIST_TIME = 2.0
"""Seconds for which our own offer goes before one of the peer's that comes meanwhile: three tries and a round trip."""
THROWN_PAUSE = 0.5
"""Part of the interval until keys are fetched ahead in place of those that the peer had us throw away: they are there
for the next rekey, and a peer that goes on so, rekey after rekey, costs two messages' worth in an interval."""
RELAXED_GRACE = 15.0
"""Seconds that a key lives past max_age while ``on_expiry: pqc-only`` tries to replace it: five retransmissions."""


def seconds_between(earlier: bytes, later: bytes) -> int:
    """From one TAI64N to another, without the nanoseconds; negative where they are the other way round."""
    return int.from_bytes(later[:8], "big") - int.from_bytes(earlier[:8], "big")


def grow(clock: bytes, last: bytes) -> bytes:
    """max(clock, last + 1): a replay time that only grows, whatever the clock does."""
    if clock > last:
        return clock
    seconds, nanoseconds = int.from_bytes(last[:8], "big"), int.from_bytes(last[8:], "big") + 1
    seconds, nanoseconds = seconds + nanoseconds // 1_000_000_000, nanoseconds % 1_000_000_000
    return seconds.to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")


@dataclass(slots=True)
class Retransmitter:
    """A message that is sent again with doubling gaps until ``limit`` (monotonic seconds).

    fraction: gives random numbers, 0 <= x < 1.
    """

    datagrams: tuple[bytes, ...]
    limit: float
    fraction: Callable[[], float]
    next: float = 0.0
    gap: float = FIRST_RETRANSMIT

    @classmethod
    def start(cls, datagrams: list[bytes], now: float, lifetime: float, fraction: Callable[[], float]) -> Retransmitter:
        made = cls(tuple(datagrams), now + lifetime, fraction)
        made._plan(now)
        return made

    def _plan(self, now: float) -> None:
        self.next = now + self.gap * (1 + RETRANSMIT_JITTER * (2 * self.fraction() - 1))

    @property
    def deadline(self) -> float:
        """When something is to be done."""
        return min(self.next, self.limit)

    def due(self, now: float, *, pressed: bool = False) -> bool:
        """Whether to send again now; moves on if so. pressed: an end is known to be flooded, and loses most of what
        comes, so that patience would be in vain: gaps stay short."""
        if now < self.next:
            return False
        self.gap = FIRST_RETRANSMIT if pressed else min(self.gap * 2, LONGEST_RETRANSMIT)
        self._plan(now)
        return True

    def over(self, now: float) -> bool:
        return now >= self.limit
