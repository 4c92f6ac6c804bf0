"""The rules that hold in every world, looked at after every step. They know what the engine model has, what the KMEs
delivered and what crossed the wire, and ask the core only for what it claims."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from qtunnel.config import PeerConfig
from qtunnel.config.rekey import RekeyConfig
from qtunnel.control.messages import PeerStatus
from qtunnel.daemon.epochs import Epochs
from qtunnel.daemon.view import Tally, is_stale, peer_status
from qtunnel.engines.base import PeerStats
from qtunnel.handshake.fragments import MessageType
from qtunnel.handshake.messages import Offer
from qtunnel.keys.policy import Protection
from qtunnel.rekey.model import EpochInfo, FetchById, FetchNew, Install, Remember, Send
from qtunnel.rekey.protection import GuardState
from qtunnel.rekey.timing import COMMIT_LIMIT
from qtunnel.rekey.view import PeerView
from qtunnel.terms import ChainPolicy, KeyRef, QkdPolicy
from tests.rekey.model.plan import Side
from tests.rekey.model.wire import Session
from tests.rekey.simulation import Host

if TYPE_CHECKING:
    from tests.rekey.model.daemons import Daemons

LOOK = 2.0
"""Seconds until the daemon has seen that a session is too old and dropped it: it looks once a second."""
SELDOM = 8
"""Seconds between two looks at a status in which nothing but ages can have changed."""
REFUSAL = 3.0
"""Seconds for which an engine that refused excuses the daemon; then it is restarted."""


class BrokenRuleError(AssertionError):
    """A rule was broken."""


@dataclass
class Truth:
    """An epoch as it really is. made: by end, when it installed it. placed: the ends whose engine has taken it."""

    epoch: int
    psk: bytes
    info: EpochInfo
    made: dict[str, float] = field(default_factory=dict)
    placed: set[str] = field(default_factory=set)


class Oracle:
    """Raises ``BrokenRuleError``."""

    def __init__(self, world: Daemons) -> None:
        self._world = world
        self.epochs: dict[bytes, Truth] = {}
        self._sealed: dict[str, dict[bytes, float]] = {"a": {}, "b": {}}
        """By end, when it had the key of an exchange of its own."""
        self._sealed_keys: dict[KeyRef, bytes] = {}
        self._used: dict[KeyRef, bytes] = {}
        self._datagrams: dict[tuple[str, int, bytes, int], bytes] = {}
        self._since: dict[str, float] = {}
        self._good: dict[str, float] = {}
        self._had: dict[str, bool] = {}
        self._floor: dict[str, int] = {}
        self._views: dict[str, Epochs] = {}
        self._changed: dict[str, float] = {}
        self._weak: set[tuple[str, bytes]] = set()
        self._shown: dict[str, object] = {}
        self._seen: dict[str, object] = {}
        self._again: dict[str, float] = {}
        self._refused: dict[str, float] = {"a": -1e9, "b": -1e9}
        self._still_relaxed: set[str] = set()
        self._forgot: dict[str, float] = {"a": -1e9, "b": -1e9}
        self._doubted: dict[str, set[KeyRef]] = {"a": set(), "b": set()}

    def _hold(self, rule: bool, text: str) -> None:
        if not rule:
            raise BrokenRuleError(f"at {self._world.now - 1000.0:.3f} s: {text}")

    # -- what the world tells

    def started(self, end: str) -> None:
        world = self._world
        memory = world.disk[end]
        self._since[end] = world.now
        self._good.pop(end, None)
        self._had[end] = memory.had_epochs
        self._floor[end] = memory.epoch
        self._views[end] = Epochs()
        self._sealed[end] = {}
        self._still_relaxed.discard(end)

    def forgets(self, end: str) -> None:
        """The end's state directory is lost."""
        self._forgot[end] = self._world.now

    def doubts(self, end: str, refs: set[KeyRef]) -> None:
        """An alarm: of these, those in no epoch of the end's yet must never get into one."""
        mine = {ref for its in self.epochs.values() if end in its.made for ref in its.info.keys}
        self._doubted[end] |= refs - mine

    def changes(self, end: str, before: Side) -> None:
        """The policy is another one from now on; what is in place has to satisfy it, or goes. Where nothing is, or PQC
        alone is allowed already, the time without QKD goes on being counted; where it is allowed, a longer ``max_age``
        does not forbid it again before there is an epoch with QKD."""
        if not self._world.sides[end].may_relax:
            self._still_relaxed.discard(end)
        elif self._relaxed(end, before):
            self._still_relaxed.add(end)
        world, guard = self._world, self._world.hosts[end].node.peers[self._world.peer(end)].context.guard
        newest = max((its for its in self.epochs.values() if end in its.made), key=lambda its: its.epoch, default=None)
        passes = guard.state in (GuardState.PROTECTED, GuardState.RELAXED)
        relaxed = guard.relaxed and world.sides[end].may_relax
        if (
            passes
            and not relaxed
            and newest is not None
            and len(newest.info.sources) < max(1, world.sides[end].min_sources)
        ):
            self._good[end] = world.now
        self._changed[end] = world.now
        self._again.pop(end, None)

    def remembers(self, host: Host, effect: Remember) -> None:
        before, after = self._world.disk[host.name], effect.memory
        grows = before.epoch <= after.epoch and before.proposed <= after.proposed
        self._hold(grows and before.sent <= after.sent and before.seen <= after.seen, f"{host.name}: memory shrinks")

    def fetches(self, host: Host, effect: FetchNew | FetchById) -> None:
        end = host.name
        self._hold(self._world.sides[end].qkd is not QkdPolicy.OFF, f"{end}: asks a KME though its policy is off")
        if isinstance(effect, FetchById):
            for ref in effect.refs:
                got = ref in self._world.keys.since_start[end]
                self._hold(not got, f"{end}: asks for {ref.key_id}, which it got before")

    def sends(self, host: Host, effect: Send) -> None:
        world, end = self._world, host.name
        initiator = host.node.peers[host.peer].outbound._initiator
        for datagram in effect.datagrams:
            exchange = datagram[8:24]
            place = (end, world.incarnation[end], datagram[:1] + datagram[4:5] + exchange, 0)
            news = place not in self._datagrams
            same = self._datagrams.setdefault(place, datagram)
            self._hold(same == datagram, f"{end}: two different messages of type {datagram[0]} in one exchange")
            if initiator is None or initiator.exchange != exchange:
                continue
            if datagram[0] == MessageType.COMMIT and news:
                self._builds_on(host, initiator.offer)
            if datagram[0] == MessageType.INIT:
                written = initiator.offer.timestamp <= world.disk[end].sent
                self._hold(written, f"{end}: an offer leaves before its replay time is on disk")
                side, offered = world.sides[end], initiator.offer.policy
                if news and offered != side.policy:
                    relaxed = offered == replace(side.policy, qkd=QkdPolicy.PREFERRED) and self._relaxed(end)
                    self._hold(relaxed, f"{end}: offers under another policy than its own: {offered.words}")

    def _builds_on(self, host: Host, offer: Offer) -> None:
        """Whoever commits what builds on an epoch counts that one as committed: the answer has shown that it is."""
        world, end, other = self._world, host.name, self._world.hosts.get(host.peer)
        chosen = None
        if other is not None:
            chosen = other.node.peers[end].context.chain.choose(chain.id for chain in offer.chains)
        if chosen is not None:
            known = world.disk[end].epoch >= chosen.epoch
            self._hold(
                known, f"{end}: epoch {offer.epoch} builds on {chosen.epoch}, which is not known to be committed"
            )

    def installs(self, host: Host, effect: Install) -> None:
        """An epoch is committed at this end."""
        world, end, other = self._world, host.name, host.peer
        psk, side = bytes(effect.psk.reveal()), world.sides[end]
        info = host.node.peers[other].view().epochs[effect.epoch]
        name = f"{end}: epoch {effect.epoch}"
        self._hold(effect.epoch > self._floor[end], f"{name} is installed after {self._floor[end]}")
        self._hold(world.disk[end].epoch >= effect.epoch, f"{name} is installed before it is on disk")
        for its in self.epochs.values():
            if its.epoch == effect.epoch and its.psk != psk:
                self._hold(its.made.get(other, -1e9) <= self._forgot[other], f"{name} is another key at the other end")
        truth = self.epochs.setdefault(psk, Truth(effect.epoch, psk, info))
        same = (truth.epoch, truth.info.keys, truth.info.chained) == (effect.epoch, info.keys, info.chained)
        self._hold(same, f"{name}: the ends describe the same key differently")
        self._hold(end not in truth.made, f"{name} has a key that was installed before")
        if effect.handshake_now:
            # An epoch is in doubt COMMIT_LIMIT after its commit was sent first, as soon as there was its key. The next
            # answer settles that, which speaks for the peer's core, not for its engine.
            sent = self._sealed[end].get(psk, world.now)
            settled = other in truth.made and world.now >= sent + COMMIT_LIMIT - 1e-6
            had = settled or other in truth.placed
            self._hold(had, f"{name} is installed by its initiator before the responder has it")
        else:
            known = psk in self._sealed[other] or other not in world.hosts or world.now - self._since[other] < 10.0
            self._hold(known, f"{name} is installed by its responder before the initiator can have it")
        for ref in info.keys:
            self._hold(self._used.setdefault(ref, psk) == psk, f"{name}: {ref.key_id} is used a second time")
            self._hold(ref not in self._doubted[end], f"{name}: {ref.key_id} came before an alarm with no look since")
            both = world.keys.bits(end, ref) == world.keys.bits(other, ref) is not None
            self._hold(both, f"{name}: claims {ref.key_id}, which the two ends do not share")
        sources = len(info.sources)
        self._hold(side.qkd is not QkdPolicy.OFF or not sources, f"{name} has QKD keys though the policy is off")
        if side.qkd is QkdPolicy.REQUIRED and sources < max(1, side.min_sources):
            self._hold(self._relaxed(end), f"{name} has {sources} QKD sources")
            self._weak.add((end, psk))
        if side.chain is ChainPolicy.REQUIRED and self._had[end]:
            self._hold(info.chained, f"{name} has no chain though the policy requires one")
        # An epoch that was in doubt is as old as its key, and counts from then.
        sealed = self._sealed[end].get(psk, world.now)
        made = truth.made[end] = sealed if world.now >= sealed + COMMIT_LIMIT - 1e-6 else world.now
        self._floor[end], self._had[end] = effect.epoch, True
        if sources >= max(1, side.min_sources):
            self._good[end] = made
            self._still_relaxed.discard(end)

    def places(self, end: str, psk: bytes) -> None:
        """The engine has taken it."""
        if psk in self.epochs:
            self.epochs[psk].placed.add(end)

    def _relaxed(self, end: str, side: Side | None = None) -> bool:
        """Whether the end's policy, or ``side`` in its place, may do without QKD: the last epoch with it is past
        max_age, or was when that was shorter."""
        world, side = self._world, side or self._world.sides[end]
        since = self._good.get(end, self._since[end])
        over = world.now >= since + side.max_age * world.plan.interval - 1e-6
        return side.may_relax and (over or end in self._still_relaxed)

    def commits(self, host: Host) -> None:
        """The key of an exchange that the end has committed, if there is one now."""
        sealed = host.node.peers[host.peer].outbound._sealed
        if sealed is not None:
            psk = bytes(sealed.keys.psk.reveal())
            self._sealed[host.name].setdefault(psk, self._world.now)
            for ref in sealed.keys.keys:
                self._hold(self._sealed_keys.setdefault(ref, psk) == psk, f"{host.name}: {ref.key_id} is used twice")

    # -- what it looks at by itself

    def check(self) -> None:
        """After every step."""
        world = self._world
        for end, host in world.hosts.items():
            self.commits(host)
            if world.refuses(end):
                self._refused[end] = world.now
            self._check_session(end)
        a, b = world.in_place["a"], world.in_place["b"]
        if isinstance(a, int) and a == b:
            self._hold(world.wires["a"].psk == world.wires["b"].psk, f"both ends have an epoch {a}, not the same")

    def _check_session(self, end: str) -> None:
        world = self._world
        session = world.wires[end].session
        if session is None or world.now - self._refused[end] < REFUSAL:
            return
        truth = self.epochs.get(session.psk)
        self._hold(truth is not None and end in truth.made, f"{end}: a session of a key that is no epoch's")
        assert truth is not None
        if world.now - self._changed.get(end, -1e9) <= LOOK:
            return
        age = world.now - truth.made[end]
        limit = world.max_age(end) + world.sides[end].grace + LOOK
        # Where max_age was made shorter, the time without QKD that is allowed begins with that.
        shortened = world.now - self._changed.get(end, -1e9) <= world.sides[end].grace + LOOK
        self._hold(age <= limit or shortened, f"{end}: sends under epoch {truth.epoch} of {age:.1f} s ago")
        side = world.sides[end]
        if side.qkd is QkdPolicy.REQUIRED:
            enough = len(truth.info.sources) >= max(1, side.min_sources)
            allowed = enough or (side.may_relax and ((end, session.psk) in self._weak or self._relaxed(end)))
            self._hold(allowed, f"{end}: sends under epoch {truth.epoch}, which its policy does not allow")

    def judged_by(self, host: Host) -> tuple[PeerConfig, PeerView]:
        """What the daemon judges a session by: configuration and view of the peer, with what the core has forgotten."""
        world, side = self._world, self._world.sides[host.name]
        sources = dict.fromkeys(world.settings[host.name].sources)
        qkd = SimpleNamespace(policy="any", max_age=world.max_age(host.name), sources=sources)
        config = SimpleNamespace(name=host.peer, policy=side.policy, qkd=qkd, rekey=RekeyConfig())
        view = self._views[host.name].complete(host.node.peers[host.peer].view(), world.now)
        return cast(PeerConfig, config), view

    def look(self, host: Host) -> bool:
        """The status, held against the engine. Whether the daemon has to drop the session."""
        world, end = self._world, host.name
        wire = world.wires[end]
        level = host.node.peers[host.peer].context.guard.protection()
        seen = wire.session, world.in_place[end], level
        if self._seen.get(end) == seen and world.now < self._again.get(end, 0.0):
            return False  # nothing can have changed
        self._seen[end] = seen
        self._again[end] = world.now if wire.plain else self._until(end, wire.session)
        stats = PeerStats(None, wire.last_handshake, 0, 0, wire.claims(), newest_epoch=wire.newest)
        config, view = self.judged_by(host)
        if level in (Protection.BLOCKED, Protection.STARTING) and world.now - self._refused[end] >= REFUSAL:
            self._hold(wire.session is None, f"{end}: has a session, and is {view.protection.value}")
        placed = world.in_place[end]
        installed = placed if isinstance(placed, int) else None
        stale = is_stale(config, view, stats, world.now)
        shown = (stats.epoch_in_force, installed, level, wire.session, int(world.now) // SELDOM)
        if self._shown.get(end) != shown:
            self._shown[end] = shown
            self._judge_status(
                host, peer_status(config, view, stats, Tally(), str, None, installed, world.now, world.now)
            )
        return stale

    def _until(self, end: str, session: Session | None) -> float:
        """Until when a status of ours tells the same: a session ages, and becomes too old."""
        world = self._world
        again = world.now + SELDOM
        if session is not None and session.psk in self.epochs:
            again = min(again, self.epochs[session.psk].made.get(end, 0.0) + world.max_age(end))
        return again

    def _judge_status(self, host: Host, status: PeerStatus) -> None:
        world, end = self._world, host.name
        wire, side = world.wires[end], world.sides[end]
        session = wire.session
        truth = None if session is None else self.epochs.get(session.psk)
        if session is None and wire.plain:
            return  # it tells its newest handshake, and not whether the session made by it is over: nothing is sent
        self._hold(status.epoch_installed in (None, wire.epoch), f"{end}: shows an epoch as installed that is not")
        if status.epoch_in_force is not None:
            real = None if truth is None else truth.epoch
            claimed = status.epoch_in_force
            right = real is not None and (claimed == real or (wire.plain and claimed < real))
            self._hold(right, f"{end}: shows epoch {status.epoch_in_force} in force, which is {real}")
        if status.protection in ("qkd+pqc", "pqc-only"):
            self._hold(truth is not None and end in truth.made, f"{end}: shows {status.protection} without a session")
            assert truth is not None
            self._hold(world.now - truth.made[end] <= world.max_age(end) + LOOK, f"{end}: shows a dead key as alive")
            if status.protection == "qkd+pqc":
                enough = len(truth.info.sources) >= max(1, side.min_sources)
                self._hold(enough, f"{end}: shows QKD, which is not in epoch {truth.epoch}")
            shown = {used.source for used in status.key_ids}
            self._hold(shown <= set(truth.info.sources), f"{end}: shows sources that are not in it")
            self._hold(truth.info.chained or not status.chained, f"{end}: shows a chain that is not in it")
            if not wire.plain:
                ids = [(used.source, used.key_id) for used in status.key_ids]
                self._hold(ids == [(ref.source, ref.key_id) for ref in truth.info.keys], f"{end}: shows other keys")
                self._hold(status.chained == truth.info.chained, f"{end}: shows another chain")
        elif status.protected:
            self._hold(False, f"{end}: shows {status.protection} as protected")
