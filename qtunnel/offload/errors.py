"""What this room raises."""

from __future__ import annotations


class OffloadError(ValueError):
    """Bytes that are not the packet or the header they should be; the message names what is wrong."""
