"""The Internet checksum (RFC 1071) of one packet, and of many of the same length at once.

A sum is kept unfolded: everything is modulo 65,535, of which 65,536 is 1. So a big-endian number of any size is, modulo
65,535, the sum of its 16-bit words, and the sum of byte-swapped words is the swapped sum (RFC 1071 section 2 B).
"""

from __future__ import annotations

import struct
import sys
from typing import Final

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
Bytes = bytes | bytearray | memoryview

MODULUS: Final = 0xFFFF

_NUMPY_FROM: Final = 2048
"""Bytes from which numpy's sum is faster than one division of a long integer: 2.2 us each, measured."""

_write = struct.Struct(">H").pack_into

_MULTIPLE: Final = MODULUS << 16
"""A multiple of the modulus greater than any sum of 65,535 bytes, for subtracting without going below 0."""

_MODULI: Final = np.array(MODULUS, np.uint32)
_MULTIPLES: Final = np.array(_MULTIPLE, np.uint32)
"""Operands as arrays: numpy takes 1 us to make one of a Python number, more than the operation on 45 sums takes."""

if sys.byteorder != "little":  # rows are summed as words of the machine, and constants swapped to match
    raise ImportError("qtunnel.offload needs a little-endian machine")


def swap(value: int) -> int:
    """A 16-bit number with its bytes exchanged."""
    return (value >> 8) | (value & 0xFF) << 8


def total(data: Bytes) -> int:
    """Sum of big-endian words, 0 to 65,534; an odd last byte counts as the high one."""
    size = len(data)
    if size < _NUMPY_FROM:
        value = int.from_bytes(data, "big") % MODULUS
        return (value << 8) % MODULUS if size & 1 else value
    words = int(np.add.reduce(np.frombuffer(data, "<u2", size // 2), dtype=np.uint64))
    if size & 1:
        words += data[size - 1]
    return swap(words % MODULUS)


def pseudo_header(packet: Bytes, version: int, protocol: int, length: int) -> int:
    """Sum of the addresses of the IP packet, the protocol and the length of what it carries (RFC 9293 section 3.1,
    RFC 8200 section 8.1)."""
    addresses = packet[12:20] if version == 4 else packet[8:40]
    return (int.from_bytes(addresses, "big") + protocol + length) % MODULUS


def finish(packet: bytearray | memoryview, csum_start: int, csum_offset: int) -> None:
    """Complete a partial checksum in place: the field holds the pseudo-header's sum. Positions were checked.

    A result of 0 is written as 0xffff, which is the same and, for UDP, does not mean "none" (as the kernel does).
    """
    _write(packet, csum_start + csum_offset, MODULUS - total(packet[csum_start:]))


class Rows:
    """Sums over rows of ``width`` bytes, ``stride`` bytes apart from ``offset`` of a buffer.

    Sums are of little-endian words, unfolded: ``swap`` what is compared with them. An even width at an even stride
    is fastest: adding words up in 32 bits does 12 bytes per ns.
    """

    __slots__ = ("_last", "_words")

    def __init__(self, buffer: bytearray, offset: int, stride: int, count: int, width: int) -> None:
        self._words = np.ndarray((count, width // 2), np.dtype("<u2"), buffer, offset, (stride, 2))
        self._last = np.ndarray((count,), np.uint8, buffer, offset + width - 1, (stride,)) if width & 1 else None

    def sums(self, start: int, end: int) -> U32:
        """Of rows ``start`` to ``end``, which is not included."""
        sums: U32 = np.add.reduce(self._words[start:end], axis=1, dtype=np.uint32)
        if self._last is not None:
            sums += self._last[start:end]
        return sums


def remainders(sums: U32) -> U32:
    """The sums modulo 65,535, in place."""
    return np.remainder(sums, _MODULI, out=sums)


def complements(sums: U32, zero: bool) -> U32:
    """The checksums of sums (little-endian words), in place.

    ``zero``: whether a checksum may be 0; UDP's may not (RFC 768), and has 0xffff there.
    """
    if zero:
        np.subtract(_MULTIPLES, sums, out=sums)
        return remainders(sums)
    return np.subtract(_MODULI, remainders(sums), out=sums)
