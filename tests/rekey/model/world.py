"""Two gateways, their engines, KMEs and network, with the faults of a plan. The cores are the real ones, with real
cryptography; what the daemon does around a core is here in short."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Hashable
from dataclasses import replace

from qtunnel.daemon.endpoints import RESOLVE_RETRY
from qtunnel.daemon.takeover import lease_of
from qtunnel.daemon.view import may_fall_short
from qtunnel.handshake.fragments import MessageType
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
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
    Now,
    Remember,
    Send,
)
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef
from tests.rekey.model.oracle import BrokenRuleError, Oracle
from tests.rekey.model.plan import (
    ENDS,
    Action,
    Alarm,
    Change,
    Clock,
    Crash,
    Kme,
    Lose,
    Move,
    Partition,
    Plan,
    Refuse,
    Rekey,
    Replay,
    Weather,
)
from tests.rekey.model.wire import Wire
from tests.rekey.simulation import EPOCH_OF_SIMULATION, Conditions, Host, KmePair, Simulation

_rng = random.Random(0)
IDENTITIES = tuple(sorted((Identity.create(_rng.randbytes) for _ in ENDS), key=lambda its: its.public.id))
SOURCES = ("metro", "backup")
TUNNEL_LOSS = 0.05
"""Share of WireGuard's own packets that are lost on top of what the network loses: it must get along with it."""
SLOW_KME = 10.0
UNKNOWN = object()
VOUCH_EVERY = 10
"""Seconds between two looks at the status of a source."""
RECORDED = 12
STANDSTILL = 10_000
"""Steps at one moment: the most that happen at once are some hundred, of a replay."""


class RecordedKmes(KmePair):
    """The pair, with a memory of what it delivered to whom and when. barred: whether an end asks a source for nothing,
    as the daemon does while there is an alarm."""

    def __init__(self, rng: random.Random, clock: Callable[[], float], barred: Callable[[str, str], bool]) -> None:
        super().__init__(rng)
        self._clock, self._barred = clock, barred
        self._bits: dict[tuple[str, KeyRef], bytes] = {}
        self.came: dict[tuple[str, KeyRef], float] = {}
        self.since_start: dict[str, set[KeyRef]] = {end: set() for end in ENDS}

    def get(self, who: str, source: str, size: int) -> tuple[KeyRef, Secret] | str:
        if self._barred(who, source):
            return f"{source}: in quarantine"
        return self._note(who, super().get(who, source, size))

    def get_by_id(self, who: str, ref: KeyRef) -> tuple[KeyRef, Secret] | str:
        if self._barred(who, ref.source):
            return f"{ref.source}: in quarantine"
        return self._note(who, super().get_by_id(who, ref))

    def _note(self, who: str, answer: tuple[KeyRef, Secret] | str) -> tuple[KeyRef, Secret] | str:
        if not isinstance(answer, str):
            self._bits[who, answer[0]] = bytes(answer[1].reveal())
            self.came[who, answer[0]] = self._clock()
            self.since_start[who].add(answer[0])
        return answer

    def bits(self, who: str, ref: KeyRef) -> bytes | None:
        """The key as that end got it."""
        return self._bits.get((who, ref))

    def others(self, who: str, ref: KeyRef) -> bytes | None:
        """The key as the other end got it, or would get it from a KME that does not lie."""
        return self._bits.get(("b" if who == "a" else "a", ref), self._waiting.get(ref.key_id))


class World(Simulation):
    """The simulation with everything that can go wrong. ``oracle`` holds the rules after every step."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sides = {end: plan.side(end) for end in ENDS}
        self.disk = {end: Memory() for end in ENDS}
        self.skew = dict.fromkeys(ENDS, 0.0)
        self.address: dict[str, Hashable] = {end: f"{end}0" for end in ENDS}
        self.known: dict[str, Hashable | None] = dict.fromkeys(ENDS)
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
        self._still = 0
        self._due: float | None = None
        self._asides: set[int] = set()
        self._done = dict.fromkeys(ENDS, 0)
        self._until: dict[tuple[str, str], float] = {}
        self._vouched: dict[tuple[str, str], float] = {}
        """By end and source, when the last look that found no alarm began."""
        self._weather: list[tuple[float, Conditions]] = []
        self._recorded: list[tuple[str, Hashable, tuple[bytes, ...]]] = []
        self._wg_rng = random.Random(plan.seed)
        self.wires = {end: Wire(end, plan.plain, self._wg_rng, lambda: self.now, self._carry) for end in ENDS}
        self.wires["a"].other, self.wires["b"].other = self.wires["b"], self.wires["a"]
        self.oracle = Oracle(self)
        low, high = IDENTITIES
        super().__init__(
            plan.seed,
            Conditions(plan.loss, plan.duplicate, 0.02, 0.02 + plan.spread),
            suite=SUITES[3],
            identities=(high, low) if plan.a_is_higher else (low, high),
        )
        self._aside(self.now + 1.0, self._poll)

    # -- hosts

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

    def peer(self, end: str) -> str:
        return "b" if end == "a" else "a"

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

    def present(self, name: str) -> Now:
        return Now(self.now, int((EPOCH_OF_SIMULATION + self.now + self.skew[name]) * 1e9))

    # -- network

    def _holds(self, what: str, end: str) -> bool:
        return self.now < self._until.get((what, end), 0.0)

    def _hold(self, what: str, end: str, seconds: float) -> None:
        self._until[what, end] = max(self._until.get((what, end), 0.0), self.now + seconds)

    def refuses(self, end: str) -> bool:
        """Whether the end's engine refuses everything now."""
        return self._holds("refuse", end)

    def _apply_weather(self) -> None:
        self._weather = [(until, its) for until, its in self._weather if self.now < until]
        plan = self.plan
        usual = Conditions(plan.loss, plan.duplicate, 0.02, 0.02 + plan.spread)
        self.conditions = self._weather[-1][1] if self._weather else usual

    def _cut_off(self, sender: str, tunnel: bool) -> bool:
        return any(self._holds("tunnel" if tunnel else "partition", who) for who in (sender, "everybody"))

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

    def _send_to(self, host: Host, datagram: bytes, address: Hashable) -> None:
        conditions, rng = self.conditions, self.rng
        came_from = self.address[host.name]
        for _ in range(2 if rng.random() < conditions.duplicate else 1):
            if rng.random() >= conditions.loss:
                delay = rng.uniform(conditions.least_delay, conditions.most_delay)
                self._at(self.now + delay, lambda: self._arrive(host.peer, address, came_from, datagram))

    def _arrive(self, receiver: str, at: Hashable, came_from: Hashable, datagram: bytes) -> None:
        host = self.hosts.get(receiver)
        if host is None or self.address[receiver] != at:
            return
        heard = host.node.receive(datagram, came_from, self.present(receiver))
        if heard is not None and (heard.proven or self.known[receiver] is None):
            self.known[receiver] = came_from

    def _carry(self, sender: str, arrives: Callable[[], None]) -> None:
        """A packet of WireGuard's, which finds its way whatever the address."""
        lost = self._wg_rng.random() < max(TUNNEL_LOSS, self.conditions.loss)
        if not lost and not self._cut_off(sender, tunnel=True):
            receiver = self.wires[self.peer(sender)]
            self._aside(self.now + 0.02, lambda: arrives() if receiver.up else None)

    # -- the daemon

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

    # -- faults

    def act(self, action: Action) -> None:
        """Let it happen now, and what follows at once."""
        self._act(action)
        for host in list(self.hosts.values()):
            self._carry_out(host)
        self._due = None
        self.oracle.check()

    def _act(self, action: Action) -> None:
        match action:
            case Crash():
                if action.end in self.hosts:
                    self._cut[action.end] = action
                    self._done[action.end] = 0
                    # Where it does nothing meanwhile, it dies all the same.
                    self._at(self.now + self.plan.interval, lambda: self._overdue(action))
            case Change():
                before = self.sides[action.end]
                self.sides[action.end] = replace(action.side, endpoint=before.endpoint)
                host = self.hosts.get(action.end)
                change = None if host is None else getattr(host.node, "change_peer", None)
                if action.live and change is not None:
                    self.configure(action.end)
                    self.oracle.changes(action.end, before)
                    change(self.settings[action.end], self.present(action.end))
                    self.wires[action.end].renew(self._ends_before(self.hosts[action.end]))
                    self._drop_forbidden(self.hosts[action.end])
                else:
                    self.crash(action.end, 0.0, keep=True)
            case Kme():
                if action.what == "loses":
                    self.kme.lose_keys()
                else:
                    self._hold(action.what, action.end, action.seconds)
            case Alarm():
                waiting = self._effects[action.end] + action.effects, action
                self._warnings.append(waiting)
                # Where it does nothing meanwhile, it comes all the same.
                self._at(self.now + self.plan.interval, lambda: self._alarm(*waiting))
            case Weather():
                worse = Conditions(action.loss, action.duplicate, 0.02, 0.02 + action.spread)
                self._weather.append((self.now + action.seconds, worse))
                self._apply_weather()
            case Partition():
                self._hold("partition", action.sender, action.seconds)
                if action.tunnel:
                    self._hold("tunnel", action.sender, action.seconds)
            case Lose():
                self._hold("lose", action.kind.name, action.seconds)
            case Replay():
                for receiver, came_from, datagrams in self._recorded[-action.back :]:
                    for datagram in datagrams:
                        self._arrive(receiver, self.address[receiver], action.where or came_from, datagram)
            case Move():
                roams = self.plan.roams
                self.address[roams] = f"{roams}{int(str(self.address[roams])[1:]) + 1}"
            case Clock():
                self.skew[action.end] += action.seconds
            case Rekey():
                for end in ENDS if action.end == "both" else (action.end,):
                    if end in self.hosts:
                        self.hosts[end].node.rekey_now(self.peer(end), self.present(end))
            case Refuse():
                self._hold("refuse", action.end, action.seconds)
            case _:
                raise AssertionError(f"unknown action {action}")

    def _overdue(self, crash: Crash) -> None:
        if self._cut.get(crash.end) is crash:
            self.crash(crash.end, crash.down, crash.keep)

    @property
    def settled(self) -> bool:
        """Whether both ends are there, and no crash or alarm waits for its moment."""
        return len(self.hosts) == len(ENDS) and not self._cut and not self._warnings

    def faults_end(self) -> float:
        """When the last fault that is under way is over."""
        times = [*self._until.values(), *(until for until, _ in self._weather), self.now]
        return max(times)

    def _aside(self, time: float, action: Callable[[], None]) -> None:
        """As ``_at``, for what does not touch a core."""
        self._at(time, action)
        self._asides.add(self._order)

    @property
    def upcoming(self) -> float:
        if self._due is None:
            deadlines = [time for host in self.hosts.values() if (time := host.node.deadline) is not None]
            self._due = min(deadlines, default=float("inf"))
        return min(self._due, self._queue[0][0])

    def _step(self, upcoming: float) -> None:
        before = self.now
        if upcoming < (self._due or 0.0) and self._queue[0][1] in self._asides:
            self.now = max(self.now, upcoming)
            _, order, action = heapq.heappop(self._queue)
            self._asides.discard(order)
            action()
        else:
            super()._step(upcoming)
            self._due = None
        self._still = self._still + 1 if self.now == before else 0
        if self._still > STANDSTILL:
            raise BrokenRuleError(f"at {self.now - 1000.0:.3f} s: time does not go on")
        self.oracle.check()
