"""A pad file: its header, which is the same at both ends, and its imprint, which is this copy's own. Pure.

Numbers are big-endian. Offsets of keys count from the end of the header.

=========  =====  =================================================================================
from       bytes  what
=========  =====  =================================================================================
0          8      magic, ``QTUNPAD`` and a zero
8          2      version, 1
10         2      zero
12         16     pad id, random
28         8      bytes of random data
36         8      of these, how many side ``a`` draws from; the others are those of side ``b``
44         32     SHA-256 of what stands before
512        4      imprint: ``USED``; all of it is zero until the copy is used for the first time
516        4      side, 1 for ``a`` and 2 for ``b``
520        8      generation: how often this copy was opened to draw keys from it
528        16     mark, random, of that opening
544        32     SHA-256 of the header's first 76 bytes and of the imprint's first 32
4096              random data
=========  =====  =================================================================================

The imprint has a sector of its own, so that a power cut while it is written spares the header.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Literal

from qtunnel.errors import PadError

Side = Literal["a", "b"]
Range = tuple[int, int]
"""From the first offset to the one after the last."""

MAGIC = b"QTUNPAD\0"
VERSION = 1
HEADER_SIZE = 4096
IMPRINT_AT = 512
IMPRINT_SIZE = 64
MIN_PAD = 4096
"""Bytes of random data: less than a hundred keys are a mistake in the unit."""
MAX_PAD = 1 << 44
"""16 TiB; a larger number can only come from a damaged header."""

_HEADER = struct.Struct(">8sHH16sQQ")
_IMPRINT = struct.Struct(">4sI Q16s")
_USED = b"USED"
_SIDES: dict[int, Side] = {1: "a", 2: "b"}
_DIGEST = 32


def other(side: Side) -> Side:
    return "b" if side == "a" else "a"


@dataclass(frozen=True, slots=True)
class PadInfo:
    """What both copies of a pad have in common. pad_id: 32 hex digits. size, share_a: bytes."""

    pad_id: str
    size: int
    share_a: int

    def lane(self, side: Side) -> Range:
        """The part that this side draws its keys from, upwards. The two never meet."""
        return (0, self.share_a) if side == "a" else (self.share_a, self.size)

    def encode(self) -> bytes:
        """The whole header, with an imprint that is blank."""
        head = _HEADER.pack(MAGIC, VERSION, 0, bytes.fromhex(self.pad_id), self.size, self.share_a)
        return (head + hashlib.sha256(head).digest()).ljust(HEADER_SIZE, b"\0")

    @classmethod
    def decode(cls, data: bytes | bytearray) -> PadInfo:
        """From the first bytes of a file; raises ``PadError``."""
        head = bytes(data[: _HEADER.size])
        if not head.startswith(MAGIC):
            raise PadError("is not a pad; make one with: qtunnel pad new FILE --size 1GB")
        digest = bytes(data[_HEADER.size : _HEADER.size + _DIGEST])
        if len(head) < _HEADER.size or digest != hashlib.sha256(head).digest():
            raise PadError("its header is damaged; take a new pad")
        _, version, zero, pad_id, size, share_a = _HEADER.unpack(head)
        if version != VERSION or zero:
            raise PadError(f"is a pad of version {version}, and this qtunnel knows version {VERSION}")
        if not (MIN_PAD <= size <= MAX_PAD and share_a <= size):
            raise PadError("its header has sizes that cannot be")
        return cls(pad_id.hex(), size, share_a)


@dataclass(frozen=True, slots=True)
class Imprint:
    """Who used this copy last. mark: 16 random bytes, which also stand in the ledger."""

    side: Side
    generation: int
    mark: bytes

    def encode(self, info: PadInfo) -> bytes:
        body = _IMPRINT.pack(_USED, 1 if self.side == "a" else 2, self.generation, self.mark)
        return body + _digest(info, body)

    @classmethod
    def decode(cls, data: bytes | bytearray, info: PadInfo) -> Imprint | None:
        """``None`` for a copy that was never used; raises ``PadError`` for one that is damaged."""
        if not any(data):
            return None
        body, digest = bytes(data[: _IMPRINT.size]), bytes(data[_IMPRINT.size : IMPRINT_SIZE])
        if len(data) != IMPRINT_SIZE or digest != _digest(info, body):
            raise PadError("the record of its last use is damaged; take a new pad")
        used, side, generation, mark = _IMPRINT.unpack(body)
        if used != _USED or side not in _SIDES:
            raise PadError("the record of its last use is none of this version; take a new pad")
        return cls(_SIDES[side], generation, mark)


def _digest(info: PadInfo, body: bytes) -> bytes:
    return hashlib.sha256(info.encode()[: _HEADER.size + _DIGEST] + body).digest()
