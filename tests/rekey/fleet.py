"""A hub and its spokes, all real cores with real cryptography and QKD keys, over whatever carries their datagrams.

One peer alone may be asked for 2 rekeys a second at most (``qtunnel.rekey.limits``); twenty a second are those of 56.
"""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import time
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import dataclass, field

from qtunnel.bench.link import ADDRESS, Link
from qtunnel.bench.options import LinkOptions
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from qtunnel.rekey.model import (
    Block,
    Defect,
    Effect,
    FetchById,
    Fetched,
    FetchNew,
    Install,
    Memory,
    Notice,
    Now,
    PeerSettings,
    Send,
)
from qtunnel.rekey.node import RekeyNode
from qtunnel.sandbox.programs import call
from qtunnel.terms import Policy, QkdPolicy
from tests.rekey.simulation import KmePair

HUB = "hub"
SPOKES = 56
INTERVAL = 2.0
MAX_AGE = 120.0
PORT = 51821


@dataclass
class Pair:
    """One spoke and the hub: what both have. under_way: by end, whether a rekey of its own is."""

    keys: KmePair
    psk: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    under_way: dict[str, bool] = field(default_factory=dict)
    apart_since: float | None = None


@dataclass
class Counts:
    """started, confirmed, retried: rekeys by their initiators. overtaken: given up because the other end's own rekey
    came first. apart: the longest that two ends had different epochs, in seconds."""

    started: int = 0
    confirmed: int = 0
    retried: int = 0
    overtaken: int = 0
    blocked: int = 0
    apart: float = 0.0


class Fleet:
    """send: carries one datagram from one node to another; ``at`` calls something later, at a time of ``clock``."""

    def __init__(
        self,
        seed: int,
        clock: Callable[[], float],
        send: Callable[[str, str, bytes], None],
        at: Callable[[float, Callable[[], None]], None],
        spokes: int = SPOKES,
    ) -> None:
        self._clock, self._send, self._at = clock, send, at
        self._rng = rng = random.Random(seed)
        names = [f"s{number}" for number in range(spokes)]
        identities = {name: Identity.create(rng.randbytes) for name in (HUB, *names)}
        self.nodes = {name: RekeyNode(identities[name], rng.randbytes) for name in identities}
        self.links = {name: Pair(KmePair(rng)) for name in names}
        self.counts = Counts()
        self._deadlines = dict.fromkeys(identities, 0.0)
        policy = Policy(QkdPolicy.REQUIRED)
        for name in names:
            for end, other in ((HUB, name), (name, HUB)):
                settings = PeerSettings(
                    other, identities[other].public, SUITES[1], policy, INTERVAL, 0.1, MAX_AGE, sources=("metro",)
                )
                self.nodes[end].add_peer(settings, Memory(), self.now())

    def now(self) -> Now:
        return Now(self._clock(), int((1_700_000_000 + self._clock()) * 1e9))

    def receive(self, name: str, datagram: bytes, address: Hashable) -> None:
        self.nodes[name].receive(datagram, address, self.now())
        self.carry_out(name)

    @property
    def deadline(self) -> float:
        """When the next node has something to do."""
        return min(self._deadlines.values())

    def tick(self) -> None:
        """Everything that the passing of time brings."""
        now = self.now()
        for name, due in list(self._deadlines.items()):
            if due <= now.mono:
                self.nodes[name].tick(now)
                self.carry_out(name)

    def carry_out(self, name: str) -> None:
        for effect in self.nodes[name].take_effects():
            self._effect(name, effect)
        due = self.nodes[name].deadline
        self._deadlines[name] = float("inf") if due is None else due

    def _effect(self, name: str, effect: Effect) -> None:
        link = self.links[name if name != HUB else effect.peer] if effect.peer else None
        match effect:
            case Send():
                for datagram in effect.datagrams:
                    self._send(name, effect.peer, datagram)
            case FetchNew() | FetchById() if link is not None:
                self._at(self._clock() + self._rng.uniform(0.001, 0.02), lambda: self._fetch(name, effect, link))
            case Install() if link is not None:
                self._install(name, effect, link)
            case Block() if link is not None:
                self.counts.blocked += 1
                link.psk.pop(name, None)
            case Defect():
                raise effect.error
            case Notice() if link is not None and effect.fields.get("role") == "initiator":
                self._tell(name, effect, link)
            case _:
                pass

    def _fetch(self, name: str, effect: FetchNew | FetchById, link: Pair) -> None:
        side = "hub" if name == HUB else "spoke"
        if isinstance(effect, FetchNew):
            answers = [link.keys.get(side, source, effect.size) for source in effect.sources]
        else:
            answers = [link.keys.get_by_id(side, ref) for ref in effect.refs]
        keys = tuple(answer for answer in answers if not isinstance(answer, str))
        failures = tuple(("metro", answer) for answer in answers if isinstance(answer, str))
        self.nodes[name].fetched(effect.peer, effect.ticket, Fetched(keys, failures), self.now())
        self.carry_out(name)

    def _install(self, name: str, effect: Install, link: Pair) -> None:
        other = effect.peer
        psk = bytes(effect.psk.reveal())
        theirs = link.psk.get(other, (0, b""))
        if effect.handshake_now:
            assert theirs == (effect.epoch, psk) or theirs[0] > effect.epoch, "the responder has it first, or a newer"
        elif theirs[0] == effect.epoch:
            assert theirs[1] == psk, "one epoch is one key"
        assert effect.epoch > link.psk.get(name, (0, b""))[0], "epochs only grow"
        link.psk[name] = effect.epoch, psk
        if link.psk.get(other) == link.psk[name]:
            if link.apart_since is not None:
                self.counts.apart = max(self.counts.apart, self._clock() - link.apart_since)
            link.apart_since = None
        elif link.apart_since is None:
            link.apart_since = self._clock()

    def _tell(self, name: str, notice: Notice, link: Pair) -> None:
        counts = self.counts
        if notice.kind == "rekey.started":
            counts.started += 1
            # What was given up for the other end's own exchange ends without a word.
            counts.overtaken += link.under_way.get(name, False)
            link.under_way[name] = True
        elif notice.kind in ("rekey.done", "rekey.failed"):
            counts.confirmed += notice.kind == "rekey.done"
            counts.retried += notice.kind == "rekey.failed"
            assert link.under_way.get(name), "an end without a beginning"
            link.under_way[name] = False

    @property
    def agreed(self) -> bool:
        """Whether every two ends have the same epoch."""
        return all(len(link.psk) == 2 and len(set(link.psk.values())) == 1 for link in self.links.values())


class Virtual:
    """A network in virtual time that loses a share of all datagrams."""

    def __init__(self, seed: int, loss: float) -> None:
        self._rng = random.Random(seed)
        self.loss = loss
        self.time = 1000.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.fleet = Fleet(seed, lambda: self.time, self._carry, self._at)

    def _at(self, when: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._queue, (when, self._number, what))

    def _carry(self, sender: str, receiver: str, datagram: bytes) -> None:
        if self._rng.random() >= self.loss:
            when = self.time + self._rng.uniform(0.005, 0.05)
            self._at(when, lambda: self.fleet.receive(receiver, datagram, sender))

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            due = self.fleet.deadline
            if self._queue and self._queue[0][0] <= due:
                self.time, _, what = heapq.heappop(self._queue)
                what()
            else:
                self.time = max(self.time, due)
                self.fleet.tick()


class Sockets:
    """Real UDP over a link of the kernel's, whose router drops a share of all datagrams at random."""

    def __init__(self, seed: int, percent: float) -> None:
        self._link = Link(LinkOptions(loss=percent))
        self._stack = ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        self._sockets: dict[str, socket.socket] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._start = time.monotonic()
        names = [f"s{number}" for number in range(SPOKES)]
        hosts = {HUB: ADDRESS["alice"]} | {name: f"10.99.2.{10 + number}" for number, name in enumerate(names)}
        self._addresses = {name: (host, PORT) for name, host in hosts.items()}
        with self._link.networks["bob"].entered():
            for name in names:
                call("ip", "addr", "add", f"{hosts[name]}/24", "dev", "wan")
                self._open(name)
        with self._link.networks["alice"].entered():
            call("ip", "route", "add", "10.99.2.0/24", "via", "10.99.1.2", "dev", "wan")
            self._open(HUB)
        self.fleet = Fleet(seed, lambda: time.monotonic() - self._start, self._carry, self._at)

    def _open(self, name: str) -> None:
        opened = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        opened.bind(self._addresses[name])
        opened.setblocking(False)
        self._sockets[name] = opened
        self._selector.register(opened, selectors.EVENT_READ, name)

    def _at(self, when: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._later, (when, self._number, what))

    def _carry(self, sender: str, receiver: str, datagram: bytes) -> None:
        self._sockets[sender].sendto(datagram, self._addresses[receiver])

    def stop_losing(self) -> None:
        assert self._link.router is not None
        with self._link.router.entered():
            call("nft", "flush", "ruleset")

    def run_until(self, done: Callable[[], bool]) -> None:
        fleet = self.fleet
        fleet.tick()
        while not done():
            now = time.monotonic() - self._start
            due = min([fleet.deadline, *(entry[0] for entry in self._later[:1])])
            for key, _ in self._selector.select(max(0.0, due - now)):
                assert isinstance(key.fileobj, socket.socket)
                try:
                    while True:
                        datagram, (host, _) = key.fileobj.recvfrom(2048)
                        fleet.receive(key.data, datagram, host)
                except BlockingIOError:
                    pass
            while self._later and self._later[0][0] <= time.monotonic() - self._start:
                heapq.heappop(self._later)[2]()
            fleet.tick()

    def close(self) -> None:
        self._stack.close()
