"""Keys of the size that is wanted out of keys of the only size that a KME serves. Pure.

Both ends do the same: as many whole keys as it takes, one after the other, of which the first bytes are used. The
reference of such a key names all of them, with ``+`` between their key_IDs.
"""

from __future__ import annotations

from collections.abc import Sequence

from qtunnel.errors import KeyRequestRejectedError, KeySourceProtocolError
from qtunnel.keys.source import KeyRef
from qtunnel.secret import Secret

JOINT = "+"

MAX_PIECES = 6
"""Keys that make one: the reference takes 255 bytes on the wire, and a UUID 36."""

MAX_REFERENCE = 255
"""Bytes of a reference on the wire."""


class Pieces:
    """served: bits of the only size that the KME has; ``None`` where it has any."""

    def __init__(self, served: int | None) -> None:
        self._served = served

    def bits(self, size: int) -> int:
        """The size to ask the KME for, in bits, for a key of ``size`` bytes."""
        return self._served or 8 * size

    def count(self, size: int) -> int:
        """How many of them make the key."""
        return -(-8 * size // self.bits(size))

    def checked_count(self, place: str, call: str, size: int) -> int:
        """The same; raises ``KeyRequestRejectedError`` where they are too many."""
        count = self.count(size)
        if count > MAX_PIECES:
            each = f"keys of {self._served} bits (key_size)"
            what = f"{8 * size} bits would take {count} {each}, and {MAX_PIECES} are allowed"
            raise KeyRequestRejectedError(place, call, what)
        return count

    def key_ids(self, ref: KeyRef) -> list[str]:
        """The key_IDs that a reference names."""
        return [ref.key_id] if self.count(ref.size) == 1 else ref.key_id.split(JOINT)

    def joined(self, place: str, keys: Sequence[tuple[str, Secret]], size: int) -> list[tuple[str, Secret]]:
        """Keys of ``size`` bytes out of the KME's, which the caller wipes; raises ``KeySourceProtocolError``."""
        count = self.count(size)
        made = []
        for start in range(0, len(keys) - count + 1, count):
            key_ids = [key_id for key_id, _ in keys[start : start + count]]
            name = JOINT.join(key_ids)
            if count > 1 and (len(name) > MAX_REFERENCE or any(JOINT in key_id for key_id in key_ids)):
                what = f"its key_IDs do not fit together into one reference of {MAX_REFERENCE} characters; see key_size"
                raise KeySourceProtocolError(place, "enc_keys", what)
            buffer = bytearray().join(key.reveal() for _, key in keys[start : start + count])
            made.append((name, Secret(memoryview(buffer)[:size])))
            buffer[:] = bytes(len(buffer))
        return made
