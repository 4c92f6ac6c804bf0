"""Who learned what: which nodes held keys, or shares of them, that were forwarded for others."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field

from qtunnel.qkdnet.routing import Path

REMEMBERED = 1000
"""Keys whose ways are kept one by one; all are counted."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One key's way. paths: one, or several whose shares make the key. seen_on: links that an eavesdropper read."""

    at: float
    key_id: str
    source: str
    target: str
    bits: int
    paths: tuple[Path, ...]
    seen_on: tuple[str, ...] = ()

    @property
    def relayed(self) -> bool:
        return any(path.between for path in self.paths)

    @property
    def knowing(self) -> frozenset[str]:
        """The nodes each of which knows the whole key, besides its two ends."""
        if len(self.paths) > 1:
            return frozenset()
        return frozenset(self.paths[0].between)

    @property
    def sharing(self) -> frozenset[str]:
        """The nodes that know a share of it, which says nothing alone."""
        if len(self.paths) == 1:
            return frozenset()
        return frozenset(node for path in self.paths for node in path.between)

    @property
    def known_to_eavesdropper(self) -> bool:
        """Whether she read a link of every path."""
        return bool(self.seen_on) and all(set(path.links) & set(self.seen_on) for path in self.paths)


@dataclass(slots=True)
class Learned:
    """Of one node, or of the eavesdropper. own: keys for its own SAEs; whole: of others; shares: parts of others'."""

    own: int = 0
    whole: int = 0
    shares: int = 0


@dataclass(slots=True)
class PairCount:
    """Of two nodes. keys, bits: delivered; relayed: of these by other nodes; refused: requests that found none; lost:
    keys for which link key was used and that nobody has, given up on their way or at its end."""

    keys: int = 0
    bits: int = 0
    relayed: int = 0
    refused: int = 0
    lost: int = 0


@dataclass(slots=True)
class Ledger:
    nodes: dict[str, Learned] = field(default_factory=dict)
    pairs: dict[tuple[str, str], PairCount] = field(default_factory=dict)
    eavesdropper: Learned = field(default_factory=Learned)
    recent: deque[Delivery] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def pair(self, one: str, other: str) -> PairCount:
        return self.pairs.setdefault((min(one, other), max(one, other)), PairCount())

    def node(self, name: str) -> Learned:
        return self.nodes.setdefault(name, Learned())

    def delivered(self, key: Delivery) -> None:
        self.recent.append(key)
        count = self.pair(key.source, key.target)
        count.keys += 1
        count.bits += key.bits
        count.relayed += key.relayed
        for name in (key.source, key.target):
            self.node(name).own += 1
        for name in key.knowing:
            self.node(name).whole += 1
        for name in key.sharing:
            self.node(name).shares += 1
        if key.known_to_eavesdropper:
            self.eavesdropper.whole += 1
        elif key.seen_on:
            self.eavesdropper.shares += 1

    def lost(self, key: Delivery) -> None:
        """It was delivered, and its end could not keep it: nobody has it. What nodes on its way learned stays."""
        count = self.pair(key.source, key.target)
        count.keys -= 1
        count.bits -= key.bits
        count.relayed -= key.relayed
        count.lost += 1
        for name in (key.source, key.target):
            self.node(name).own -= 1
        with contextlib.suppress(ValueError):  # forgotten already
            self.recent.remove(key)
