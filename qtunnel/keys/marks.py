"""Keyed marks of keys: by them a key is known again, and from them nobody learns anything of it. Pure.

Two memories are made of them, and neither can stand for the other:

- ``SeenKeys`` (quality.py) is about a *source*: the same bits under two names are a fault of whoever delivers them. The
  shell asks it as soon as a key arrives, so that the fault is booked and another source stands in. It remembers keys
  that nobody took as well. The same key under the same name is no fault: we may have asked twice.
- ``UsedKeys`` (used.py) is about *use*: the core takes a key once, whoever was at fault, by its reference towards a
  peer as well as by its bits.
"""

from __future__ import annotations

import hmac

from qtunnel.secret import RandomBytes, Secret

KEY_SIZE = 32


class Marks:
    """Marks of ``size`` bytes under a secret of this object's own, which lives as long."""

    __slots__ = ("_mac", "_size")

    def __init__(self, secret: Secret, size: int) -> None:
        self._mac, self._size = hmac.new(bytes(secret.reveal()), digestmod="sha512"), size

    @classmethod
    def fresh(cls, random_bytes: RandomBytes, size: int) -> Marks:
        return cls(Secret.random(random_bytes, KEY_SIZE), size)

    def of_name(self, *parts: str) -> bytes:
        """Of a reference: source and key_ID."""
        return self._mark(b"ref", *(part.encode() for part in parts))

    def of_key(self, key: Secret) -> bytes:
        """Of a key's bits."""
        return self._mark(b"key", key.reveal())

    def _mark(self, kind: bytes, *parts: bytes | memoryview) -> bytes:
        mac = self._mac.copy()
        mac.update(kind)
        for part in parts:
            mac.update(len(part).to_bytes(4, "big"))
            mac.update(part)
        return mac.digest()[: self._size]
