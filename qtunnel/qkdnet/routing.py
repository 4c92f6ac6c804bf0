"""Ways through the network: by the keys that its links have in store and by the number of hops.

A link costs 1, and up to ``SCARCITY`` more the emptier it is. Of ways of the same cost the first by the links' names is
taken, so that the same network always gives the same one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SCARCITY = 3.0
"""Hops that are taken to spare a link that is nearly empty: every hop costs as many bits again, and one more node that
is trusted, so a long way round is worth it only where the short one would run dry."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A link that can give enough keys. filled: of its store, a fraction."""

    name: str
    ends: tuple[str, str]
    filled: float = 1.0

    @property
    def cost(self) -> float:
        return 1.0 + SCARCITY * (1.0 - min(1.0, max(0.0, self.filled)))


@dataclass(frozen=True, slots=True)
class Path:
    """A way. nodes: from the first to the last; links: their names, one fewer."""

    nodes: tuple[str, ...]
    links: tuple[str, ...]

    @property
    def between(self) -> tuple[str, ...]:
        """The nodes on the way, all of which hold what is forwarded."""
        return self.nodes[1:-1]

    def __str__(self) -> str:
        return " - ".join(self.nodes)


def disjoint_paths(
    edges: Iterable[Edge], start: str, goal: str, number: int, *, relays: frozenset[str]
) -> list[Path] | None:
    """``number`` ways that have no node but their ends in common, together as cheap as can be; ``None`` without.

    relays: the nodes that may stand on a way. Successive cheapest augmenting paths in the graph in which every node is
    split into an entry and an exit (Suurballe, Networks 4, 1974; with Bellman and Ford's search instead of potentials).
    """
    if start == goal or number < 1:
        raise ValueError("a way joins two nodes, and there is one at least")
    known = sorted(edges, key=lambda edge: edge.name)
    arcs = _Arcs()
    for node in sorted({end for edge in known for end in edge.ends}):
        free = node in (start, goal)
        if free or node in relays:
            arcs.add((node, "in"), (node, "out"), 0.0, number if free else 1, None)
    for edge in known:
        for one, other in (edge.ends, edge.ends[::-1]):
            arcs.add((one, "out"), (other, "in"), edge.cost, 1, edge.name)
    for _ in range(number):
        if not arcs.augment((start, "out"), (goal, "in")):
            return None
    return sorted(arcs.paths(start, goal), key=lambda path: (len(path.links), path.links))


Vertex = tuple[str, str]


class _Arcs:
    """A flow network with whole capacities."""

    def __init__(self) -> None:
        self._ends: list[tuple[Vertex, Vertex]] = []
        self._cost: list[float] = []
        self._room: list[int] = []
        self._link: list[str | None] = []
        self._from: dict[Vertex, list[int]] = {}

    def add(self, one: Vertex, other: Vertex, cost: float, room: int, link: str | None) -> None:
        """An arc, and behind it the one that takes its flow back."""
        for ends, price, free in (((one, other), cost, room), ((other, one), -cost, 0)):
            self._from.setdefault(ends[0], []).append(len(self._ends))
            self._ends.append(ends)
            self._cost.append(price)
            self._room.append(free)
            self._link.append(link)

    def augment(self, start: Vertex, goal: Vertex) -> bool:
        """One more unit along the cheapest way; whether there was one."""
        best: dict[Vertex, float] = {start: 0.0}
        through: dict[Vertex, int] = {}
        waiting: list[tuple[float, Vertex]] = [(0.0, start)]
        while waiting:  # costs of arcs taken back are negative, so a vertex may be seen again
            price, vertex = heapq.heappop(waiting)
            if price > best[vertex] + 1e-12:
                continue
            for arc in self._from.get(vertex, ()):
                head = self._ends[arc][1]
                if self._room[arc] and price + self._cost[arc] < best.get(head, float("inf")) - 1e-9:
                    best[head] = price + self._cost[arc]
                    through[head] = arc
                    heapq.heappush(waiting, (best[head], head))
        if goal not in through:
            return False
        while goal != start:
            arc = through[goal]
            self._room[arc] -= 1
            self._room[arc ^ 1] += 1
            goal = self._ends[arc][0]
        return True

    def paths(self, start: str, goal: str) -> list[Path]:
        """The flow as ways. What goes back and forth over one link cancels out first."""
        used: dict[str, list[tuple[str, str]]] = {}
        for arc in range(0, len(self._ends), 2):
            link = self._link[arc]
            if link is not None and self._room[arc ^ 1]:
                (one, _), (other, _) = self._ends[arc]
                used.setdefault(link, []).append((one, other))
        onward: dict[str, list[tuple[str, str]]] = {}
        for link, ways in sorted(used.items()):
            if len(ways) == 1:
                onward.setdefault(ways[0][0], []).append((ways[0][1], link))
        found = []
        while onward.get(start):
            nodes, links = [start], []
            while nodes[-1] != goal:
                node, link = onward[nodes[-1]].pop(0)
                nodes.append(node)
                links.append(link)
            found.append(Path(tuple(nodes), tuple(links)))
        return found


NAMED = 6
"""Hindrances that a message names one by one."""


def explain(start: str, goal: str, number: int, blocked: Sequence[str]) -> str:
    """Why there is no way, in words. blocked: what stands in it, one entry for each link, the worst first."""
    wanted = "no path" if number == 1 else f"fewer than {number} disjoint paths"
    more = [f"and {len(blocked) - NAMED} more"] if len(blocked) > NAMED else []
    why = "; ".join([*blocked[:NAMED], *more]) or "the links have no more ways"
    return f"{wanted} from {start} to {goal} with enough keys: {why}"
