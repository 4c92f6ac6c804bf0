"""The whole network: time, faults, and keys from one node to another.

Two ends of a link have the same bits. Here these are drawn when they are used, as nobody can look at them before; the
reservoir counts that none is used twice. What is drawn is handed to both ends, and every node on a way works with its
own copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from qtunnel.qkdnet.conditions import Physics
from qtunnel.qkdnet.ledger import Delivery, Ledger
from qtunnel.qkdnet.link import Happening, Link, LinkSpec
from qtunnel.qkdnet.pad import combined
from qtunnel.qkdnet.reservoir import ShortageError
from qtunnel.qkdnet.routing import Edge, Path, disjoint_paths, explain
from qtunnel.secret import RandomBytes, Secret


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A site. relays: whether it forwards keys of others, so that they have to trust it."""

    name: str
    relays: bool = True


class NoPathError(Exception):
    """There is no way with enough keys now; the text says what stands in it. alarmed: links that warn, of these."""

    def __init__(self, message: str, alarmed: Sequence[Link] = ()) -> None:
        super().__init__(message)
        self.alarmed = tuple(alarmed)


@dataclass(frozen=True, slots=True)
class RelayedKey:
    """A key at its source and at each of its targets, each with its own copy."""

    key_id: str
    deliveries: tuple[Delivery, ...]
    at_source: Secret = field(repr=False)
    at_targets: dict[str, Secret] = field(repr=False)


class Network:
    """Nodes and links in time. now: seconds of the network, which never go back."""

    def __init__(
        self,
        nodes: Iterable[NodeSpec],
        links: Iterable[LinkSpec],
        physics: Physics,
        now: float = 0.0,
        *,
        average: bool = False,
    ) -> None:
        """average: fades are not played one by one, but enter as their mean; for plans of days."""
        self.nodes = {node.name: node for node in nodes}
        self.links = {spec.name: Link(spec, physics, now, average=average) for spec in links}
        self.ledger = Ledger()
        for name in self.nodes:
            self.ledger.node(name)
        self.down: set[str] = set()
        self.now = now

    def advance(self, now: float) -> list[Happening]:
        """Let time pass; what happened, in order. A time before the last one is that one."""
        self.now = max(self.now, now)
        found = [one for link in self.links.values() for one in link.advance(self.now)]
        return sorted(found, key=lambda one: one.at)

    def stop_node(self, name: str) -> list[Happening]:
        """The node is lost: nothing goes through it, and it answers nobody."""
        self.down.add(name)
        return [Happening(self.now, name, "node.lost")]

    def start_node(self, name: str) -> list[Happening]:
        self.down.discard(name)
        return [Happening(self.now, name, "node.back")]

    def paths(self, source: str, target: str, bits: int, number: int = 1) -> tuple[Path, ...]:
        """The ways that a key of ``bits`` would go now, or several keys one after the other; raises ``NoPathError``."""
        edges, blocked = [], []
        for link in self.links.values():
            why = self._hindrance(link, bits)
            if why is None:
                edges.append(Edge(link.name, link.spec.ends, link.reservoir.stored / link.reservoir.capacity))
            else:
                blocked.append((link, f"{link.name} {why}"))
        relays = frozenset(node.name for node in self.nodes.values() if node.relays and node.name not in self.down)
        found = None
        if not self.down & {source, target}:
            found = disjoint_paths(edges, source, target, number, relays=relays)
        if found is None:
            blocked.sort(key=lambda one: one[0].alarm is None)
            alarmed = [link for link, _ in blocked if link.alarm is not None]
            raise NoPathError(explain(source, target, number, [why for _, why in blocked]), alarmed)
        return tuple(found)

    def _hindrance(self, link: Link, bits: int) -> str | None:
        """Why a link cannot give so many bits, in words."""
        lost = self.down & set(link.spec.ends)
        if lost:
            return f"has lost {min(lost)}"
        if not link.usable:
            return f"warns: {link.alarm}"
        if link.reservoir.stored < bits:
            state = "" if link.state.value == "up" else f", {link.state.value}"
            return f"has {link.reservoir.stored} bits of {bits}{state}"
        return None

    def spend(self, paths: Sequence[Path], bits: int) -> tuple[str, ...]:
        """Use ``bits`` of every link on the ways, at once or not at all; the links that an eavesdropper reads.

        The ways have no link in common. Raises ``ShortageError``.
        """
        names = [name for path in paths for name in path.links]
        if any(self.links[name].reservoir.stored < bits for name in names):
            raise ShortageError
        return tuple(name for name in names if self.links[name].take(bits))

    def make(
        self,
        source: str,
        targets: Sequence[str],
        size: int,
        key_ids: Sequence[str],
        random_bytes: RandomBytes,
        *,
        disjoint: int = 1,
    ) -> list[RelayedKey]:
        """A key of ``size`` bytes for each of ``key_ids``, from ``source`` to all ``targets``: all of them, or none.

        disjoint: over so many ways without a common node, as shares. Raises ``NoPathError``.
        """
        ways = self._ways(source, targets, 8 * size * len(key_ids), disjoint)
        made = []
        for key_id in key_ids:
            key = Secret.random(random_bytes, size)
            deliveries, copies = [], {}
            for target, paths in ways.items():
                seen = self.spend(paths, 8 * size)
                deliveries.append(Delivery(self.now, key_id, source, target, 8 * size, paths, seen))
                copies[target] = forwarded(key, paths, random_bytes)
                self.ledger.delivered(deliveries[-1])
            made.append(RelayedKey(key_id, tuple(deliveries), key, copies))
        return made

    def _ways(self, source: str, targets: Sequence[str], bits: int, disjoint: int) -> dict[str, tuple[Path, ...]]:
        """To each target; all of them together have enough keys."""
        ways: dict[str, tuple[Path, ...]] = {}
        for target in targets:
            try:
                ways[target] = self.paths(source, target, bits, disjoint)
            except NoPathError:
                self.ledger.pair(source, target).refused += 1
                raise
        users = Counter(name for paths in ways.values() for path in paths for name in path.links)
        for name, number in users.items():
            if number > 1 and self.links[name].reservoir.stored < bits * number:
                raise NoPathError(f"{name} has {self.links[name].reservoir.stored} bits of {bits * number}")
        return ways

    def available(self, source: str, target: str, bits: int, disjoint: int = 1) -> tuple[int, tuple[Path, ...]]:
        """How many keys of ``bits`` can be had over the ways that the next one would go, and these; raises
        ``NoPathError``."""
        paths = self.paths(source, target, bits, disjoint)
        return min(self.links[name].reservoir.stored for path in paths for name in path.links) // bits, paths

    def spread(self, paths: Sequence[Path]) -> tuple[float, float]:
        """Of these ways: key rate of the slowest link, bits per second; the worst QBER, a fraction."""
        links = [self.links[name] for path in paths for name in path.links]
        errors = [link.error for link in links if link.metric == "QBER"]
        return min(link.key_rate for link in links), max(errors, default=0.0)


def forwarded(
    key: Secret, paths: Sequence[Path], random_bytes: RandomBytes, see: Callable[[str, Secret], None] | None = None
) -> Secret:
    """The key as it arrives at the other end of the ways.

    On several ways go shares: random ones on all but the last, and what makes the key of them on that. see: is told
    what each node on the way holds, before that is wiped.
    """
    rest = key.copy()
    arrived: Secret | None = None
    for number, path in enumerate(paths):
        if number < len(paths) - 1:
            share = Secret.random(random_bytes, len(key))
            rest = _replaced(rest, combined(rest, share))
        else:
            share = rest
        came = _along(share, path, random_bytes, see)
        if arrived is None:
            arrived = came
        else:
            arrived = _replaced(arrived, combined(arrived, came))
            came.wipe()
    assert arrived is not None  # there is a way at least
    return arrived


def _replaced(old: Secret, new: Secret) -> Secret:
    old.wipe()
    return new


def _along(share: Secret, path: Path, random_bytes: RandomBytes, see: Callable[[str, Secret], None] | None) -> Secret:
    """Hop by hop, each under a pad that the link's two ends have and use once. Wipes what was sent."""
    held = share
    for node in path.nodes[1:]:
        near = Secret.random(random_bytes, len(held))
        far = near.copy()
        with near, far, combined(held, near) as sent:
            came = combined(sent, far)
        held = _replaced(held, came)
        if see is not None:
            see(node, held)
    return held
