"""Several gateways without a network: whoever tests hands their datagrams over, from whatever address."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace

from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import Offer
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity, PublicIdentity
from qtunnel.rekey.model import Effect, Heard, Memory, Notice, Now, PeerSettings, Send
from qtunnel.rekey.node import RekeyNode
from qtunnel.tai64n import tai64n
from qtunnel.terms import Policy, QkdPolicy

SUITE = SUITES[1]
OFF = Policy(QkdPolicy.OFF)
_rng = random.Random(7)
IDENTITIES = {name: Identity.create(_rng.randbytes) for name in ("hub", "b", "c")}


def now(mono: float) -> Now:
    return Now(mono, int((1_700_000_000 + mono) * 1e9))


def settings(name: str, public: PublicIdentity | None = None, **changes: object) -> PeerSettings:
    plain = PeerSettings(name, public or IDENTITIES[name].public, SUITE, OFF, 10.0, 0.1, 600.0)
    return replace(plain, **changes)  # type: ignore[arg-type]  # fields by name, tests only


def node(name: str, *peers: PeerSettings, source_of: Callable[[Hashable], Hashable] = lambda it: it) -> RekeyNode:
    made = RekeyNode(IDENTITIES[name], random.Random(name).randbytes, source_of=source_of)
    for peer in peers:
        made.add_peer(peer, Memory(), now(0.0))
    return made


def first_message(name: str, at: float, exchange: bytes | None = None, epoch: int = 1, to: str = "hub") -> list[bytes]:
    """Datagrams of a message 1 that ``name`` makes at that time."""
    exchange = exchange or _rng.randbytes(16)
    offer = Offer(tai64n(now(at).unix_ns), epoch, OFF, 0, (), ())
    body = Initiator(IDENTITIES[name], IDENTITIES[to].public, SUITE, exchange, offer, _rng.randbytes).message
    return cut(Message(MessageType.INIT, SUITE.id, exchange, body), mac1_key(IDENTITIES[to].public.id))


def junk(size: int, to: str = "hub") -> list[bytes]:
    """Datagrams of a message 1 of random bytes, which anybody can make who knows the public file."""
    body = _rng.randbytes(size)
    return cut(Message(MessageType.INIT, SUITE.id, _rng.randbytes(16), body), mac1_key(IDENTITIES[to].public.id))


def hand(to: RekeyNode, datagrams: Iterable[bytes], address: Hashable, at: float) -> Heard | None:
    """Deliver; what the last datagram said of its sender."""
    heard = None
    for datagram in datagrams:
        heard = to.receive(datagram, address, now(at))
    return heard


def sent(effects: list[Effect], peer: str) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send) and effect.peer == peer]


def datagrams(effects: list[Effect], peer: str) -> list[bytes]:
    return [datagram for send in sent(effects, peer) for datagram in send.datagrams]


def reasons(effects: list[Effect], kind: str = "message.rejected") -> list[object]:
    return [effect.fields["reason"] for effect in effects if isinstance(effect, Notice) and effect.kind == kind]


def exchange_of(datagram: bytes) -> bytes:
    return datagram[8:24]
