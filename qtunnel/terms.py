"""The words that both ends exchange, and that more than one room speaks: key references, policies, inventories."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, slots=True)
class KeyRef:
    """The public reference of a QKD key: the only thing of it that ever crosses to the peer.

    source: name of the key source, the same in both ends' configurations. key_id: the key_ID as the KME gave it.
    size: of the key, in bytes.
    """

    source: str
    key_id: str
    size: int

    @property
    def wire_size(self) -> int:
        """Bytes in a message (docs/protocol.md, Offer)."""
        return len(self.source.encode()) + len(self.key_id.encode()) + 4


STORE_SIZE = 8
MARK_SIZE = 8
"""Bytes of a key's mark in an acknowledgement: among the at most 1,024 keys of one reservoir two are alike once in
2^44, and then one key is taken for shared that is not, which the peer refuses by name when it is offered."""
MAX_ANNOUNCED = 16
"""Keys in one message: with UUIDs 0.9 kB, one datagram more. At the usual 120 s a reservoir of 64 fills in 8 min."""
MAX_ANNOUNCED_BYTES = 1200
"""Of their references: a message stays within its datagrams also where key_IDs are long."""
MAX_MARKS = 32
"""Marks in one message: what two announcements can bring."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one end tells the other in a message: its store, keys that it has fetched ahead, marks of the other's
    announced keys that it holds, and marks of keys of either that it has wiped, as their source raised an alarm."""

    store: bytes = bytes(STORE_SIZE)
    announced: tuple[KeyRef, ...] = ()
    held: tuple[bytes, ...] = ()
    withdrawn: tuple[bytes, ...] = ()


NOTHING = Inventory()
"""Of an end without a reservoir."""


class QkdPolicy(IntEnum):
    """Whether an epoch needs QKD keys. The numbers are those of the wire."""

    OFF = 0
    PREFERRED = 1
    REQUIRED = 2


class ChainPolicy(IntEnum):
    """Whether an epoch may start without the secret of an earlier one. The numbers are those of the wire."""

    RESET_ALLOWED = 0
    REQUIRED = 1


CHAIN_REMEDY = (
    "to begin a new chain, set chain: reset-allowed for this peer at both ends, reload, and set it back once there is "
    "an epoch"
)
"""What people have to do where a chain is required and lost: nothing that a gateway could decide by itself."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What one end demands of an epoch. min_sources: QKD sources that must contribute where any does."""

    qkd: QkdPolicy
    min_sources: int = 1
    chain: ChainPolicy = ChainPolicy.RESET_ALLOWED

    @property
    def words(self) -> str:
        """For people: ``required, at least 2 sources, chain required``."""
        sources = f", at least {self.min_sources} sources" if self.min_sources > 1 else ""
        chain = ", chain required" if self.chain is ChainPolicy.REQUIRED else ""
        return f"{self.qkd.name.lower()}{sources}{chain}"


RESERVOIR = 1 << 2
"""Capability bit of offers and answers: this end keeps keys agreed ahead."""
WITHDRAWALS = 1 << 3
"""Capability bit of offers and answers: this end reads which keys agreed ahead the other has withdrawn."""

RECORD_SUITES = {"aes-256-gcm": 1 << 1, "chacha20-poly1305": 1 << 0}
"""AEADs of the engine's record mode and their capability bits in offers and answers, the preferred one first."""


def record_suite(ours: int, theirs: int) -> str:
    """The AEAD of record mode by both ends' capabilities, empty for none. Unknown bits are ignored."""
    return next((name for name, bit in RECORD_SUITES.items() if ours & theirs & bit), "")
