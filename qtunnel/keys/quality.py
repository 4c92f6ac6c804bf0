"""Keys that cannot be of a QKD system that works: constant, repeating, counting, or delivered under two names. Pure.

A test of randomness this is not. It finds what broken devices and servers were seen to deliver, and takes a random key
for such a one less than once in 2^60.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import groupby

from qtunnel.keys.marks import Marks
from qtunnel.secret import Secret

FEWEST_BYTES = 16
"""A key is at least as long; shorter ones would be refused by chance."""
RUN = 12
"""The same byte so often in a row: what a buffer that was filled in part has behind the key. Of 64 KiB, the longest key
of any driver, a random one has it once in 2^72."""
_HEX = frozenset(b"0123456789abcdefABCDEF")
_MARK = 16
"""Bytes: a random key is taken for one of those remembered once in 2^114."""
REMEMBERED = 16_384
"""Keys by whose marks a repeated one is known: a day of 22 tunnels that rekey every 120 s, in about 2 MB."""


def defect(key: Secret) -> str | None:
    """In words, what gives a key away that is no random one; ``None`` where nothing does.

    Found are: one byte over and over, or ``RUN`` times in a row; a block of up to half of the key over and over; bytes
    that count up or down by the same step; and of 32 bytes or more those of which at most 8 differ, and text in
    hexadecimal, which has half of the bits that it seems to have.
    """
    data = key.reveal()
    size = len(data)
    if size < FEWEST_BYTES:
        return f"it has {size} bytes, and a key has {FEWEST_BYTES} at least"
    if not any(data):
        return "it is all zeros"
    for period in range(1, size // 2 + 1):
        if data[period:] == data[:-period]:
            return "it is one byte over and over" if period == 1 else f"it repeats itself after {period} bytes"
    step = (data[1] - data[0]) % 256
    if all((data[i + 1] - data[i]) % 256 == step for i in range(size - 1)):
        return f"its bytes count by {step}"
    if max(sum(1 for _ in its) for _, its in groupby(data)) >= RUN:
        return f"one byte is in it {RUN} times in a row"
    different = set(data)
    if size >= 32 and len(different) <= 8:
        return f"only {len(different)} different bytes are in it"
    if size >= 32 and different <= _HEX:
        return "it is text in hexadecimal"
    return None


class SeenKeys:
    """Which keys were delivered, by keyed marks, to find a source that gives the same one out under two names. Whether
    a key may be used is not its matter: see marks.py.

    secret: 32 random bytes of the process's own, kept for the life of this object.
    """

    def __init__(self, secret: Secret, remembered: int = REMEMBERED) -> None:
        self._marks, self._remembered = Marks(secret, _MARK), remembered
        self._names: OrderedDict[bytes, str] = OrderedDict()

    def taken_for(self, key_id: str, key: Secret) -> str | None:
        """Remember the key; the key_ID under which the same bytes came before, where that was another one.

        The same key under the same key_ID is no fault of the source: a responder may ask twice for what the peer
        offered twice. It is used once all the same.
        """
        before = self._names.setdefault(self._marks.of_key(key), key_id)
        while len(self._names) > self._remembered:
            self._names.popitem(last=False)
        return before if before != key_id else None
