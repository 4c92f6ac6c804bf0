"""All peers of one gateway: from a datagram to the peer it belongs to. The only entrance of the rekeying core."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import count

from qtunnel.crypto.kem import Encapsulate
from qtunnel.errors import HandshakeError
from qtunnel.handshake.cookies import COOKIE_TYPE, CookieReply, mint
from qtunnel.handshake.fragments import Message, MessageType, mac1_key, parse
from qtunnel.handshake.messages import check_init_size, check_length, unknown_suite
from qtunnel.handshake.responder import KnownPeer, Responder
from qtunnel.handshake.suites import SuitesInUse
from qtunnel.identity import Identity
from qtunnel.keys.pace import Stock
from qtunnel.keys.policy import Protection
from qtunnel.keys.schedule import start_delay
from qtunnel.keys.used import UsedKeys
from qtunnel.rekey.agenda import Agenda
from qtunnel.rekey.ahead import NOTHING_KEPT, Kept
from qtunnel.rekey.exchanges import Exchanges
from qtunnel.rekey.gate import CookieSource, Gate, Passed, SourceOf
from qtunnel.rekey.model import (
    Block,
    Defect,
    Effect,
    EpochInfo,
    Fetched,
    Heard,
    Memory,
    Notice,
    Now,
    PeerSettings,
    Remember,
)
from qtunnel.rekey.peer import PeerRekey
from qtunnel.rekey.timing import RESTART_AFTER_DEFECT
from qtunnel.rekey.view import PeerView
from qtunnel.secret import RandomBytes

_COOKIE = bytes([COOKIE_TYPE])


class RekeyNode:
    """The rekeying core of one gateway, sans-IO.

    Feed it datagrams, key sources' answers and the time; carry out ``take_effects`` in order after each call.
    """

    def __init__(
        self,
        local: Identity,
        random_bytes: RandomBytes,
        *,
        encapsulate: Encapsulate | None = None,
        source_of: SourceOf = lambda address: address,
        cookie_source: CookieSource = lambda address: repr(address).encode(),
    ) -> None:
        self.local = local
        self._random_bytes = random_bytes
        self._encapsulate = encapsulate
        self._mac_key = mac1_key(local.public.id)
        cookies = mint(local.public.id, random_bytes)
        self.expected, self.anybody = (Gate(cookies, source_of, cookie_source) for _ in range(2))
        """For datagrams from where a peer is believed to be, and for all others: a flood of one does not touch the
        other."""
        self._stirred = False
        self._used = UsedKeys(random_bytes)
        self.peers: dict[str, PeerRekey] = {}
        self._by_id: dict[bytes, PeerRekey] = {}
        self._views: dict[str, PeerView] = {}
        """Of peers with which nothing was done since."""
        self._exchanges = Exchanges()
        self._suites = SuitesInUse()
        self._tickets = count(1)
        self._effects: list[Effect] = []  # of all peers, which write to it as well
        self._agenda = Agenda()

    def add_peer(
        self, settings: PeerSettings, memory: Memory, now: Now, among: int = 1, kept: Kept = NOTHING_KEPT
    ) -> None:
        """A peer from the configuration, with what was remembered and kept of it. among: how many are added together,
        over whose first offers some time is spread."""
        fraction = int.from_bytes(self._random_bytes(6), "big") / (1 << 48) if among > 1 else 0.0
        self._add(settings, memory, now, start_delay(among, fraction), kept)

    def _add(self, settings: PeerSettings, memory: Memory, now: Now, delay: float, kept: Kept) -> None:
        peer = PeerRekey(
            self.local, settings, memory, now, self._random_bytes, self._tickets, self._used, self._effects,
            self._encapsulate, delay, lambda: len(self.peers), kept,
        )  # fmt: skip
        peer.context.pressed = lambda now: self.expected.loaded(now) or self.anybody.loaded(now)
        self.peers[settings.name] = peer
        self._suites.set(settings.name, settings.suite)
        self._agenda.plan(settings.name, peer.deadline)
        self._by_id[settings.public.id] = peer

    def change_peer(self, settings: PeerSettings, now: Now) -> None:
        """Other settings for a peer of the same name and identity; what is in force goes on where they allow it."""
        peer = self.peers[settings.name]
        if peer.settings.public.id != settings.public.id:
            raise ValueError("another identity is another peer: remove the old one and add the new")
        self._suites.set(settings.name, settings.suite)
        self._contained(peer, now, lambda: peer.change(settings, now))

    def remove_peer(self, name: str) -> None:
        """Forget a peer, what was to be done for it, and wipe what was held for it."""
        self._take_out(name)
        self._used.forget(name)

    def _take_out(self, name: str) -> None:
        peer = self.peers.pop(name)
        self._views.pop(name, None)
        del self._by_id[peer.settings.public.id]
        self._exchanges.forget(name)
        self._suites.forget(name)
        self._agenda.plan(name, None)
        self._effects[:] = [effect for effect in self._effects if effect.peer != name]
        peer.close()

    def take_effects(self) -> list[Effect]:
        """What is to be done now, in order."""
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    @property
    def deadline(self) -> float | None:
        """When ``tick`` has something to do; monotonic seconds."""
        return self._agenda.first

    def tick(self, now: Now) -> None:
        """Everything that the passing of time brings."""
        for name in self._agenda.due(now.mono):
            peer = self.peers[name]
            self._contained(peer, now, lambda peer=peer: peer.tick(now))  # type: ignore[misc]  # lambda's default

    def _contained(
        self, peer: PeerRekey, now: Now, action: Callable[[], bool | None], *, received: bool = False
    ) -> bool:
        """Do it; where the code fails, that peer alone is blocked and begins anew. False then, or what it says.

        received: a datagram is being read, so a ``HandshakeError`` is its sender's doing, and raised.
        """
        name = peer.settings.name
        self._views.pop(name, None)
        try:
            result = bool(action())
            self._exchanges.set_ours(name, peer.outbound.exchange)
            self._agenda.plan(name, peer.deadline)
            return result
        except Exception as error:
            if received and isinstance(error, HandshakeError):
                self._agenda.plan(name, peer.deadline)
                raise
            memory, before = peer.context.memory, peer.view().protection
            self._take_out(name)
            self._effects += [
                Remember(name, peer.settings.public.id, memory),
                Block(name),
                Notice(name, "peer.defect", {"detail": "an internal error: the peer is blocked and begins anew"}),
                *_changed(name, before),
                Defect(name, error),
            ]
            self._add(peer.settings, memory, now, RESTART_AFTER_DEFECT, Kept(why="an internal error"))
            return False

    def view(self, name: str) -> PeerView:
        """What there is to see of a peer, which must be there."""
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = self.peers[name].view()
        return view

    def unanswered(self, name: str) -> bool:
        """Whether that peer has been silent for some seconds of an exchange of ours, and has not spoken since."""
        peer = self.peers.get(name)
        return peer is not None and peer.outbound.unanswered

    def unkept(self, name: str, now: Now) -> None:
        """A ``Keep`` with keys that are used failed, and what was on disk before may be there still."""
        peer = self.peers.get(name)
        if peer is not None:
            self._contained(peer, now, lambda: peer.unkept(now))

    def take_up(self, name: str, installed: EpochInfo, in_force: EpochInfo | None, now: Now) -> None:
        """What an engine that outlived a restart of ours has in place for that peer."""
        peer = self.peers[name]
        self._contained(peer, now, lambda: peer.take_up(installed, in_force))

    def rekey_now(self, name: str, now: Now) -> bool:
        """Begin a rekey with that peer at once; False where that cannot be."""
        peer = self.peers[name]
        return self._contained(peer, now, lambda: peer.rekey_now(now))

    def supply(self, name: str, stock: Stock, now: Now) -> None:
        """What a key source has left for that peer."""
        peer = self.peers.get(name)
        if peer is not None:
            self._contained(peer, now, lambda: peer.supply(stock))

    def vouch(self, name: str, source: str, at: float) -> None:
        """A look that began then (monotonic seconds) found nothing wrong with that source's keys with that peer."""
        peer = self.peers.get(name)
        if peer is not None:
            peer.vouch(source, at)

    def distrust(self, name: str, source: str, why: str, now: Now) -> None:
        """A look found an alarm: keys that came since the last good one must not be used. why: the alarm, in words."""
        peer = self.peers.get(name)
        if peer is not None:
            self._contained(peer, now, lambda: peer.distrust(source, why, now))

    def carried(self, name: str, total_bytes: int, total_packets: int | None, now: Now) -> None:
        """The engine's counters for that peer, both directions together; packets: None where it does not count them."""
        peer = self.peers.get(name)
        if peer is not None:
            self._contained(peer, now, lambda: peer.carried(total_bytes, total_packets, now))

    def fetched(self, name: str, ticket: int, result: Fetched, now: Now) -> None:
        """What came of a ``Fetch``; of a peer that is gone the keys are wiped."""
        peer = self.peers.get(name)
        if peer is None:
            result.wipe()
            return
        self._contained(peer, now, lambda: peer.fetched(ticket, result, now))

    def receive(self, datagram: bytes, address: Hashable, now: Now, *, expected: bool = False) -> Heard | None:
        """One datagram from ``address``. Who spoke, where that says something of where the peer is.

        expected: a peer is believed to be there. That is no proof; it only decides whose flood could hinder it.
        """
        gate = self.expected if expected else self.anybody
        try:
            if datagram[:1] == _COOKIE:
                self._cookie_reply(datagram, now)
                return None
            fragment = parse(datagram, self._mac_key, self._is_known)
            check_length(self._suites.get(fragment.suite), fragment)
            passed = gate.fragment(fragment, datagram, address, now.mono)
            return None if passed is None else self._message(passed, gate, address, now)
        except HandshakeError as error:
            rejected = error
        except Exception as error:  # of a sender that is not known yet: nobody's tunnel is touched
            rejected = HandshakeError("defect", f"reading it failed ({type(error).__name__})")
        notice = gate.tell(rejected, address, now.mono)
        if notice is not None:
            self._effects.append(notice)
            self._stirred = True
        return None

    def take_replies(self) -> list[tuple[bytes, Hashable]]:
        """Datagrams that answer at once, with their addresses: cookies. They wait for nothing, and may be dropped."""
        replies = self.expected.replies + self.anybody.replies
        self.expected.replies, self.anybody.replies = [], []
        return replies

    def stirred(self) -> bool:
        """Whether datagrams since the last call reached a peer, or left anything for ``take_effects``."""
        stirred, self._stirred = self._stirred, False
        return stirred

    def _is_known(self, kind: MessageType, exchange: bytes) -> bool:
        """Whether a second to fourth message can belong to an exchange of somebody's."""
        if kind is MessageType.COMMIT:
            return bool(self._exchanges.of_theirs(exchange))
        return self._exchanges.of_ours(exchange) is not None

    def _route(self, message: Message) -> str | None:
        """The peer whose exchange it belongs to. A commit names only an id, which several peers may have chosen: it is
        for the one whose commit it is, and where it is nobody's, for none of several."""
        if message.type is not MessageType.COMMIT:
            return self._exchanges.of_ours(message.exchange)
        owners = self._exchanges.of_theirs(message.exchange)
        if len(owners) == 1:
            return owners[0]
        its = (name for name in owners if self.peers[name].inbound.awaits(message.exchange, message.body))
        return next(its, None)

    def _cookie_reply(self, datagram: bytes, now: Now) -> None:
        reply = CookieReply.unpack(datagram)
        name = self._exchanges.of_ours(reply.exchange)
        if name is None:
            raise HandshakeError("exchange", "belongs to no exchange that is under way")
        self._stirred = True
        peer = self.peers[name]
        self._contained(peer, now, lambda: peer.outbound.cookie(reply, now), received=True)

    def _message(self, passed: Passed, gate: Gate, address: Hashable, now: Now) -> Heard | None:
        self._stirred = True
        message = passed.message
        if message.type is MessageType.INIT:
            return self._init(passed, gate, address, now)
        name = self._route(message)
        if name is None:  # also where it ended since its first fragment came
            raise HandshakeError("exchange", "belongs to no exchange that is under way")
        peer = self.peers[name]
        proven = self._contained(peer, now, lambda: peer.message(message, address, now), received=True)
        return Heard(name, proven=True) if proven else None

    def _init(self, passed: Passed, gate: Gate, address: Hashable, now: Now) -> Heard | None:
        message = passed.message
        for owner in self._exchanges.of_theirs(message.exchange):
            self._views.pop(owner, None)
            if self.peers[owner].inbound.repeated(message.exchange, message.body, address, now):
                return None
        suite = self._suites.get(message.suite)
        if suite is None:
            raise HandshakeError("suite", unknown_suite(message.suite))
        check_init_size(suite, message.body)
        gate.unproven(address, now.mono, at_home=passed.at_home, costly=suite.costly)
        responder = Responder(self.local, suite, message.exchange, message.body, self._find)
        peer = self._by_id[responder.peer.id]
        name = peer.settings.name
        fresh = self._contained(peer, now, lambda: peer.offered(responder, message, address, now), received=True)
        if self.peers.get(name) is peer and peer.inbound.knows(message.exchange):
            self._exchanges.add_theirs(name, message.exchange)
        return Heard(name, proven=False) if fresh else None

    def _find(self, identity: bytes) -> KnownPeer | None:
        peer = self._by_id.get(identity)
        return None if peer is None else KnownPeer(peer.settings.public, peer.settings.pairing)


def _changed(name: str, before: Protection) -> list[Notice]:
    """The event for a peer that begins anew, by which the level of before is lost."""
    if before is Protection.STARTING:
        return []
    return [Notice(name, "protection.changed", {"before": before.value, "after": Protection.STARTING.value})]
