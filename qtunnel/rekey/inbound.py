"""The exchange that the peer begins: authenticate, fetch by reference, answer, install on commit."""

from __future__ import annotations

import hmac
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from qtunnel.errors import HandshakeError
from qtunnel.handshake.fragments import MessageType
from qtunnel.handshake.messages import Answer, Offer, Verdict, clip
from qtunnel.handshake.responder import Responder
from qtunnel.handshake.transcript import Sealed
from qtunnel.keys.chain import link
from qtunnel.keys.policy import Shortfall, judge
from qtunnel.rekey.context import PeerContext
from qtunnel.rekey.model import FetchById, Fetched, Now, Send
from qtunnel.rekey.timing import FETCH_LIMIT, PENDING_LIMIT
from qtunnel.secret import Secret
from qtunnel.statemachine import Machine
from qtunnel.terms import KeyRef, QkdPolicy


class InState(Enum):
    IDLE = "idle"
    FETCHING = "fetching"
    ANSWERED = "answered"


class InEvent(Enum):
    FETCH = "authenticated offer, keys to fetch"
    ANSWER = "keys in hand, or as many as there are"
    COMMIT = "commit"
    REFUSED = "refused"
    EXPIRED = "timed out"


IN_TABLE = {
    (InState.IDLE, InEvent.FETCH): InState.FETCHING,
    (InState.IDLE, InEvent.ANSWER): InState.ANSWERED,
    (InState.IDLE, InEvent.REFUSED): InState.IDLE,
    (InState.FETCHING, InEvent.FETCH): InState.FETCHING,
    (InState.FETCHING, InEvent.ANSWER): InState.ANSWERED,
    (InState.FETCHING, InEvent.REFUSED): InState.IDLE,
    (InState.FETCHING, InEvent.EXPIRED): InState.IDLE,
    (InState.ANSWERED, InEvent.FETCH): InState.FETCHING,
    (InState.ANSWERED, InEvent.ANSWER): InState.ANSWERED,
    (InState.ANSWERED, InEvent.COMMIT): InState.IDLE,
    (InState.ANSWERED, InEvent.REFUSED): InState.IDLE,
    (InState.ANSWERED, InEvent.EXPIRED): InState.IDLE,
}
"""A new, authenticated offer with a later timestamp takes the place of the one before at any state."""

_SHORTFALLS = {Shortfall.QKD: Verdict.QKD_REQUIRED, Shortfall.CHAIN: Verdict.CHAIN_REQUIRED}


@dataclass(slots=True)
class _Sent:
    """What an exchange of the past answered, for retransmissions of the message it answered to."""

    exchange: bytes
    init: bytes
    response: tuple[bytes, ...]
    commit: bytes = b""
    committed: tuple[bytes, ...] = ()


class Inbound:
    """The peer's exchange with us."""

    def __init__(self, context: PeerContext) -> None:
        self._context = context
        self._machine = Machine(IN_TABLE, InState.IDLE)
        self._responder: Responder | None = None
        self._address: Hashable | None = None
        self._init = b""
        self._usable: list[KeyRef] = []
        self._in_flight: dict[KeyRef, int] = {}
        self._failures: dict[str, str] = {}
        self._sealed: Sealed | None = None
        self._sent: _Sent | None = None
        self._limit = 0.0
        self._started = 0.0

    @property
    def state(self) -> InState:
        return self._machine.state

    @property
    def deadline(self) -> float | None:
        return None if self.state is InState.IDLE else self._limit

    @property
    def started(self) -> float:
        """When the offer under way came; monotonic seconds."""
        return self._started

    def asked(self, ticket: int) -> bool:
        """Whether this fetch is ours."""
        return ticket in self._in_flight.values()

    def knows(self, exchange: bytes) -> bool:
        """Whether this exchange is, or was lately, ours to answer."""
        return (self._responder is not None and self._responder.exchange == exchange) or (
            self._sent is not None and self._sent.exchange == exchange
        )

    def repeated(self, exchange: bytes, body: bytes, address: Hashable) -> bool:
        """Message 1 once more: answer as before, without any computation. False where it is news."""
        if self._responder is not None and self._responder.exchange == exchange and body == self._init:
            return True  # still fetching: the answer will come
        sent = self._sent
        if sent is not None and sent.exchange == exchange and body == sent.init:
            self._send(sent.response, address)
            return True
        return False

    def _send(self, datagrams: tuple[bytes, ...], address: Hashable) -> None:
        self._context.effects.append(Send(self._context.name, datagrams, address))

    def offer(self, responder: Responder, body: bytes, address: Hashable, now: Now) -> None:
        """An authenticated offer, newer than any before it."""
        context = self._context
        context.remember(seen=responder.offer.timestamp)
        self._drop()
        self._responder, self._init, self._address = responder, body, address
        self._failures = {}
        self._started = now.mono
        self._limit = now.mono + FETCH_LIMIT
        offer = responder.offer
        if offer.epoch <= context.floor:
            self._refuse(Verdict.STALE_EPOCH, "", now)
            return
        context.notice("rekey.started", role="responder")
        self._usable = self._choose(offer)
        missing = [ref for ref in self._usable if ref not in context.theirs]
        if not missing:
            self._answer(now)
            return
        self._machine.fire(InEvent.FETCH)
        news = tuple(ref for ref in missing if ref not in self._in_flight)
        if news:  # a key that is being fetched already must not be asked for twice: the call consumes it
            ticket = next(context.tickets)
            self._in_flight |= dict.fromkeys(news, ticket)
            context.effects.append(FetchById(context.name, ticket, news))

    def _choose(self, offer: Offer) -> list[KeyRef]:
        """The offered keys that we have a source for, one per source; our own policy may want none."""
        context = self._context
        if context.policy.qkd is QkdPolicy.OFF:
            return []
        usable: dict[str, KeyRef] = {}
        for ref in offer.keys:
            if ref.source in context.settings.sources:
                usable.setdefault(ref.source, ref)
            else:
                self._failures[ref.source] = (
                    f"no key source {ref.source!r} is configured for this peer here; both ends must use the same name"
                )
        return list(usable.values())

    def fetched(self, ticket: int, result: Fetched, now: Now) -> None:
        """The sources answered."""
        context = self._context
        for ref, key in result.keys:
            context.theirs.put(ref, key, now.mono)
        for source, detail in result.failures:
            context.notice("source.failed", source=source, detail=detail)
        self._in_flight = {ref: its for ref, its in self._in_flight.items() if its != ticket}
        if self.state is not InState.FETCHING or self._responder is None:
            return
        self._failures |= dict(result.failures)
        if not any(ref in self._in_flight for ref in self._usable):
            self._answer(now)

    def _answer(self, now: Now) -> None:
        """All keys are in hand that will ever be: judge, and accept or refuse."""
        context, responder = self._context, self._responder
        assert responder is not None
        offer = responder.offer
        keys = [(ref, key) for ref in self._usable if (key := context.theirs.get(ref)) is not None]
        chosen = context.chain.choose(chain.id for chain in offer.chains)
        shortfall = judge(
            context.policy, offer.policy, len(keys), chained=chosen is not None, had_epochs=context.floor > 0
        )
        detail = "; ".join(self._failures.values())
        if shortfall is not None:
            self._refuse(_SHORTFALLS[shortfall], detail, now)
            return
        indices = tuple(offer.keys.index(ref) for ref, _ in keys)
        chain_id = None if chosen is None else chosen.id
        answer = Answer(Verdict.ACCEPTED, offer.epoch, context.policy, 0, chain_id, indices, clip(detail))
        sealed = self._respond(answer, None if chosen is None else chosen.secret, keys)
        if sealed is None:
            return
        self._machine.fire(InEvent.ANSWER)
        self._sealed = sealed
        context.epoch = max(context.epoch, offer.epoch)
        self._limit = self._started + PENDING_LIMIT

    def _respond(self, answer: Answer, chain: Secret | None, keys: list[tuple[KeyRef, Secret]]) -> Sealed | None:
        context, responder = self._context, self._responder
        assert responder is not None
        try:
            message, sealed = responder.respond(
                answer, chain, keys, context.random_bytes, encapsulate=context.encapsulate
            )
        except HandshakeError as error:
            context.notice("message.rejected", message="init", reason=error.reason, detail=error.detail)
            self._end(InEvent.REFUSED)
            return None
        datagrams = tuple(context.datagrams(MessageType.RESPONSE, responder.exchange, message))
        self._sent = _Sent(responder.exchange, self._init, datagrams)
        self._send(datagrams, self._address)
        self._responder = None
        return sealed

    def _refuse(self, verdict: Verdict, detail: str, now: Now) -> None:
        context = self._context
        answer = Answer(verdict, context.epoch, context.policy, 0, None, (), clip(detail))
        words = f"{verdict.words}: {detail}" if detail else verdict.words
        reason = verdict.name.lower().replace("_", "-")
        context.notice("rekey.failed", role="responder", reason=reason, detail=words)
        self._respond(answer, None, [])
        self._end(InEvent.REFUSED)

    def commit(self, exchange: bytes, body: bytes, address: Hashable, now: Now) -> bool:
        """Message 3: install, and confirm. True where an epoch was installed by it."""
        context, sent, sealed = self._context, self._sent, self._sealed
        if sent is None or sent.exchange != exchange:
            return False
        if sent.commit:
            if hmac.compare_digest(body, sent.commit):
                self._send(sent.committed, address)
            return False
        if self.state is not InState.ANSWERED or sealed is None:
            return False
        if not hmac.compare_digest(body, sealed.commit):
            context.notice("message.rejected", message="commit", reason="authentication", detail="wrong tag")
            return False
        keys = sealed.keys
        if keys.epoch <= context.floor:
            self._end(InEvent.EXPIRED)  # a newer epoch is in place already
            return False
        self._machine.fire(InEvent.COMMIT)
        for ref in keys.keys:
            context.theirs.discard(ref)
        new = link(keys.epoch, keys.chain, qkd=bool(keys.keys))
        context.install(keys, now, handshake_now=False, chain=lambda: context.chain.commit(new))
        sent.commit = body
        sent.committed = tuple(context.datagrams(MessageType.COMMITTED, exchange, sealed.committed))
        self._sealed = None
        self._send(sent.committed, address)
        context.notice(
            "rekey.done", role="responder", epoch=keys.epoch, sources=[key.source for key in keys.keys],
            chained=keys.chained, seconds=round(now.mono - self._started, 4),
        )  # fmt: skip
        return True

    def tick(self, now: Now) -> None:
        """Answer with what there is when the sources take too long; forget what was never committed."""
        if self.state is InState.IDLE or now.mono < self._limit:
            return
        if self.state is InState.FETCHING and self._responder is not None:
            self._failures.setdefault("", f"no key source answered within {FETCH_LIMIT:.0f} s")
            self._answer(now)
            return
        self._context.notice("rekey.failed", role="responder", reason="no-commit", detail="the peer never committed")
        self._end(InEvent.EXPIRED)

    def _end(self, event: InEvent) -> None:
        self._machine.fire(event)
        self._drop()

    def _drop(self) -> None:
        if self._responder is not None:
            self._responder.wipe()
        self._responder = self._sealed = None
