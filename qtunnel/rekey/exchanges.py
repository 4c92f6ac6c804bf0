"""Which peers an exchange id belongs to. Ids of ours and ids of peers are kept apart, and one that several peers have
chosen is an exchange of each: it is there for everybody to see, so nobody can have it for itself."""

from __future__ import annotations

from collections import deque

from qtunnel.rekey.limits import EXCHANGES_REMEMBERED


class Exchanges:
    """Exchange ids to peers' names: of our exchange under way with each, and of each one's latest with us."""

    def __init__(self) -> None:
        self._ours: dict[bytes, str] = {}
        self._under_way: dict[str, bytes] = {}
        self._theirs: dict[bytes, tuple[str, ...]] = {}
        self._latest: dict[str, deque[bytes]] = {}

    def of_ours(self, exchange: bytes) -> str | None:
        """The peer with which we began this exchange, where it is under way."""
        return self._ours.get(exchange)

    def of_theirs(self, exchange: bytes) -> tuple[str, ...]:
        """The peers that began an exchange of this id; each its own."""
        return self._theirs.get(exchange, ())

    def set_ours(self, peer: str, exchange: bytes | None) -> None:
        """Our exchange under way with ``peer``; None where there is none."""
        before = self._under_way.pop(peer, None)
        if before is not None:
            self._ours.pop(before, None)
        if exchange is not None:
            self._under_way[peer] = exchange
            self._ours[exchange] = peer

    def add_theirs(self, peer: str, exchange: bytes) -> None:
        """``peer``, which has proven who it is, has begun this exchange; its oldest is forgotten."""
        owners = self.of_theirs(exchange)
        if peer in owners:
            return
        latest = self._latest.setdefault(peer, deque())
        latest.append(exchange)
        self._theirs[exchange] = (*owners, peer)
        if len(latest) > EXCHANGES_REMEMBERED:
            self._disown(peer, latest.popleft())

    def _disown(self, peer: str, exchange: bytes) -> None:
        left = tuple(owner for owner in self._theirs[exchange] if owner != peer)
        if left:
            self._theirs[exchange] = left
        else:
            del self._theirs[exchange]

    def forget(self, peer: str) -> None:
        """The peer is gone."""
        self.set_ours(peer, None)
        for exchange in self._latest.pop(peer, ()):
            self._disown(peer, exchange)
