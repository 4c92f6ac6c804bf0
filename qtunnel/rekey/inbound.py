"""The exchange that the peer begins: authenticate, fetch by reference, answer, install on commit."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Hashable
from dataclasses import dataclass

from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.errors import HandshakeError
from qtunnel.handshake.fragments import MessageType
from qtunnel.handshake.messages import Answer, Offer, Verdict, clip
from qtunnel.handshake.responder import Responder
from qtunnel.handshake.transcript import Sealed
from qtunnel.keys.chain import link
from qtunnel.keys.policy import Shortfall
from qtunnel.rekey.ahead import Ahead
from qtunnel.rekey.context import OVERTAKEN, PeerContext
from qtunnel.rekey.limits import (
    EPOCH_JUMP,
    FETCH_BURST,
    FETCH_RATE,
    FETCHES_IN_FLIGHT,
    KEYS_HELD,
    OFFER_BURST,
    OFFER_RATE,
    OFFERS_REMEMBERED,
    REPEAT_BURST,
    REPEAT_RATE,
    TokenBucket,
)
from qtunnel.rekey.model import FetchById, Fetched, Now, Send
from qtunnel.rekey.replay import ReplayTimes
from qtunnel.rekey.shortage import Shortage
from qtunnel.rekey.states import IN_TABLE, InEvent, InState
from qtunnel.rekey.timing import FETCH_LIMIT, PENDING_LIMIT, seconds_between
from qtunnel.secret import Secret
from qtunnel.statemachine import Machine
from qtunnel.tai64n import tai64n
from qtunnel.terms import NOTHING, ChainPolicy, KeyRef, Policy, QkdPolicy

_SHORTFALLS = {Shortfall.QKD: Verdict.QKD_REQUIRED, Shortfall.CHAIN: Verdict.CHAIN_REQUIRED}


@dataclass(slots=True)
class _Sent:
    """What an exchange of the past answered, for retransmissions of the message it answered to."""

    exchange: bytes
    init: bytes
    response: tuple[bytes, ...]
    commit: bytes = b""
    committed: tuple[bytes, ...] = ()
    epoch: int = 0


class Inbound:
    """The peer's exchange with us."""

    def __init__(self, context: PeerContext, ahead: Ahead) -> None:
        self._context, self._ahead = context, ahead
        self._machine = Machine(IN_TABLE, InState.IDLE)
        self._responder: Responder | None = None
        self._address: Hashable | None = None
        self._init = b""
        self._usable: list[KeyRef] = []
        self._look: int | None = None
        self._in_flight: dict[KeyRef, int] = {}
        self._shortage = Shortage()
        self._sealed: Sealed | None = None
        self._policy: Policy | None = None
        self._inventories = NOTHING, NOTHING
        """What the offer and our answer to it said of the reservoirs; it counts once the commit proves the peer."""
        self._sent: _Sent | None = None
        self._limit = 0.0
        self._started = 0.0
        self._timestamp = b""
        self._handled = ReplayTimes(OFFERS_REMEMBERED)
        self._offers = TokenBucket(OFFER_BURST, OFFER_RATE)
        self._fetches = TokenBucket(FETCH_BURST, FETCH_RATE)
        self._repeated_offers = TokenBucket(REPEAT_BURST, REPEAT_RATE)
        self._repeated_commits = TokenBucket(REPEAT_BURST, REPEAT_RATE)

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

    @property
    def coming(self) -> tuple[KeyRef, ...]:
        """Keys that are being fetched."""
        return tuple(self._in_flight)

    def knows(self, exchange: bytes) -> bool:
        """Whether this exchange is, or was lately, ours to answer."""
        return (self._responder is not None and self._responder.exchange == exchange) or (
            self._sent is not None and self._sent.exchange == exchange
        )

    def awaits(self, exchange: bytes, body: bytes) -> bool:
        """Whether this is the commit of our exchange with that id, or a copy of it."""
        if self._sent is None or self._sent.exchange != exchange:
            return False
        wanted = self._sent.commit or (b"" if self._sealed is None else self._sealed.commit)
        return bool(wanted) and hmac.compare_digest(body, wanted)

    def fresh(self, timestamp: bytes, *, again: bool = False) -> bool:
        """Whether an offer of that replay time is news: later than any that was committed and than the one under way.
        again: it may have been looked at before.

        Only a commit proves the peer by every means, so only then does its replay time count for good: one far in the
        future, from somebody who broke X25519 alone, is forgotten with its exchange.
        """
        if timestamp <= self._context.memory.seen or (timestamp in self._handled and not again):
            return False
        return self.state is InState.IDLE or timestamp > self._timestamp

    def behind(self, timestamp: bytes) -> int:
        """Seconds that an offer which is seen for the first time lies before the newest committed one; 0 for a copy."""
        if timestamp in self._handled:
            return 0
        return max(0, seconds_between(timestamp, self._context.memory.seen))

    def may_offer(self, now: Now) -> bool:
        """Whether one more fresh offer of the peer's is looked at."""
        return self._offers.take(now.mono)

    def handled(self, timestamp: bytes, now: Now) -> None:
        """An offer was looked at: its like is a replay from now on, taken or not."""
        self._handled.add(timestamp, tai64n(now.unix_ns))

    def repeated(self, exchange: bytes, body: bytes, address: Hashable, now: Now) -> bool:
        """Message 1 once more: answer as before, without any computation. False where it is news."""
        if self._responder is not None and self._responder.exchange == exchange and body == self._init:
            return True  # still fetching: the answer will come
        sent = self._sent
        if sent is not None and sent.exchange == exchange and body == sent.init:
            if self._repeated_offers.take(now.mono):
                self._send(sent.response, address)
            return True
        return False

    def _send(self, datagrams: tuple[bytes, ...], address: Hashable) -> None:
        self._context.effects.append(Send(self._context.name, datagrams, address))

    def _confirm(self, sent: _Sent, address: Hashable) -> None:
        self._context.effects.append(Send(self._context.name, sent.committed, address, confirms=sent.epoch))

    def offer(self, responder: Responder, body: bytes, address: Hashable, now: Now) -> None:
        """An authenticated offer, newer than any before it."""
        context = self._context
        self._drop()
        self._timestamp = responder.offer.timestamp
        self._responder, self._init, self._address = responder, body, address
        self._shortage = Shortage()
        self._started = now.mono
        self._limit = now.mono + FETCH_LIMIT
        offer = responder.offer
        if offer.epoch <= context.taken:
            self._refuse(Verdict.STALE_EPOCH, "")
            return
        if offer.epoch > context.floor + EPOCH_JUMP:
            context.notice(
                "message.rejected", message="init", reason="epoch", detail=f"offers epoch {offer.epoch}, out of bounds"
            )
            self._end(InEvent.REFUSED)
            return
        # Not only with the answer: an exchange of our own that begins while keys are fetched must have another number.
        context.hear_of(offer.epoch)
        context.notice("rekey.started", role="responder")
        if self._chain_missing(offer):
            self._refuse(Verdict.CHAIN_REQUIRED, "")  # before a key is fetched in vain
            return
        self._usable = self._choose(offer)
        self._look = self._ahead.look(ref.source for ref in self._usable)
        if self._look is None:
            self._gather(now)
        else:
            self._machine.fire(InEvent.FETCH)

    def looked(self, ticket: int, now: Now) -> None:
        """A look was made, at sources whose keys were kept: they may be used now, but for those that it cost."""
        if self.state is InState.FETCHING and self._responder is not None and ticket == self._look:
            self._look = None
            self._usable = self._choose(self._responder.offer)
            self._gather(now)

    def _gather(self, now: Now) -> None:
        """Keys from the reservoir, those that are missing from their sources; then answer."""
        context = self._context
        self._ahead.give(self._usable, now)
        missing = [ref for ref in self._usable if ref not in context.theirs]
        if not missing:
            self._answer(now)
            return
        news = tuple(ref for ref in missing if ref not in self._in_flight)
        if news and not self._may_fetch(len(news), now):
            self._refuse(Verdict.BUSY, "too many offers at once: key sources are asked at a limited rate")
            return
        self._machine.fire(InEvent.FETCH)
        if news:  # a key that is being fetched already must not be asked for twice: the call consumes it
            ticket = next(context.tickets)
            self._in_flight |= dict.fromkeys(news, ticket)
            context.effects.append(FetchById(context.name, ticket, news))

    def _chain_missing(self, offer: Offer) -> bool:
        """Whether one end's policy requires a chain secret that the two do not have in common."""
        context = self._context
        if context.chain.choose(chain.id for chain in offer.chains) is not None:
            return False
        ours = context.policy.chain is ChainPolicy.REQUIRED and context.memory.had_epochs
        return ours or (offer.policy.chain is ChainPolicy.REQUIRED and bool(offer.chains))

    def _may_fetch(self, keys: int, now: Now) -> bool:
        room = len(self._in_flight) + keys <= FETCHES_IN_FLIGHT and len(self._context.theirs) + keys <= KEYS_HELD
        return room and self._fetches.take(now.mono)

    def _choose(self, offer: Offer) -> list[KeyRef]:
        """The offered keys that we have a source for, one per source; our own policy may want none."""
        context = self._context
        if context.policy.qkd is QkdPolicy.OFF:
            return []
        usable: dict[str, KeyRef] = {}
        for ref in offer.keys:
            if ref.source not in context.settings.sources:
                words = (
                    f"no key source {ref.source!r} is configured for this peer here; both ends must use the same name"
                )
                self._shortage.mistake(ref.source, words)
            elif self._ahead.reservoir.is_withdrawn(ref):
                self._shortage.failed({ref.source: f"{ref.source}: key {ref.key_id} was withdrawn after an alarm"})
            elif ref.size != QKD_KEY_SIZE:
                words = f"{ref.source}: a key of {ref.size} bytes was offered, not {QKD_KEY_SIZE}"
                self._shortage.mistake(ref.source, words)
            else:
                usable.setdefault(ref.source, ref)
        return list(usable.values())

    def fetched(self, ticket: int, result: Fetched, now: Now) -> None:
        """The sources answered."""
        context = self._context
        failures = context.admit(context.theirs.put, result, now)
        self._in_flight = {ref: its for ref, its in self._in_flight.items() if its != ticket}
        if self.state is not InState.FETCHING or self._responder is None:
            return
        self._shortage.failed(dict(failures))
        if not any(ref in self._in_flight for ref in self._usable):
            self._answer(now)

    def _answer(self, now: Now) -> None:
        """All keys are in hand that will ever be: judge, and accept or refuse."""
        context, responder = self._context, self._responder
        assert responder is not None
        offer = responder.offer
        if offer.epoch <= context.taken:  # by an exchange of ours, while keys were fetched
            self._refuse(Verdict.STALE_EPOCH, "")
            return
        usable = self._choose(offer)  # by the policy of now
        keys = [(ref, key) for ref in usable if (key := context.theirs.get(ref)) is not None]
        chosen = context.chain.choose(chain.id for chain in offer.chains)
        shortfall = context.judge(offer.policy, len(keys), chained=chosen is not None)
        if shortfall is not None:
            self._refuse(_SHORTFALLS[shortfall], self._shortage.words, self._shortage.told)
            return
        indices = tuple(offer.keys.index(ref) for ref, _ in keys)
        chain_id = None if chosen is None else chosen.id
        answer = Answer(
            Verdict.ACCEPTED,
            offer.epoch,
            context.policy,
            context.settings.capabilities,
            chain_id,
            indices,
            clip(self._shortage.told),
            self._ahead.tell(),
        )
        self._ahead.save(now)
        sealed = self._respond(answer, None if chosen is None else chosen.secret, keys)
        if sealed is None:
            return
        self._machine.fire(InEvent.ANSWER)
        context.peer_capabilities = offer.capabilities
        self._policy = offer.policy
        self._inventories = offer.inventory, answer.inventory
        self._sealed = sealed
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

    def _refuse(self, verdict: Verdict, detail: str, told: str = "") -> None:
        """told: what the peer hears of ``detail``, where that is not all."""
        context = self._context
        assert self._responder is not None
        withdrawn = self._ahead.refusing(self._responder.offer.capabilities)
        ours, told = context.settings.capabilities, clip(told or detail)
        answer = Answer(verdict, context.epoch, context.policy, ours, None, (), told, withdrawn)
        words = f"{verdict.words}: {detail}" if detail else verdict.words
        context.notice("rekey.failed", role="responder", reason=verdict.reason, detail=words)
        self._respond(answer, None, [])
        self._end(InEvent.REFUSED)

    def commit(self, exchange: bytes, body: bytes, address: Hashable, now: Now) -> bool:
        """Message 3: install, and confirm. True where an epoch was installed by it."""
        context, sent, sealed = self._context, self._sent, self._sealed
        if sent is None or sent.exchange != exchange:
            return False
        if sent.commit:
            if hmac.compare_digest(body, sent.commit) and self._repeated_commits.take(now.mono):
                self._confirm(sent, address)
            return False
        if self.state is not InState.ANSWERED or sealed is None:
            return False
        if not hmac.compare_digest(body, sealed.commit):
            context.notice("message.rejected", message="commit", reason="authentication", detail="wrong tag")
            return False
        keys = sealed.keys
        if keys.epoch <= context.floor or keys.epoch == context.chain.in_doubt:
            self._end(InEvent.EXPIRED)  # a newer epoch is in place already, or the peer may have this one of ours
            return False
        shortfall = context.overtaken(keys)
        if shortfall is not None:
            reason, detail = OVERTAKEN[shortfall]
            context.notice("rekey.failed", role="responder", reason=reason, detail=detail)
            self._end(InEvent.EXPIRED)
            return False
        self._machine.fire(InEvent.COMMIT)
        assert self._policy is not None  # it came with what is sealed
        context.heed(self._policy)
        theirs, ours = self._inventories
        self._ahead.learn(theirs, now)
        self._ahead.heard(ours)
        for ref in keys.keys:
            context.theirs.discard(ref)
        new = link(keys.epoch, keys.chain, qkd=bool(keys.keys))
        context.install(
            keys, now, handshake_now=False, chain=lambda: context.chain.commit(new), seen=self._timestamp
        )  # fmt: skip
        sent.commit, sent.epoch = body, keys.epoch
        sent.committed = tuple(context.datagrams(MessageType.COMMITTED, exchange, sealed.committed))
        self._sealed = None
        self._confirm(sent, address)
        context.notice(
            "rekey.done", role="responder", epoch=keys.epoch, sources=[key.source for key in keys.keys],
            key_ids=[key.key_id for key in keys.keys], chained=keys.chained,
            seconds=round(now.mono - self._started, 4),
        )  # fmt: skip
        return True

    def tick(self, now: Now) -> None:
        """Answer with what there is when the sources take too long; forget what was never committed."""
        if self.state is InState.IDLE or now.mono < self._limit:
            return
        if self.state is InState.FETCHING and self._responder is not None:
            self._shortage.silent(f"no key source answered within {FETCH_LIMIT:.0f} s")
            self._answer(now)
            return
        self._context.notice("rekey.failed", role="responder", reason="no-commit", detail="the peer never committed")
        self._end(InEvent.EXPIRED)

    @property
    def barred(self) -> bool:
        """Whether our policy as it stands now does not allow what we have answered."""
        return self._sealed is not None and self._context.overtaken(self._sealed.keys) is not None

    def uses(self, refs: Collection[KeyRef]) -> bool:
        """Whether what we have answered is made of one of these keys."""
        return self._sealed is not None and not set(refs).isdisjoint(self._sealed.keys.keys)

    def forget(self) -> None:
        """What is under way is to come to nothing any more; the peer begins another exchange. What was committed
        already is confirmed on: its epoch is in place."""
        if self.state is not InState.IDLE:
            self._end(InEvent.EXPIRED)
        if self._sent is not None and not self._sent.commit:
            self._sent = None

    def _end(self, event: InEvent) -> None:
        self._machine.fire(event)
        self._drop()

    def _drop(self) -> None:
        if self._responder is not None:
            self._responder.wipe()
        self._responder = self._sealed = None
