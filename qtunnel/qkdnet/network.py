"""The whole network: time, faults, and keys from one node to another.

Two ends of a link have the same bits. Here these are drawn when they are used, as nobody can look at them before; the
reservoir counts that none is used twice. What is drawn is handed to both ends, and every node on a way works with its
own copy (relay.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from qtunnel.qkdnet.conditions import Physics
from qtunnel.qkdnet.ledger import Delivery, Ledger
from qtunnel.qkdnet.link import Happening, Link, LinkSpec
from qtunnel.qkdnet.pad import combined, joined, parted
from qtunnel.qkdnet.relay import TAG_BITS, Carrier, Message, Relay, RelayNode, See, TransferError, overhead
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


@dataclass(frozen=True, slots=True)
class Sending:
    """Keys under way. carrier: what becomes of messages; see: is told what nodes hold."""

    keys: Sequence[Secret] = field(repr=False)
    key_ids: Sequence[str]
    random_bytes: RandomBytes
    carrier: Carrier
    see: See | None = None


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
        self.relay = Relay({name: RelayNode(name) for name in self.nodes})
        self._late: dict[str, Message] = {}
        self._unsaid: list[Happening] = []

    def advance(self, now: float) -> list[Happening]:
        """Let time pass; what happened, in order. A time before the last one is that one."""
        self.now = max(self.now, now)
        found, self._unsaid = self._unsaid, []
        found += [one for link in self.links.values() for one in link.advance(self.now)]
        return sorted(found, key=lambda one: one.at)

    def stop_node(self, name: str) -> list[Happening]:
        """The node is lost: nothing goes through it, and it answers nobody."""
        self.down.add(name)
        return [Happening(self.now, name, "node.lost")]

    def start_node(self, name: str) -> list[Happening]:
        self.down.discard(name)
        return [Happening(self.now, name, "node.back")]

    def paths(
        self, source: str, target: str, bits: int, number: int = 1, without: frozenset[str] = frozenset()
    ) -> tuple[Path, ...]:
        """The ways that a key of ``bits`` would go now, or several keys one after the other; raises ``NoPathError``.
        without: links that are not to be taken."""
        found = self._found(source, target, bits, number, without)
        return self._found(source, target, bits + TAG_BITS, number, without) if overhead(found) else found

    def _found(self, source: str, target: str, bits: int, number: int, without: frozenset[str]) -> tuple[Path, ...]:
        """Over links that have so many bits."""
        edges, blocked = [], []
        for link in self.links.values():
            why = "gets no message across" if link.name in without else self._hindrance(link, bits)
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

    def pay(self, paths: Sequence[Path], bits: int) -> None:
        """What a transfer of so many bits costs, at once or not at all. Raises ``ShortageError``."""
        self.spend(paths, bits + overhead(paths))

    def spend(self, paths: Sequence[Path], bits: int, keys: int = 1) -> tuple[str, ...]:
        """Use ``bits`` of every link on the ways, at once or not at all; the links that an eavesdropper reads.

        The ways have no link in common. Raises ``ShortageError``.
        """
        names = [name for path in paths for name in path.links]
        if any(self.links[name].reservoir.stored < bits for name in names):
            raise ShortageError
        return tuple(name for name in names if self.links[name].take(bits, keys))

    def make(
        self,
        source: str,
        targets: Sequence[str],
        size: int,
        key_ids: Sequence[str],
        random_bytes: RandomBytes,
        *,
        disjoint: int = 1,
        carrier: Carrier | None = None,
        see: See | None = None,
    ) -> list[RelayedKey]:
        """A key of ``size`` bytes for each of ``key_ids``, from ``source`` to all ``targets``: all of them, or none.

        disjoint: over so many ways without a common node, as shares. A link that gets no message across is gone round.
        carrier: what becomes of messages, in place of what meddles with the links' channels; see: is told what nodes on
        the way hold. Raises ``NoPathError``.
        """
        broken: frozenset[str] = frozenset()
        carry = carrier or (lambda message: self._carried(message, random_bytes))
        while True:
            ways = self._ways(source, targets, 8 * size * len(key_ids), disjoint, broken)
            keys = [Secret.random(random_bytes, size) for _ in key_ids]
            sending = Sending(keys, key_ids, random_bytes, carry, see)
            try:
                return self._made(source, ways, sending)
            except TransferError as error:
                broken |= {error.link}
                self._unsaid.append(Happening(self.now, error.link, "relay.failed", str(error)))
            finally:
                self._say_refusals()

    def _made(self, source: str, ways: dict[str, tuple[Path, ...]], sending: Sending) -> list[RelayedKey]:
        """Raises ``TransferError``, with nothing left of the keys."""
        copies: dict[str, list[Secret]] = {}
        deliveries: list[list[Delivery]] = [[] for _ in sending.keys]
        bits = 8 * len(sending.keys[0])
        begun: list[str] = []
        try:
            for target, paths in ways.items():
                begun.append(target)
                firsts = [[self.links[name].reservoir.used for name in path.links] for path in paths]
                seen = [self.spend(paths, bits) for _ in sending.keys]
                if len(ways) == 1 and not overhead(paths):
                    copies[target] = [key.copy() for key in sending.keys]
                else:
                    self.spend(paths, TAG_BITS, keys=0)
                    copies[target] = self._sent(target, paths, firsts, sending)
                for number, key_id in enumerate(sending.key_ids):
                    one = Delivery(self.now, key_id, source, target, bits, paths, seen[number])
                    deliveries[number].append(one)
        except TransferError:
            for target in begun:  # what is made in their place is another key
                self.ledger.pair(source, target).lost += len(sending.keys)
            for key in (*sending.keys, *(copy for made in copies.values() for copy in made)):
                key.wipe()
            raise
        for one in (one for its in deliveries for one in its):
            self.ledger.delivered(one)
        return [
            RelayedKey(key_id, tuple(deliveries[n]), sending.keys[n], {name: made[n] for name, made in copies.items()})
            for n, key_id in enumerate(sending.key_ids)
        ]

    def _sent(
        self, target: str, paths: Sequence[Path], firsts: Sequence[Sequence[int]], sending: Sending
    ) -> list[Secret]:
        """The keys as they arrive at the other end of the ways, all of them in one message for each hop.

        On several ways go shares: random ones on all but the last, and what makes the keys of them on that.
        """
        rest = joined(sending.keys)
        arrived: Secret | None = None
        try:
            for number, path in enumerate(paths):
                share = rest
                if number < len(paths) - 1:
                    share = Secret.random(sending.random_bytes, len(rest))
                    rest = _replaced(rest, combined(rest, share))
                transfer = f"{sending.key_ids[0]}/{target}/{number}"
                came = self.relay.send(
                    share, path, firsts[number], transfer, sending.random_bytes, sending.carrier, sending.see
                )
                if arrived is not None:
                    with came:
                        arrived = _replaced(arrived, combined(arrived, came))
                else:
                    arrived = came
        except TransferError:
            rest.wipe()
            if arrived is not None:
                arrived.wipe()
            raise
        assert arrived is not None  # there is a way at least
        return parted(arrived, len(sending.keys[0]))

    def _carried(self, message: Message, random_bytes: RandomBytes) -> Iterable[Message]:
        """What becomes of a message, by who meddles with the link's classical channel."""
        link = self.links[message.link]
        if link.meddling == "lose" and int.from_bytes(random_bytes(4)) < link.meddled * 2**32:
            return ()
        if link.meddling == "forge":
            return (replace(message, sealed=bytes((message.sealed[0] ^ 1,)) + message.sealed[1:]),)
        if link.meddling == "late":
            before = self._late.get(message.link)
            self._late[message.link] = message
            return () if before is None else (before,)
        late = self._late.pop(message.link, None)
        return (message,) if late is None else (late, message)

    def _say_refusals(self) -> None:
        """Once for each link, whatever came there."""
        told: dict[str, list[str]] = {}
        for link, words in self.relay.refusals:
            told.setdefault(link, []).append(words)
        self.relay.refusals.clear()
        for link, several in told.items():
            more = f", and {len(several) - 1} more" if len(several) > 1 else ""
            self._unsaid.append(Happening(self.now, link, "relay.refused", several[0] + more))

    def _ways(
        self, source: str, targets: Sequence[str], bits: int, disjoint: int, without: frozenset[str]
    ) -> dict[str, tuple[Path, ...]]:
        """To each target; all of them together have enough keys. To several goes the same key, in messages always."""
        needed = bits if len(targets) == 1 else bits + TAG_BITS
        ways: dict[str, tuple[Path, ...]] = {}
        for target in targets:
            try:
                ways[target] = self.paths(source, target, needed, disjoint, without)
            except NoPathError:
                self.ledger.pair(source, target).refused += 1
                raise
        users = Counter(name for paths in ways.values() for path in paths for name in path.links)
        for name, number in users.items():
            if number > 1 and self.links[name].reservoir.stored < (bits + TAG_BITS) * number:
                raise NoPathError(f"{name} has {self.links[name].reservoir.stored} bits of {needed * number}")
        return ways

    def available(self, source: str, target: str, bits: int, disjoint: int = 1) -> tuple[int, tuple[Path, ...]]:
        """How many keys of ``bits`` can be had at once over the ways that the next one would go, and these; raises
        ``NoPathError``."""
        paths = self.paths(source, target, bits, disjoint)
        stored = min(self.links[name].reservoir.stored for path in paths for name in path.links)
        return (stored - overhead(paths)) // bits, paths

    def spread(self, paths: Sequence[Path]) -> tuple[float, float]:
        """Of these ways: key rate of the slowest link, bits per second; the worst QBER, a fraction."""
        links = [self.links[name] for path in paths for name in path.links]
        errors = [link.error for link in links if link.metric == "QBER"]
        return min(link.key_rate for link in links), max(errors, default=0.0)


def _replaced(old: Secret, new: Secret) -> Secret:
    old.wipe()
    return new
