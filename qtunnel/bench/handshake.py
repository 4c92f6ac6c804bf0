"""What one rekey costs: two rekeying cores in this process, with the real cryptography and nothing between them.

Counted is the processor time of both cores: every call into them, so the arithmetic, the protocol, the state machines,
and making and parsing datagrams. Not counted is what stands around a core in the daemon: sockets, key sources, the
state directory and the engine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import fmean
from typing import Any, TypeVar

from qtunnel import __version__
from qtunnel.bench.machine import machine
from qtunnel.bench.options import HandshakeOptions
from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.errors import BenchError
from qtunnel.handshake.suites import SUITES, Suite
from qtunnel.identity import Identity
from qtunnel.rekey.model import FetchById, Fetched, FetchNew, Memory, Notice, Now, PeerSettings, Send
from qtunnel.rekey.node import RekeyNode
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef, Policy, QkdPolicy

BEGIN, ANSWER = "alice", "bob"
"""The two ends; the first begins every rekey."""

INTERVAL = 120.0
"""Seconds of virtual time between two rekeys: the default schedule, so that no limit of rate ever bites."""

WARM_UP = 5
"""Rekeys of each case that count for nothing: the interpreter specialises what runs often."""

TURN = 10
"""Rekeys of one case before the next has its turn, so that a busy moment of the machine is nobody's alone."""

SOURCE = "qkd"
Result = TypeVar("Result")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One way to rekey."""

    suite: Suite
    qkd: bool
    pairing: bool

    @property
    def extras(self) -> str:
        """What goes in besides the suite, for people."""
        return ", ".join(name for name, there in (("QKD", self.qkd), ("pairing", self.pairing)) if there)


EXTRAS = ((False, False), (True, False), (True, True))
CASES = tuple(Case(suite, qkd, pairing) for suite in SUITES.values() for qkd, pairing in EXTRAS)


@dataclass(slots=True)
class Samples:
    """What was seen of one case. cpu, latency: seconds of each rekey."""

    cpu: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    datagrams: int = 0
    octets: int = 0

    def as_dict(self, case: Case) -> dict[str, Any]:
        """For JSON."""
        number = len(self.cpu)
        ranked = sorted(self.latency)
        return {
            "kem": case.suite.kem.name,
            "cipher": case.suite.aead.name,
            "qkd_key": case.qkd,
            "pairing_secret": case.pairing,
            "rekeys": number,
            "cpu_ms": round(fmean(self.cpu) * 1000, 3),
            "cpu_p50_ms": round(sorted(self.cpu)[number // 2] * 1000, 3),
            "latency_p50_ms": round(ranked[number // 2] * 1000, 3),
            "latency_p99_ms": round(ranked[number * 99 // 100] * 1000, 3),
            "wire_bytes": self.octets // number,
            "datagrams": self.datagrams / number,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run."""

    began: datetime
    samples: dict[Case, Samples]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bench": "handshake",
            "began": self.began.isoformat(timespec="seconds"),
            "ours": f"qtunnel {__version__}",
            "counted": "processor time of both ends' rekeying cores; bytes of UDP payload, both ways",
            "cases": [samples.as_dict(case) for case, samples in self.samples.items()],
            **machine(),
        }


def handshake(options: HandshakeOptions, say: Say) -> Outcome:
    """Run all cases, in turns; raises ``BenchError`` where a rekey does not end as it should."""
    began = datetime.now(UTC)
    pairs = {case: _Pair(case) for case in CASES}
    for pair in pairs.values():
        for _ in range(WARM_UP):
            pair.rekey()
        pair.samples = Samples()
    for done in range(0, options.rekeys, TURN):
        for pair in pairs.values():
            for _ in range(min(TURN, options.rekeys - done)):
                pair.rekey()
        say(f"{min(done + TURN, options.rekeys)} of {options.rekeys} rekeys of each case")
    return Outcome(began, {case: pair.samples for case, pair in pairs.items()})


class _Pair:
    """Two cores that know each other, and what carries their effects out."""

    def __init__(self, case: Case) -> None:
        self.samples = Samples()
        self._now = Now(1000.0, time.time_ns())
        self._keys: dict[str, bytes] = {}
        self._spent = 0.0
        identities = {name: Identity.create(os.urandom) for name in (BEGIN, ANSWER)}
        shared = os.urandom(32)
        policy = Policy(QkdPolicy.REQUIRED if case.qkd else QkdPolicy.OFF)
        self._nodes: dict[str, RekeyNode] = {}
        for name, far in ((BEGIN, ANSWER), (ANSWER, BEGIN)):
            settings = PeerSettings(
                far, identities[far].public, case.suite, policy, INTERVAL, 0.0, 10 * INTERVAL,
                has_endpoint=name == BEGIN, sources=(SOURCE,) if case.qkd else (),
                pairing=Secret(shared) if case.pairing else None,
            )  # fmt: skip
            node = self._nodes[name] = RekeyNode(identities[name], os.urandom)
            node.add_peer(settings, Memory(), self._now)

    def rekey(self) -> None:
        """One rekey from its beginning to the end of both sides'."""
        self._now = Now(self._now.mono + INTERVAL / 2, self._now.unix_ns + int(INTERVAL / 2 * 1e9))
        self._spent = 0.0
        begin, began = self._nodes[BEGIN], time.perf_counter()
        if not self._counted(lambda: begin.rekey_now(ANSWER, self._now)):
            raise BenchError("a rekey is under way that should have ended")
        done: list[Notice] = []
        while effects := list(self._effects()):
            for name, effect in effects:
                self._carry_out(name, effect, done)
        self.samples.latency.append(time.perf_counter() - began)
        self.samples.cpu.append(self._spent)
        if len(done) != 2:
            raise BenchError("a rekey did not come to its end at both sides")

    def _counted(self, call: Callable[[], Result]) -> Result:
        start = time.thread_time()
        result = call()
        self._spent += time.thread_time() - start
        return result

    def _effects(self) -> Iterator[tuple[str, object]]:
        for name, node in self._nodes.items():
            for effect in self._counted(node.take_effects):
                yield name, effect
            self._counted(lambda node=node: node.deadline)  # type: ignore[misc]  # the daemon asks as often

    def _carry_out(self, name: str, effect: object, done: list[Notice]) -> None:
        node, far = self._nodes[name], ANSWER if name == BEGIN else BEGIN
        if isinstance(effect, Send):
            for datagram in effect.datagrams:
                self.samples.datagrams += 1
                self.samples.octets += len(datagram)
                self._counted(lambda datagram=datagram: self._nodes[far].receive(datagram, name, self._now))  # type: ignore[misc]
        elif isinstance(effect, FetchNew):
            key_id, key = f"{len(self._keys):036}", os.urandom(QKD_KEY_SIZE)
            self._keys[key_id] = key
            fetched = Fetched(((KeyRef(SOURCE, key_id, QKD_KEY_SIZE), Secret(key)),))
            self._counted(lambda: node.fetched(far, effect.ticket, fetched, self._now))
        elif isinstance(effect, FetchById):
            fetched = Fetched(tuple((ref, Secret(self._keys[ref.key_id])) for ref in effect.refs))
            self._counted(lambda: node.fetched(far, effect.ticket, fetched, self._now))
        elif isinstance(effect, Notice) and effect.kind == "rekey.done":
            done.append(effect)
