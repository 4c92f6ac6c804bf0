"""Super-packets that a kernel refuses at its TUN, though the TUN's flags promise it takes them.

Some kernels take none. Others, such as Linux 6.6.44, take none of certain sizes and all others, so that a refusal by
itself is no reason to do without.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from qtunnel.offload import vnet

Buffers = Sequence[memoryview | bytes | bytearray]
"""For one ``os.writev``: a vnet header, alone or with what follows it, then the rest of the packet."""

JUDGED: Final = 32
"""Super-packets after a refusal that show whether they are worth it: 2 MB of bulk traffic, some 10 ms."""

TOO_MANY: Final = JUDGED // 2
"""Refused ones of these. About where it comes out even: one that is refused costs a call and the cutting besides the
writes of its packets, one that is taken saves most of those. Reckoned, not measured, for want of such a kernel."""

_GSO_TYPE_AT: Final = 1
_GSO_SIZE: Final = slice(4, 6)


def is_super(buffers: Buffers) -> bool:
    return buffers[0][_GSO_TYPE_AT] != vnet.GSO_NONE


def made_here(buffers: Buffers) -> bool:
    """Whether it is a super-packet that this process has just put together: from what a peer made up itself, nothing
    follows about the kernel. (A worker's count as little; the bursts too small for workers tell enough.)"""
    return len(buffers) > 1 and is_super(buffers)


class Refusals:
    """Counts, from the first refusal on."""

    def __init__(self) -> None:
        self._written = self._refused = 0

    def writev(self, descriptor: int, buffers: Buffers) -> int:
        """``os.writev``, counted."""
        self._written += made_here(buffers)
        return os.writev(descriptor, buffers)

    def refused(self, buffers: Buffers) -> bool:
        """These were refused; whether too many were lately, upon which counting begins anew."""
        if not made_here(buffers):
            return False
        if self._written > JUDGED:
            self._written = self._refused = 0
        self._refused += 1
        if self._refused < TOO_MANY:
            return False
        self._written = self._refused = 0
        return True


def as_single(piece: memoryview) -> memoryview:
    """A piece of one segment; where the whole had no more it comes as it was, and its header still has a GSO type."""
    if piece[_GSO_TYPE_AT]:
        piece[_GSO_TYPE_AT] = vnet.GSO_NONE
        piece[_GSO_SIZE] = bytes(2)
    return piece
