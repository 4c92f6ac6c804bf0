"""A deterministic network between two rekeying cores: loss, duplication, reordering and delay from a fixed seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from qtunnel.crypto.kdf import sha512
from qtunnel.handshake.suites import SUITES, Suite
from qtunnel.identity import Identity
from qtunnel.rekey.model import (
    Block,
    Effect,
    FetchAhead,
    FetchById,
    Fetched,
    FetchNew,
    Install,
    Look,
    Memory,
    Notice,
    Now,
    PeerSettings,
    Remember,
    Send,
)
from qtunnel.rekey.node import RekeyNode
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef, Policy, QkdPolicy

EPOCH_OF_SIMULATION = 1_700_000_000


@dataclass
class Conditions:
    """What the network does to a datagram. Probabilities; delays in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    least_delay: float = 0.01
    most_delay: float = 0.01


class KmePair:
    """Two KMEs that share keys, each delivering a key once to each side. Faults by the end whose KME has them.

    down: answers with an error. slow: seconds before it answers at all. liars: deliver other bits under the key_ID.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._waiting: dict[str, bytes] = {}
        self.delivered = 0
        self.down: set[str] = set()
        self.slow: dict[str, float] = {}
        self.liars: set[str] = set()

    def lose_keys(self) -> None:
        """What was delivered to one end only is gone for the other."""
        self._waiting.clear()

    def get(self, who: str, source: str, size: int) -> tuple[KeyRef, Secret] | str:
        if who in self.down:
            return f"{source}: enc_keys: 503 Service Unavailable"
        self.delivered += 1
        key_id = f"key-{self.delivered}"
        key = sha512(key_id.encode(), self._rng.randbytes(8))[:size]
        self._waiting[key_id] = key
        return KeyRef(source, key_id, size), Secret(self._rng.randbytes(size) if who in self.liars else key)

    def get_by_id(self, who: str, ref: KeyRef) -> tuple[KeyRef, Secret] | str:
        if who in self.down:
            return f"{ref.source}: dec_keys: 503 Service Unavailable"
        key = self._waiting.pop(ref.key_id, None)
        if key is None:
            return f"{ref.source}: dec_keys: 400 unknown key_ID"
        return ref, Secret(self._rng.randbytes(ref.size) if who in self.liars else key)


@dataclass
class Engine:
    """What a data plane would hold."""

    epoch: int | None = None
    psk: bytes = b""
    blocked: bool = True
    installs: int = 0


@dataclass
class Host:
    """One gateway of the simulation."""

    name: str
    node: RekeyNode
    peer: str
    engine: Engine = field(default_factory=Engine)
    memory: Memory = field(default_factory=Memory)
    notices: list[Notice] = field(default_factory=list)
    _counted: dict[tuple[str, frozenset[tuple[str, object]]], tuple[int, int]] = field(default_factory=dict)

    def count(self, kind: str, **fields: object) -> int:
        """Notices of that kind with those fields; asked after every step, so each notice is looked at once."""
        key = kind, frozenset(fields.items())
        done, found = self._counted.get(key, (0, 0))
        found += sum(
            1 for notice in self.notices[done:] if notice.kind == kind and fields.items() <= notice.fields.items()
        )
        self._counted[key] = len(self.notices), found
        return found


class Simulation:
    """Two hosts, ``a`` and ``b``, a network and a pair of KMEs. Time is virtual."""

    look_takes = 0.001
    """Seconds for a look at the status of a source."""

    def __init__(
        self,
        seed: int,
        conditions: Conditions,
        *,
        suite: Suite = SUITES[1],
        policy_a: Policy | None = None,
        policy_b: Policy | None = None,
        on_install: Callable[[Simulation, Host], None] | None = None,
        identities: tuple[Identity, Identity] | None = None,
        **settings: object,
    ) -> None:
        self.rng = random.Random(seed)
        self.conditions = conditions
        self.now = 1000.0
        self.kme = self._make_kme()
        self.on_install = on_install
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self.identities = identities or (Identity.create(self.rng.randbytes), Identity.create(self.rng.randbytes))
        self.suite = suite
        required = Policy(QkdPolicy.REQUIRED)
        self.settings = {
            "a": self._settings("b", 1, policy_a or required, settings),
            "b": self._settings("a", 0, policy_b or required, settings),
        }
        self.hosts: dict[str, Host] = {}
        for name in ("a", "b"):
            self.start(name)

    def _settings(self, name: str, identity: int, policy: Policy, more: dict[str, object]) -> PeerSettings:
        values: dict[str, object] = {"interval": 10.0, "jitter": 0.1, "max_age": 600.0, "sources": ("metro",)}
        values |= more
        public = self.identities[identity].public
        return PeerSettings(name, public, self.suite, policy, **values)  # type: ignore[arg-type]  # by name, tests only

    def start(self, name: str, memory: Memory | None = None) -> None:
        """Start a host, or start it anew with nothing but what it remembered on disk, or ``memory`` instead."""
        if memory is None:
            memory = self.hosts[name].memory if name in self.hosts else Memory()
        node = RekeyNode(self.identities[0 if name == "a" else 1], self.rng.randbytes)
        peer = "b" if name == "a" else "a"
        node.add_peer(self.settings[name], memory, self.present(name))
        self.hosts[name] = Host(name, node, peer, memory=memory)

    def clock(self) -> Now:
        return Now(self.now, int((EPOCH_OF_SIMULATION + self.now) * 1e9))

    def _make_kme(self) -> KmePair:
        return KmePair(self.rng)

    def present(self, name: str) -> Now:
        """The clocks of one host."""
        return self.clock()

    def _at(self, time: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (time, self._order, action))

    def _transmit(self, sender: Host, datagram: bytes) -> None:
        conditions, rng = self.conditions, self.rng
        copies = 2 if rng.random() < conditions.duplicate else 1
        receiver = sender.peer
        for _ in range(copies):
            if rng.random() < conditions.loss:
                continue
            delay = rng.uniform(conditions.least_delay, conditions.most_delay)
            self._at(self.now + delay, lambda: self._deliver(receiver, sender.name, datagram))

    def _deliver(self, receiver: str, sender: str, datagram: bytes) -> None:
        self.hosts[receiver].node.receive(datagram, sender, self.present(receiver))

    def _carry_out(self, host: Host) -> None:
        for effect in host.node.take_effects():
            self._effect(host, effect)

    def _effect(self, host: Host, effect: Effect) -> None:
        match effect:
            case Send():
                for datagram in effect.datagrams:
                    self._transmit(host, datagram)
            case Look():
                self._at(self.now + self.look_takes, lambda: self._look(host, effect))
            case FetchNew() | FetchAhead() | FetchById():
                delay = self.rng.uniform(0.001, 0.05) + self.kme.slow.get(host.name, 0.0)
                self._at(self.now + delay, lambda: self._fetch(host, effect))
            case Install():
                host.engine = Engine(effect.epoch, bytes(effect.psk.reveal()), False, host.engine.installs + 1)
                if self.on_install is not None:
                    self.on_install(self, host)
            case Block():
                host.engine = Engine(installs=host.engine.installs)
            case Remember():
                host.memory = effect.memory
            case Notice():
                host.notices.append(effect)

    def _look(self, host: Host, effect: Look) -> None:
        """The status of a host's sources, which says nothing new."""
        if self.hosts.get(host.name) is host:
            host.node.fetched(effect.peer, effect.ticket, Fetched(), self.present(host.name))

    def _fetch(self, host: Host, effect: FetchNew | FetchAhead | FetchById) -> None:
        """Ask the KME on behalf of one host."""
        if self.hosts.get(host.name) is not host:
            return  # it was restarted meanwhile
        if isinstance(effect, FetchNew):
            answers = [(source, self.kme.get(host.name, source, effect.size)) for source in effect.sources]
        elif isinstance(effect, FetchAhead):
            answers = [
                (effect.source, self.kme.get(host.name, effect.source, effect.size)) for _ in range(effect.number)
            ]
        else:
            answers = [(ref.source, self.kme.get_by_id(host.name, ref)) for ref in effect.refs]
        keys = tuple(answer for _, answer in answers if not isinstance(answer, str))
        failures = tuple((source, answer) for source, answer in answers if isinstance(answer, str))
        host.node.fetched(effect.peer, effect.ticket, Fetched(keys, failures), self.present(host.name))

    @property
    def upcoming(self) -> float:
        """When the next thing happens."""
        deadlines = [time for host in self.hosts.values() if (time := host.node.deadline) is not None]
        return min([*deadlines, self._queue[0][0] if self._queue else float("inf")])

    def step(self) -> None:
        """Go to the next thing that happens, and let it happen."""
        self._step(self.upcoming)

    def _step(self, upcoming: float) -> None:
        self.now = max(self.now, upcoming)
        if self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        for host in self.hosts.values():
            host.node.tick(self.present(host.name))
        for host in list(self.hosts.values()):
            self._carry_out(host)

    def run_until(self, done: Callable[[], bool], limit: float = 1e9) -> None:
        """Step until ``done``; fails where ``limit`` seconds of virtual time do not suffice."""
        end = self.now + limit
        while not done():
            assert self.now < end, "the simulation did not get there"
            self.step()

    def run_for(self, seconds: float) -> None:
        """Step through ``seconds`` of virtual time."""
        end = self.now + seconds
        while self.now < end:
            upcoming = self.upcoming
            if upcoming > end:
                self.now = end
                return
            self._step(upcoming)

    @property
    def agreed(self) -> bool:
        """Whether both engines hold the same PSK."""
        a, b = self.hosts["a"].engine, self.hosts["b"].engine
        return a.epoch is not None and (a.epoch, a.psk) == (b.epoch, b.psk)
