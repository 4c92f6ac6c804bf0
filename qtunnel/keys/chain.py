"""The epoch chain: secrets of earlier epochs that go into later ones, so that old QKD entropy goes on protecting.

Both ends keep the secrets of the last two committed epochs. The initiator also keeps the one of an epoch whose commit
it sent but never saw confirmed: the next answer settles whether the peer has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qtunnel.crypto.kdf import Label, derive
from qtunnel.secret import Secret

CHAIN_ID_SIZE = 16
COMMITTED_KEPT = 2


@dataclass(frozen=True, slots=True)
class ChainLink:
    """One chain secret. id: its public name, 16 bytes. qkd: whether QKD keys are in it, from this or earlier epochs."""

    epoch: int
    id: bytes
    secret: Secret
    qkd: bool


def chain_id(secret: Secret, epoch: int) -> bytes:
    """The public name of a chain secret: 16 bytes."""
    with derive(secret, Label.EPOCH_CHAIN_ID, epoch.to_bytes(8, "big"), CHAIN_ID_SIZE) as name:
        return bytes(name.reveal())


def link(epoch: int, secret: Secret, *, qkd: bool) -> ChainLink:
    """A chain link over a secret of its own."""
    return ChainLink(epoch, chain_id(secret, epoch), secret, qkd)


class EpochChain:
    """The links one end holds for one peer, newest first."""

    def __init__(self) -> None:
        self._committed: list[ChainLink] = []
        self._doubtful: ChainLink | None = None

    @property
    def links(self) -> list[ChainLink]:
        """Newest first, the doubtful one included."""
        return ([self._doubtful] if self._doubtful else []) + self._committed

    @property
    def in_doubt(self) -> int:
        """The epoch that the other end may or may not have committed; 0 where there is none."""
        return 0 if self._doubtful is None else self._doubtful.epoch

    @property
    def secrets(self) -> Mapping[bytes, Secret]:
        return {held.id: held.secret for held in self.links}

    def choose(self, offered: Iterable[bytes]) -> ChainLink | None:
        """The newest link whose id the other end offers."""
        ids = set(offered)
        return next((held for held in self.links if held.id in ids), None)

    def doubt(self, new: ChainLink) -> None:
        """An epoch that the other end may or may not have committed."""
        if self._doubtful is not None:
            self._doubtful.secret.wipe()
        self._doubtful = new

    def settle(self, chosen: bytes | None) -> ChainLink | None:
        """What the peer's answer says of the doubtful epoch; returns it where the peer turns out to have it."""
        doubtful, self._doubtful = self._doubtful, None
        if doubtful is None:
            return None
        if doubtful.id == chosen:
            self._keep(doubtful)
            return doubtful
        doubtful.secret.wipe()
        return None

    def commit(self, new: ChainLink) -> None:
        """An epoch that both ends have; the one before the previous is wiped.

        A doubtful epoch stays in doubt where it is newer: its commit is still under way.
        """
        if self._doubtful is not None and self._doubtful.epoch <= new.epoch:
            if self._doubtful.id != new.id:
                self._doubtful.secret.wipe()
            self._doubtful = None
        self._keep(new)

    def _keep(self, new: ChainLink) -> None:
        self._committed.insert(0, new)
        for old in self._committed[COMMITTED_KEPT:]:
            old.secret.wipe()
        del self._committed[COMMITTED_KEPT:]

    def wipe(self) -> None:
        """Forget all."""
        for held in self.links:
            held.secret.wipe()
        self._committed, self._doubtful = [], None
