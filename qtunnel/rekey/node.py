"""All peers of one gateway: from a datagram to the peer it belongs to. The only entrance of the rekeying core."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import count
from typing import Any

from qtunnel.crypto.kem import Encapsulate
from qtunnel.errors import HandshakeError
from qtunnel.handshake.fragments import Message, MessageType, Reassembler, mac1_key, parse
from qtunnel.handshake.messages import check_init_size
from qtunnel.handshake.responder import KnownPeer, Responder
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from qtunnel.keys.used import UsedKeys
from qtunnel.rekey.agenda import Agenda
from qtunnel.rekey.exchanges import Exchanges
from qtunnel.rekey.limits import (
    SOURCE_BURST,
    SOURCE_RATE,
    SOURCES,
    UNPROVEN_BURST,
    UNPROVEN_RATE,
    TokenBucket,
    TokenBuckets,
)
from qtunnel.rekey.model import Block, Defect, Effect, Fetched, Heard, Memory, Notice, Now, PeerSettings, Remember
from qtunnel.rekey.peer import PeerRekey
from qtunnel.rekey.timing import RESTART_AFTER_DEFECT
from qtunnel.secret import RandomBytes

SourceOf = Callable[[Any], Hashable]
"""From the address of a datagram to what of it a sender cannot change at will: not the port."""


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
    ) -> None:
        self.local = local
        self._random_bytes = random_bytes
        self._encapsulate = encapsulate
        self._mac_key = mac1_key(local.public.id)
        self._reassembler = Reassembler()
        self._source_of = source_of
        self._sources = TokenBuckets(SOURCE_BURST, SOURCE_RATE, SOURCES)
        self._unproven = TokenBucket(UNPROVEN_BURST, UNPROVEN_RATE)
        self._used = UsedKeys(random_bytes)
        self.peers: dict[str, PeerRekey] = {}
        self._by_id: dict[bytes, PeerRekey] = {}
        self._exchanges = Exchanges()
        self._tickets = count(1)
        self._effects: list[Effect] = []  # of all peers, which write to it as well
        self._agenda = Agenda()

    def add_peer(self, settings: PeerSettings, memory: Memory, now: Now) -> None:
        """A peer from the configuration, with what was remembered of it."""
        self._add(settings, memory, now, 0.0)

    def _add(self, settings: PeerSettings, memory: Memory, now: Now, delay: float) -> None:
        peer = PeerRekey(
            self.local, settings, memory, now, self._random_bytes, self._tickets, self._used, self._effects,
            self._encapsulate, delay,
        )  # fmt: skip
        self.peers[settings.name] = peer
        self._agenda.plan(settings.name, peer.deadline)
        self._by_id[settings.public.id] = peer

    def change_peer(self, settings: PeerSettings, now: Now) -> None:
        """Other settings for a peer of the same name and identity; what is in force goes on where they allow it."""
        peer = self.peers[settings.name]
        if peer.settings.public.id != settings.public.id:
            raise ValueError("another identity is another peer: remove the old one and add the new")
        self._contained(peer, now, lambda: peer.change(settings, now))

    def remove_peer(self, name: str) -> None:
        """Forget a peer, what was to be done for it, and wipe what was held for it."""
        peer = self.peers.pop(name)
        del self._by_id[peer.settings.public.id]
        self._exchanges.forget(name)
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
        try:
            result = bool(action())
            self._exchanges.set_ours(name, peer.outbound.exchange)
            self._agenda.plan(name, peer.deadline)
            return result
        except Exception as error:
            if received and isinstance(error, HandshakeError):
                self._agenda.plan(name, peer.deadline)
                raise
            memory = peer.context.memory
            self.remove_peer(name)
            self._effects += [
                Remember(name, memory),
                Block(name),
                Notice(name, "peer.defect", {"detail": "an internal error: the peer is blocked and begins anew"}),
                Defect(name, error),
            ]
            self._add(peer.settings, memory, now, RESTART_AFTER_DEFECT)
            return False

    def rekey_now(self, name: str, now: Now) -> bool:
        """Begin a rekey with that peer at once; False where that cannot be."""
        peer = self.peers[name]
        return self._contained(peer, now, lambda: peer.rekey_now(now))

    def fetched(self, name: str, ticket: int, result: Fetched, now: Now) -> None:
        """What came of a ``FetchNew`` or ``FetchById``; of a peer that is gone the keys are wiped."""
        peer = self.peers.get(name)
        if peer is None:
            result.wipe()
            return
        self._contained(peer, now, lambda: peer.fetched(ticket, result, now))

    def receive(self, datagram: bytes, address: Hashable, now: Now) -> Heard | None:
        """One datagram from ``address``. Who spoke, where that says something of where the peer is."""
        try:
            fragment = parse(datagram, self._mac_key)
            message = self._reassembler.add(address, fragment, now.mono)
            return None if message is None else self._message(message, address, now)
        except HandshakeError as error:
            self._reject(error, address)
        except Exception as error:  # of a sender that is not known yet: nobody's tunnel is touched
            self._reject(HandshakeError("defect", f"reading it failed ({type(error).__name__})"), address)
        return None

    def _message(self, message: Message, address: Hashable, now: Now) -> Heard | None:
        if message.type is MessageType.INIT:
            return self._init(message, address, now)
        route = self._exchanges.of_theirs if message.type is MessageType.COMMIT else self._exchanges.of_ours
        name = route(message.exchange)
        if name is None:
            raise HandshakeError("exchange", "belongs to no exchange that is under way")
        peer = self.peers[name]
        proven = self._contained(peer, now, lambda: peer.message(message, address, now), received=True)
        return Heard(name, proven=True) if proven else None

    def _reject(self, error: HandshakeError, address: Hashable) -> None:
        self._effects.append(
            Notice("", "message.rejected", {"reason": error.reason, "detail": error.detail, "address": str(address)})
        )

    def _init(self, message: Message, address: Hashable, now: Now) -> Heard | None:
        owner = self._exchanges.of_theirs(message.exchange)
        if owner is not None and self.peers[owner].inbound.repeated(message.exchange, message.body, address):
            return None
        suite = SUITES.get(message.suite)
        if suite is None:
            raise HandshakeError("suite", f"the sender uses suite {message.suite}, which this version does not know")
        check_init_size(suite, message.body)
        if not self._sources.take(self._source_of(address), now.mono):
            raise HandshakeError("flood", "more first messages a second than are looked at from one source")
        if not self._unproven.take(now.mono):
            raise HandshakeError("flood", "more first messages a second than are looked at")
        responder = Responder(self.local, suite, message.exchange, message.body, self._find)
        peer = self._by_id[responder.peer.id]
        name = peer.settings.name
        if owner is not None and owner != name:
            responder.wipe()
            raise HandshakeError("exchange", f"{name} sends the exchange id of another peer")
        fresh = self._contained(peer, now, lambda: peer.offered(responder, message, address, now), received=True)
        if self.peers.get(name) is peer and peer.inbound.knows(message.exchange):
            self._exchanges.add_theirs(name, message.exchange)
        return Heard(name, proven=False) if fresh else None

    def _find(self, identity: bytes) -> KnownPeer | None:
        peer = self._by_id.get(identity)
        return None if peer is None else KnownPeer(peer.settings.public, peer.settings.pairing)
