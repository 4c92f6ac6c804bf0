"""No QKD key twice: a memory of the keys that the core took, without the keys. What it is beside ``SeenKeys`` stands in
marks.py."""

from __future__ import annotations

from qtunnel.keys.marks import Marks
from qtunnel.secret import RandomBytes, Secret
from qtunnel.terms import KeyRef

REMEMBERED = 16_384
"""Keys of all peers together, where they are few: three weeks of one that rekeys every 120 s, in some 3 MB."""
OF_EACH_PEER = 512
"""Keys of each peer, where they are many: 17 hours at one in 120 s. A key costs 170 bytes (measured), so a hub of 1,000
peers takes 87 MB at most, and reaches that after those 17 hours."""
_MARK = 8
"""Bytes. They are keyed, so that only chance makes a new key look like one that came before: once in 2^44 at a hub of
1,000 peers."""


class UsedKeys:
    """Every key that a gateway took in its lifetime, by keyed marks.

    Each peer has a share of the memory, in which the oldest go first: one that rekeys often makes room for its own keys
    alone. Bits are news only where no peer had them.
    """

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._marks = Marks.fresh(random_bytes, _MARK)
        self._of: dict[str, dict[bytes, bytes]] = {}
        """By peer: marks of references, each with that of the bits."""
        self._bits: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._bits)

    def admit(self, peer: str, ref: KeyRef, key: Secret, peers: int = 1) -> bool:
        """Note a key that arrived. False where its reference (towards this peer) or its bits came before. peers: how
        many share the memory."""
        reference, bits = self._marks.of_name(ref.source, ref.key_id), self._marks.of_key(key)
        its = self._of.setdefault(peer, {})
        if reference in its or bits in self._bits:
            return False
        its[reference] = bits
        self._bits.add(bits)
        share = max(OF_EACH_PEER, REMEMBERED // max(1, peers))
        while len(its) > share:
            self._bits.discard(its.pop(next(iter(its))))
        return True

    def forget(self, peer: str) -> None:
        """That peer is gone for good, and its share with it."""
        self._bits.difference_update(self._of.pop(peer, {}).values())
