"""As much as WireGuard looks at of an IP packet: its version and its own length."""

from __future__ import annotations

from typing import Final

IPV4_HEADER: Final = 20
IPV6_HEADER: Final = 40


def ip_length(data: memoryview, offset: int, size: int) -> int:
    """Bytes of the IP packet that begins ``data[offset : offset + size]``, by its own header; 0 where it is none, or
    claims more than is there."""
    version = data[offset] >> 4 if size else 0
    if version == 4 and size >= IPV4_HEADER:
        length = data[offset + 2] << 8 | data[offset + 3]
        return length if IPV4_HEADER <= length <= size else 0
    if version == 6 and size >= IPV6_HEADER:
        length = (data[offset + 4] << 8 | data[offset + 5]) + IPV6_HEADER
        return length if length <= size else 0
    return 0
