"""A hub and its many peers, each a node of its own, in virtual time: who asks, sends and agrees when."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from itertools import count

from qtunnel.handshake.fragments import MessageType
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from qtunnel.rekey.model import FetchById, Fetched, FetchNew, Install, Memory, Now, PeerSettings, Send
from qtunnel.rekey.node import RekeyNode
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef, Policy, QkdPolicy

HUB = "hub"
DELAY = 0.02
"""Seconds that a datagram or a KME takes."""
INTERVAL = 30.0
"""Seconds between rekeys, unless told otherwise."""
TURN = 0.1
"""Seconds from one turn of the hub to the next: it does all at once what came meanwhile, as a busy loop does."""


class Crowd:
    """``peers`` gateways around a hub, all with a KME. All times are virtual seconds since the start.

    hub_begins: the hub knows their addresses, and its identity is the highest; else they know its own alone.
    """

    def __init__(self, peers: int, *, hub_begins: bool, interval: float = INTERVAL, max_age: float = 3600.0) -> None:
        self._rng = random.Random(5)
        identities = sorted(
            (Identity.create(self._rng.randbytes) for _ in range(peers + 1)), key=lambda it: it.public.id
        )
        hub = identities.pop() if hub_begins else identities.pop(0)
        self.now = 0.0
        self.link_up = self.kme_up = True
        self.asked: list[float] = []
        """Fresh keys asked for at the hub's KME or the peers'."""
        self.offered: list[float] = []
        """First messages sent, repetitions included."""
        self.agreed: list[float] = []
        """Epochs installed at the hub."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._planned: dict[str, float] = {}
        self._keys: dict[str, bytes] = {}
        self.nodes = {HUB: RekeyNode(hub, self._rng.randbytes)}
        plain = PeerSettings(
            HUB, hub.public, SUITES[1], Policy(QkdPolicy.REQUIRED), interval, 0.1, max_age,
            has_endpoint=not hub_begins, sources=("metro",),
        )  # fmt: skip
        for number, identity in enumerate(identities):
            name = f"p{number}"
            self.nodes[name] = RekeyNode(identity, self._rng.randbytes)
            self.nodes[name].add_peer(plain, Memory(), self.clock())
            its = PeerSettings(
                name, identity.public, SUITES[1], plain.policy, interval, 0.1, max_age,
                has_endpoint=hub_begins, sources=("metro",),
            )  # fmt: skip
            self.nodes[HUB].add_peer(its, Memory(), self.clock(), among=peers)
        self._inbox: list[Callable[[], object]] = []
        for name in self.nodes:
            self._settle(name)
        self._at(0.0, self._turn)

    def _turn(self) -> None:
        hub = self.nodes[HUB]
        waiting, self._inbox = self._inbox, []
        for action in waiting:
            action()
        hub.tick(self.clock())
        self._carry_out(HUB)
        self._at(self.now + TURN, self._turn)

    def clock(self) -> Now:
        return Now(self.now, int((1_700_000_000 + self.now) * 1e9))

    def _at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time, next(self._order), action))

    def run(self, until: float) -> None:
        """Let everything happen that is due by then."""
        while self._queue and self._queue[0][0] <= until:
            time, _, action = heapq.heappop(self._queue)
            self.now = max(self.now, time)
            action()
        self.now = until

    def _tick(self, name: str) -> None:
        if self._planned.get(name) is not None and self._planned[name] <= self.now:
            del self._planned[name]
            self.nodes[name].tick(self.clock())
            self._settle(name)

    def _settle(self, name: str) -> None:
        """Carry out what a node wants, and plan its next tick; the hub has turns instead."""
        if name == HUB:
            return
        self._carry_out(name)
        deadline = self.nodes[name].deadline
        if deadline is not None and deadline < self._planned.get(name, float("inf")):
            self._planned[name] = max(deadline, self.now)
            self._at(self._planned[name], lambda: self._tick(name))

    def _carry_out(self, name: str) -> None:
        node = self.nodes[name]
        if self.link_up:
            for reply, to in node.take_replies():  # cookies, where the hub is under load
                self._at(self.now + DELAY, lambda reply=reply, to=to: self._deliver(str(to), name, reply))  # type: ignore[misc]
        for effect in node.take_effects():
            match effect:
                case Send():
                    self._send(name, effect)
                case FetchNew() | FetchById():
                    if isinstance(effect, FetchNew):
                        self.asked.append(self.now)
                    self._at(self.now + DELAY, lambda effect=effect: self._fetched(name, effect))  # type: ignore[misc]
                case Install() if name == HUB:
                    self.agreed.append(self.now)

    def _send(self, name: str, effect: Send) -> None:
        self.offered += [self.now] if effect.datagrams[0][0] == MessageType.INIT else []
        if not self.link_up:
            return
        receiver = effect.peer
        for datagram in effect.datagrams:
            self._at(self.now + DELAY, lambda datagram=datagram: self._deliver(receiver, name, datagram))  # type: ignore[misc]

    def _deliver(self, receiver: str, sender: str, datagram: bytes) -> None:
        if receiver == HUB:
            self._inbox.append(lambda: self.nodes[HUB].receive(datagram, sender, self.clock()))
        else:
            self.nodes[receiver].receive(datagram, sender, self.clock())
            self._settle(receiver)

    def _fetched(self, name: str, effect: FetchNew | FetchById) -> None:
        if not self.kme_up:
            result = Fetched((), (("metro", "metro: enc_keys: 503"),))
        elif isinstance(effect, FetchNew):
            ref = KeyRef("metro", f"k{len(self._keys)}", 32)
            self._keys[ref.key_id] = self._rng.randbytes(32)
            result = Fetched(((ref, Secret(self._keys[ref.key_id])),))
        else:
            result = Fetched(tuple((ref, Secret(self._keys[ref.key_id])) for ref in effect.refs))
        if name == HUB:
            self._inbox.append(lambda: self.nodes[HUB].fetched(effect.peer, effect.ticket, result, self.clock()))
        else:
            self.nodes[name].fetched(effect.peer, effect.ticket, result, self.clock())
            self._settle(name)


def busiest(times: list[float], start: float, end: float, window: float = 1.0) -> int:
    """The most of them within one window of ``window`` seconds."""
    return max(Counter(int(time / window) for time in times if start <= time < end).values(), default=0)


def among(times: list[float], start: float, end: float) -> int:
    return sum(1 for time in times if start <= time < end)
