"""The tuned bounds on what others may make us do, each with its reason, and the bucket that holds rates."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

EPOCH_JUMP = 1 << 32
"""Epochs that one offer or answer may be ahead of the newest committed one. An end that lost its state catches up at
once (2^32 epochs are 136 years at one a second), and nobody can use up the 2^63 numbers: only a commit raises them."""
OWN_EPOCH_JUMP = 1 << 31
"""An offer of the peer's raises the number of our next one at most this far, so that ours is never too far for it."""

FETCH_BURST = 4
"""Offers in a row that may each cost a call to our KME: simultaneous starts, a restart and a retry ..."""
FETCH_RATE = 1.0
"""... and one a second after that: no schedule is quicker."""
FETCHES_IN_FLIGHT = 16
"""Keys being fetched for one peer: two offers of 8 sources each. A KME that hangs gets no more than these."""
KEYS_HELD = 64
"""Keys fetched for one peer and not yet committed: eight offers of 8 sources each; the 300 s of their life bound them
further."""

LOAD_FRAGMENTS = 300
"""Datagrams of first messages within a second that mean load: some 100 messages, 7 % of a core, half of what is read at
most. A hub of 1,000 peers has 25 a second with a schedule of 120 s; where all start at once, asking them for cookies
costs one round trip."""
CALM_FRAGMENTS = 100
"""So many a second or fewer, and load ends: a third, so that a steady rate does not make it come and go ..."""
LOAD_LASTS = 5.0
"""... after so many seconds, in which an initiator repeats its message twice."""
COOKIE_BURST = 200
"""Cookie replies at once, and ..."""
COOKIE_RATE = 10_000.0
"""... a second. One costs 15 us of CPU (measured), and 5 to send: at most 20 % of a core, and 6.4 Mbit/s towards
whoever's address was forged."""
FRAGMENT_BURST = 400
"""Datagrams of first messages with a valid cookie from one source under load: as many as its 50 messages have, ..."""
FRAGMENT_RATE = 160.0
"""... and those of its 20 messages a second. Who has one address turns the reassembly's memory over in 6 s."""
TELL_BURST = 50
"""Rejections that one way in tells of at once; telling of one costs as much as five rejections ..."""
TELL_RATE = 50.0
"""... and a second; the others are counted. The log has one in 10 s for each reason."""

UNPROVEN_BURST = 500
"""First messages whose sender is not known yet: half the peers of a hub of 1,000 that all start at once ..."""
UNPROVEN_RATE = 200.0
"""... and this many a second. To put one together and read it costs 0.72 ms of CPU (measured, ML-KEM-1024), so a flood
takes 15 % of one core at most."""
SOURCE_BURST = 50
"""First messages from one source, an IPv4 address or an IPv6 /64: as many gateways behind one NAT start at once ..."""
SOURCE_RATE = 20.0
"""... and this many a second: one source uses up no more than a tenth of what there is for all. Beyond it cookies are
asked for; with one there are as many again, which nobody can use up who only forges the address."""
SOURCES = 4096
"""Sources remembered, some 2 MB; one that is forgotten only begins with a full bucket again."""

OFFER_BURST = 8
"""Fresh offers of one peer that are answered: a few restarts in a row, a start at the same time, retries ..."""
OFFER_RATE = 2.0
"""... and this many a second, twice the quickest schedule. An answer costs 1.1 ms (measured, ML-KEM-1024), which only a
peer can cause: it takes 0.2 % of one core at most for it."""

OFFERS_REMEMBERED = 64
"""Replay times of offers that came and were not committed: a repeated one makes no second call to a KME."""
REPEAT_BURST = 16
"""Answers to copies of a first message of a peer's, and as many to copies of its commit, so that those of one use up
nothing of the other: the eight retransmissions of a message, twice over ..."""
REPEAT_RATE = 4.0
"""... and a second: the quickest retransmission is after 0.5 s. Whoever saw a message can send copies of it."""
RESPONSE_BURST = 8
"""Second messages read for one exchange, and ..."""
RESPONSE_RATE = 4.0
"""... a second. One costs 1.1 ms (measured, ML-KEM-1024); who sees the exchange can forge any number of them."""
EXCHANGES_REMEMBERED = 4
"""Ids of exchanges that a peer began, so that its retransmissions find it: of one under way, and of those before."""


@dataclass(slots=True)
class TokenBucket:
    """``burst`` at once, then ``rate`` a second. Starts full."""

    burst: float
    rate: float
    _tokens: float = -1.0
    _at: float = 0.0

    def has(self, now: float) -> bool:
        """Whether one more could pass at ``now`` (monotonic seconds); takes nothing."""
        if self._tokens < 0:
            self._tokens, self._at = self.burst, now
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = max(now, self._at)
        return self._tokens >= 1.0

    def take(self, now: float) -> bool:
        """Whether one more may pass at ``now`` (monotonic seconds)."""
        if not self.has(now):
            return False
        self._tokens -= 1.0
        return True


@dataclass(slots=True)
class TokenBuckets:
    """A bucket for each of at most ``most`` keys; the one not used for longest gives way."""

    burst: float
    rate: float
    most: int
    _buckets: dict[Hashable, TokenBucket] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._buckets)

    def has(self, key: Hashable, now: float) -> bool:
        """Whether one more of ``key`` could pass at ``now`` (monotonic seconds); remembers nothing."""
        bucket = self._buckets.get(key)
        return bucket is None or bucket.has(now)

    def take(self, key: Hashable, now: float) -> bool:
        """Whether one more of ``key`` may pass at ``now`` (monotonic seconds)."""
        bucket = self._buckets.pop(key, None) or TokenBucket(self.burst, self.rate)
        self._buckets[key] = bucket  # the dict's order is that of use
        if len(self._buckets) > self.most:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(now)
