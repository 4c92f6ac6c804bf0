"""Supply and demand in virtual time: which tunnels will starve, when, and how often each link lets them rekey."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from qtunnel.qkdnet.link import Happening
from qtunnel.qkdnet.network import Network, NoPathError
from qtunnel.qkdnet.relay import overhead
from qtunnel.qkdnet.reservoir import ShortageError
from qtunnel.qkdnet.routing import Path

REROUTE = 600.0
"""Seconds for which a tunnel keeps its ways: looking for them is what costs, and stores of hours change slowly."""

RETRY = 60.0
"""Seconds at least between two tries of a tunnel that starves."""

SAMPLES = 600
"""Points of a link's store over time: more than a plot has pixels for."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What a tunnel takes. interval: seconds between rekeys, each with ``keys`` keys of ``bits`` bits."""

    name: str
    source: str
    target: str
    interval: float
    bits: int = 256
    keys: int = 1
    disjoint: int = 1
    begin: float = 0.0

    @property
    def bits_per_rekey(self) -> int:
        return self.bits * self.keys


@dataclass(slots=True)
class TunnelOutcome:
    """How a tunnel fared. first: when it had its first key, before which it waits; ``None`` where it never had one.
    starved: later times without a key, from and to, seconds; the last may have no end.

    interval: the shortest that its links sustain in the company of the other tunnels, seconds; infinite where a link
    makes nothing.
    """

    tunnel: Tunnel
    asked: int = 0
    served: int = 0
    first: float | None = None
    starved: list[tuple[float, float | None]] = field(default_factory=list)
    ways: dict[tuple[Path, ...], int] = field(default_factory=dict)
    interval: float = 0.0
    why: str = ""

    @property
    def usual(self) -> tuple[Path, ...]:
        """The ways that most of its keys went."""
        return max(self.ways, key=lambda paths: self.ways[paths], default=())

    def starving_time(self, end: float) -> float:
        return sum((till if till is not None else end) - since for since, till in self.starved)


@dataclass(slots=True)
class LinkOutcome:
    """What a link did. rate: mean secret bits per second; tunnels: whose keys mostly go over it; interval: the shortest
    that all of them can have together, for one key of 256 bits where there are none; stored: samples of bits."""

    name: str
    rate: float = 0.0
    made: int = 0
    used: int = 0
    overflowed: int = 0
    discarded: int = 0
    tunnels: list[str] = field(default_factory=list)
    interval: float = 0.0
    stored: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    seconds: float
    tunnels: list[TunnelOutcome]
    links: list[LinkOutcome]
    times: list[float]
    happenings: list[Happening]

    @property
    def ok(self) -> bool:
        return not any(outcome.starved for outcome in self.tunnels)


def plan(network: Network, tunnels: Iterable[Tunnel], seconds: float) -> Plan:
    """Run the network for so many seconds of its time with these tunnels; nothing is drawn, only counted."""
    return _Planner(network, list(tunnels), seconds).run()


class _Planner:
    def __init__(self, network: Network, tunnels: Sequence[Tunnel], seconds: float) -> None:
        self._network = network
        self._end = network.now + seconds
        self._begin = network.now
        self._outcomes = [TunnelOutcome(tunnel) for tunnel in tunnels]
        self._ways: dict[int, tuple[float, tuple[Path, ...]]] = {}
        self._plan = Plan(seconds, self._outcomes, [LinkOutcome(name) for name in network.links], [], [])

    def run(self) -> Plan:
        due = [(self._begin + one.tunnel.begin, number) for number, one in enumerate(self._outcomes)]
        step = self._plan.seconds / SAMPLES
        due += [(self._begin + index * step, -1) for index in range(SAMPLES + 1)]
        heapq.heapify(due)
        while due and due[0][0] <= self._end:
            now, number = heapq.heappop(due)
            if number < 0:
                self._sample(now)
                continue
            outcome = self._outcomes[number]
            pause = outcome.tunnel.interval
            if not self._serve(number, outcome, now):
                pause = max(pause, RETRY)
            heapq.heappush(due, (now + pause, number))
        self._sum_up()
        return self._plan

    def _sample(self, now: float) -> None:
        self._plan.happenings += self._network.advance(now)
        self._plan.times.append(now)
        for outcome in self._plan.links:
            outcome.stored.append(self._network.links[outcome.name].reservoir.stored)

    def _serve(self, number: int, outcome: TunnelOutcome, now: float) -> bool:
        """One rekey; whether there were keys for it."""
        tunnel = outcome.tunnel
        outcome.asked += 1
        try:
            paths = self._usual_ways(number, tunnel, now)
            self._network.pay(paths, tunnel.bits_per_rekey)
        except (NoPathError, ShortageError):
            try:
                self._ways.pop(number, None)
                paths = self._usual_ways(number, tunnel, now)
                self._network.pay(paths, tunnel.bits_per_rekey)
            except NoPathError as error:
                if not outcome.starved or outcome.starved[-1][1] is not None:
                    outcome.starved.append((now, None))
                    outcome.why = outcome.why or str(error)
                return False
        outcome.served += 1
        if outcome.first is None:  # before it there was nothing to go on with
            outcome.first, outcome.starved, outcome.why = now, [], ""
        outcome.ways[paths] = outcome.ways.get(paths, 0) + 1
        if outcome.starved and outcome.starved[-1][1] is None:
            outcome.starved[-1] = (outcome.starved[-1][0], now)
        return True

    def _usual_ways(self, number: int, tunnel: Tunnel, now: float) -> tuple[Path, ...]:
        """Those of the last rekey, or new ones after a while. Their links are at this moment."""
        known = self._ways.get(number)
        if known is not None and now - known[0] < REROUTE:
            for path in known[1]:
                for name in path.links:
                    self._plan.happenings += self._network.links[name].advance(now)
            if all(self._network.links[name].usable for path in known[1] for name in path.links):
                return known[1]
        self._plan.happenings += self._network.advance(now)
        paths = self._network.paths(tunnel.source, tunnel.target, tunnel.bits_per_rekey, tunnel.disjoint)
        self._ways[number] = (now, paths)
        return paths

    def _sum_up(self) -> None:
        seconds = self._plan.seconds
        by_name = {outcome.name: outcome for outcome in self._plan.links}
        for outcome in self._plan.links:
            link = self._network.links[outcome.name]
            store = link.reservoir
            outcome.made, outcome.used = store.made, store.used
            outcome.overflowed, outcome.discarded = store.overflowed, store.discarded
            outcome.rate = (store.made - min(link.spec.initial, store.capacity)) / seconds
        bits: dict[str, int] = {}
        for one in self._outcomes:
            for path in one.usual:
                for name in path.links:
                    by_name[name].tunnels.append(one.tunnel.name)
                    bits[name] = bits.get(name, 0) + one.tunnel.bits_per_rekey + overhead(one.usual)
        for outcome in self._plan.links:
            outcome.interval = bits.get(outcome.name, 256) / outcome.rate if outcome.rate > 0 else float("inf")
        for one in self._outcomes:
            names = [name for path in one.usual for name in path.links]
            one.interval = max((by_name[name].interval for name in names), default=float("inf"))
        self._plan.happenings.sort(key=lambda happening: happening.at)
