"""The two gateways of a world: the cores are the real ones, with real cryptography; what the daemon does around a core,
for its engine, its disk and its key sources, is here in short."""

from __future__ import annotations

from collections.abc import Hashable

from qtunnel.daemon.endpoints import RESOLVE_RETRY
from qtunnel.daemon.takeover import lease_of
from qtunnel.daemon.view import may_fall_short
from qtunnel.handshake.fragments import MessageType
from qtunnel.rekey.model import (
    Block,
    Defect,
    Effect,
    FetchAhead,
    FetchById,
    FetchNew,
    Install,
    Memory,
    Notice,
    Remember,
    Send,
)
from qtunnel.secret import Secret
from tests.rekey.model.kmes import RecordedKmes
from tests.rekey.model.network import Network
from tests.rekey.model.oracle import Oracle
from tests.rekey.model.plan import ENDS, Alarm, Crash, Plan
from tests.rekey.simulation import Host, KmePair

SOURCES = ("metro", "backup")
SLOW_KME = 10.0
UNKNOWN = object()
VOUCH_EVERY = 10
"""Seconds between two looks at the status of a source."""
RECORDED = 12


class Daemons(Network):
    """Two daemons, their engines, disks and KMEs, on the network. ``oracle`` holds the rules after every step."""

    def __init__(self, plan: Plan) -> None:
        self.sides = {end: plan.side(end) for end in ENDS}
        self.disk = {end: Memory() for end in ENDS}
        self.in_place: dict[str, int | object | None] = dict.fromkeys(ENDS)
        self._doubted: set[str] = set()
        """Ends whose peer does not answer where it is believed to be."""
        self.owed: set[str] = set()
        """Ends whose session has to go, until their engine has let it."""
        self.alone: set[str] = set()
        """Ends whose next key comes without the one before it, which a session that had to go was of."""
        self.incarnation = dict.fromkeys(ENDS, 0)
        self._cut: dict[str, Crash] = {}
        self._warnings: list[tuple[int, Alarm]] = []
        """Alarms that wait for their moment, each with the effects of its end by then."""
        self._effects = dict.fromkeys(ENDS, 0)
        self._done = dict.fromkeys(ENDS, 0)
        self._vouched: dict[tuple[str, str], float] = {}
        """By end and source, when the last look that found no alarm began."""
        self._recorded: list[tuple[str, Hashable, tuple[bytes, ...]]] = []
        self.oracle = Oracle(self)
        super().__init__(plan)
        self._aside(self.now + 1.0, self._poll)

    def configure(self, end: str) -> None:
        side = self.sides[end]
        self.settings[end] = self._settings(
            "b" if end == "a" else "a", 1 if end == "a" else 0, side.policy,
            {
                "interval": self.plan.interval, "max_age": self.max_age(end), "pqc_on_expiry": side.pqc_on_expiry,
                "has_endpoint": side.endpoint, "sources": SOURCES[: self.plan.sources],
            },
        )  # fmt: skip

    def max_age(self, end: str) -> float:
        return self.sides[end].max_age * self.plan.interval

    def start(self, name: str, memory: Memory | None = None) -> None:
        """The daemon and its engine start; the disk is as it is."""
        self.configure(name)
        self.incarnation[name] += 1
        self._cut.pop(name, None)
        other = self.peer(name)
        # A name that is looked up leads to where the peer is now.
        self.known[name] = self.address[other] if self.sides[name].endpoint else None
        self.wires[name].start()
        self.in_place[name] = None
        self.owed.discard(name)
        self.alone.discard(name)
        self.keys.since_start[name].clear()
        super().start(name, self.disk[name])
        self.oracle.started(name)

    def crash(self, end: str, down: float, keep: bool) -> None:
        if end not in self.hosts:
            return
        del self.hosts[end]
        self._cut.pop(end, None)
        self.wires[end].die()
        self.in_place[end] = None
        if not keep:
            self.disk[end] = Memory()
            self.oracle.forgets(end)
        self._at(self.now + down, lambda: self.start(end))

    def _step(self, upcoming: float) -> None:
        super()._step(upcoming)
        self.oracle.check()

    # -- effects of the core

    def _carry_out(self, host: Host) -> None:
        for effect in host.node.take_effects():
            crash = self._cut.get(host.name)
            if crash is not None:
                if crash.effects <= self._done[host.name]:
                    self.crash(host.name, crash.down, crash.keep)
                    return
                self._done[host.name] += 1
            self._effects[host.name] += 1
            self._effect(host, effect)
        for due, alarm in tuple(self._warnings):
            if alarm.end == host.name and due <= self._effects[host.name]:
                self._alarm(due, alarm)

    def _effect(self, host: Host, effect: Effect) -> None:
        name = host.name
        match effect:
            case Send():
                self._send(host, effect)
            case Install():
                self.oracle.installs(host, effect)
                current = host.node.peers[host.peer].current_psk()
                if current is not None and current[0] == effect.epoch:
                    self._put(name, effect)
            case Block():
                self.in_place[name] = UNKNOWN
                self.owed.add(name)
                self._drop_owed(name)
            case Remember():
                self.oracle.remembers(host, effect)
                self.disk[name] = host.memory = effect.memory
            case Defect():
                raise effect.error
            case Notice(kind="rekey.unanswered") | Notice(fields={"reason": "no-answer"}):
                self._doubted.add(name)
                super()._effect(host, effect)
            case FetchNew() | FetchById():
                self.oracle.fetches(host, effect)
                self._set_kmes()
                super()._effect(host, effect)
            case _:
                super()._effect(host, effect)

    def _send(self, host: Host, effect: Send) -> None:
        if effect.confirms is not None:
            placed = self.in_place[host.name]
            if not isinstance(placed, int) or placed < effect.confirms:
                return  # as the daemon does: the peer repeats its commit
        self.oracle.sends(host, effect)
        address = effect.address if effect.address is not None else self.known[host.name]
        if address is None:
            return
        self._recorded.append((host.peer, self.address[host.name], effect.datagrams))
        del self._recorded[:-RECORDED]
        for datagram in effect.datagrams:
            kind = MessageType(datagram[0])
            if not self._cut_off(host.name, tunnel=False) and not self._holds("lose", kind.name):
                self._send_to(host, datagram, address)

    # -- the engine

    def _drop_owed(self, name: str) -> None:
        """Block, where that has to be and the engine lets it."""
        if name in self.owed and not self.refuses(name):
            self.wires[name].block()
            self.in_place[name] = None
            self.owed.discard(name)

    def _drop_forbidden(self, host: Host) -> None:
        """As the daemon does at a reload (qtunnel/daemon/reload.py)."""
        relaxed = host.node.peers[host.peer].context.guard.relaxed
        if may_fall_short(*self.oracle.judged_by(host), relaxed=relaxed):
            self._drop_session(host)

    def _drop_session(self, host: Host) -> None:
        self.owed.add(host.name)
        self.alone.add(host.name)
        self._reconcile(host)

    def _put(self, name: str, effect: Install) -> None:
        self._drop_owed(name)
        self.in_place[name] = UNKNOWN
        if self.refuses(name):
            return
        previous = None
        if effect.previous_psk is not None and name not in self.alone:
            ends = self._ends_before(self.hosts[name]).get(effect.previous_epoch, self.now)
            previous = bytes(effect.previous_psk.reveal()), effect.previous_epoch, ends
        self._give(name, effect.epoch, effect.psk, previous, effect.handshake_now)

    def _give(
        self,
        name: str,
        epoch: int,
        psk: Secret,
        previous: tuple[bytes, int | None, float] | None,
        handshake_now: bool,
    ) -> None:
        self.wires[name].install(bytes(psk.reveal()), epoch, previous, handshake_now)
        self.in_place[name] = epoch
        self.alone.discard(name)
        self.oracle.places(name, self.wires[name].psk)

    def _ends_before(self, host: Host) -> dict[int | None, float]:
        """When epochs before the one in place end, as the daemon tells its engine."""
        lease = lease_of(host.node, host.peer)
        return {} if lease is None else dict(lease.before)

    def _reconcile(self, host: Host) -> None:
        """Give the engine what the core says it should have."""
        name = host.name
        current = host.node.peers[host.peer].current_psk()
        if self.refuses(name):
            return
        self._drop_owed(name)
        if current is None:
            if self.in_place[name] is not None:
                self.wires[name].block()
                self.in_place[name] = None
        elif self.in_place[name] != current[0]:
            reachable = self.known[name] is not None
            self._give(name, current[0], current[1], None, reachable)

    def _poll(self) -> None:
        """The daemon's looks at its engine, the engine's own timers, and the end of faults, once a second."""
        self._aside(self.now + 1.0, self._poll)
        self._apply_weather()
        if int(self.now) % int(RESOLVE_RETRY) == 0:
            self._look_up()
        for host in list(self.hosts.values()):
            self.wires[host.name].tick()
            if int(self.now) % VOUCH_EVERY == 0:
                self._vouch(host)
            self._reconcile(host)
            if self.oracle.look(host):
                self._drop_session(host)

    def _look_up(self) -> None:
        """The name of a peer that does not answer leads to where it is now."""
        for name in self._doubted:
            if self.sides[name].endpoint:
                self.known[name] = self.address[self.peer(name)]
        self._doubted = {name for name, host in self.hosts.items() if host.node.unanswered(host.peer)}

    # -- key sources

    def _make_kme(self) -> KmePair:
        self.keys = RecordedKmes(self.rng, lambda: self.now, self._alarmed)
        return self.keys

    def _set_kmes(self) -> None:
        kme = self.kme
        kme.down = {end for end in ENDS if self._holds("down", end)}
        kme.liars = {end for end in ENDS if self._holds("lies", end)}
        kme.slow = {end: SLOW_KME for end in ENDS if self._holds("slow", end)}

    def _fetch(self, host: Host, effect: FetchNew | FetchAhead | FetchById) -> None:
        self._set_kmes()
        super()._fetch(host, effect)

    def _alarmed(self, end: str, source: str) -> bool:
        return self._holds(f"alarm at {source}", end)

    def _vouch(self, host: Host) -> None:
        for source in SOURCES:
            if not self._alarmed(host.name, source):
                self._vouched[host.name, source] = self.now
                host.node.vouch(host.peer, source, self.now)

    def _alarm(self, due: int, alarm: Alarm) -> None:
        """The keys that came to the end since its last good look are in doubt."""
        if (due, alarm) not in self._warnings:
            return
        self._warnings.remove((due, alarm))
        end, source = alarm.end, SOURCES[alarm.source]
        self._hold(f"alarm at {source}", end, alarm.seconds)
        since = self._vouched.get((end, source), float("-inf"))
        self.oracle.doubts(
            end,
            {ref for (who, ref), at in self.keys.came.items() if who == end and ref.source == source and at > since},
        )
        host = self.hosts.get(end)
        if host is not None:
            self.oracle.commits(host)  # which an alarm may make it forget
            host.node.distrust(host.peer, source, "an eavesdropper", self.present(end))
