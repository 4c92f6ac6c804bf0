"""No QKD key twice: a memory of the keys that came, without the keys."""

from __future__ import annotations

import hmac

from qtunnel.secret import RandomBytes, Secret
from qtunnel.terms import KeyRef

REMEMBERED = 16_384
"""Keys; at 2 digests of 16 bytes each some 4 MB, and at one rekey in 120 s a day of 20 peers."""
_DIGEST = 16


class UsedKeys:
    """Every key that a gateway got in its lifetime, as keyed digests under a key that lives as long: from them nobody
    learns anything of a QKD key. The oldest go first."""

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._key = random_bytes(32)
        self._seen: dict[bytes, None] = {}

    def _digest(self, kind: bytes, *parts: bytes | memoryview) -> bytes:
        mac = hmac.new(self._key, kind, "sha512")
        for part in parts:
            mac.update(len(part).to_bytes(4, "big"))
            mac.update(part)
        return mac.digest()[:_DIGEST]

    def admit(self, peer: str, ref: KeyRef, key: Secret) -> bool:
        """Note a key that arrived. False where its reference (towards this peer) or its bits came before."""
        reference = self._digest(b"ref", peer.encode(), ref.source.encode(), ref.key_id.encode())
        bits = self._digest(b"key", key.reveal())
        if reference in self._seen or bits in self._seen:
            return False
        self._seen[reference] = self._seen[bits] = None
        while len(self._seen) > 2 * REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True
