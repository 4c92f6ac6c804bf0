"""TAI64N timestamps (cr.yp.to/libtai/tai64.html), by which WireGuard and our exchanges tell old messages from new."""

from __future__ import annotations

_TAI64_BASE = (1 << 62) + 10
"""TAI64 label of the Unix epoch (TAI was 10 s ahead of UTC in 1970)."""


def tai64n(unix_ns: int) -> bytes:
    """TAI64N of a Unix time in nanoseconds: 8 bytes of seconds, 4 of nanoseconds, big-endian, so that they compare as
    bytes."""
    seconds, nanoseconds = divmod(unix_ns, 1_000_000_000)
    return (_TAI64_BASE + seconds).to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")
