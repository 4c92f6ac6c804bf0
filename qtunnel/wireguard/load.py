"""When this end is under load, and how many handshakes each source may then cost."""

from __future__ import annotations

from qtunnel.addresses import pack_address
from qtunnel.load import LoadGauge
from qtunnel.wireguard.endpoint import Endpoint

UNDER_LOAD_MESSAGES = 64
"""Handshake messages within a second that mean load. One costs about 0.5 ms of CPU, so this is 3 % of a core, and more
than 64 peers that rekey every second would need."""

UNDER_LOAD_TIME = 1.0
"""Seconds that the state lasts after its cause, as the kernel has it."""

RATE = 20.0
BURST = 5.0
"""Handshake messages per second and source under load, and how many at once: the kernel's ratelimiter."""

MAX_SOURCES = 8192
"""Sources remembered; beyond it new ones are refused, as the kernel does with a full table."""

SOURCE_LIFETIME = 1.0
"""Seconds after which a silent source has its full burst again, and need not be remembered."""


def gauge() -> LoadGauge:
    """The kernel has one bound, and no other to come down to."""
    return LoadGauge(UNDER_LOAD_MESSAGES, UNDER_LOAD_MESSAGES, UNDER_LOAD_TIME)


class RateLimiter:
    """A token bucket for each source: an IPv4 address or an IPv6 /64."""

    __slots__ = ("_buckets", "_forgotten")

    def __init__(self) -> None:
        self._buckets: dict[bytes, tuple[float, float]] = {}
        self._forgotten = float("-inf")

    def allow(self, endpoint: Endpoint, now: float) -> bool:
        packed = pack_address(endpoint[0])
        source = packed if len(packed) == 4 else packed[:8]
        known = self._buckets.get(source)
        if known is None:
            if len(self._buckets) >= MAX_SOURCES:
                self._forget(now)
            if len(self._buckets) >= MAX_SOURCES:
                return False
            known = (BURST, now)
        tokens = min(BURST, known[0] + (now - known[1]) * RATE)
        allowed = tokens >= 1.0
        self._buckets[source] = (tokens - 1.0 if allowed else tokens, now)
        return allowed

    def _forget(self, now: float) -> None:
        if now - self._forgotten < SOURCE_LIFETIME:  # a full table must not cost a walk for every message
            return
        self._forgotten = now
        self._buckets = {s: b for s, b in self._buckets.items() if now - b[1] < SOURCE_LIFETIME}
