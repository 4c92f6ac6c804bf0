"""The exchange that we begin: fetch, offer, commit. One at a time per peer."""

from __future__ import annotations

import hmac
from collections.abc import Hashable

from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.errors import HandshakeError
from qtunnel.handshake.cookies import CookieReply, stamped
from qtunnel.handshake.fragments import EXCHANGE_ID_SIZE, MAC_SIZE, MessageType
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import Answer, ChainRef, Offer, Verdict
from qtunnel.handshake.transcript import EpochKeys, Sealed
from qtunnel.keys.chain import link
from qtunnel.keys.policy import Shortfall, sources_required
from qtunnel.rekey.ahead import PEER_LOST, Ahead
from qtunnel.rekey.context import OVERTAKEN, PeerContext
from qtunnel.rekey.limits import EPOCH_JUMP, RESPONSE_BURST, RESPONSE_RATE, TokenBucket
from qtunnel.rekey.model import Fetched, FetchNew, Now, Send
from qtunnel.rekey.states import OUT_TABLE, Outcome, OutEvent, OutState
from qtunnel.rekey.telling import NO_ANSWER, sentence
from qtunnel.rekey.timing import (
    ATTEMPT_LIMIT,
    COMMIT_LIMIT,
    FETCH_LIMIT,
    INSIST_TIME,
    UNANSWERED_AFTER,
    Retransmitter,
    grow,
)
from qtunnel.statemachine import Machine
from qtunnel.tai64n import tai64n
from qtunnel.terms import CHAIN_REMEDY, Inventory, KeyRef, QkdPolicy

KEYS_KEPT_ON = {Verdict.BUSY, Verdict.STALE_EPOCH, Verdict.CHAIN_REQUIRED}
"""Refusals that come before any key is fetched: the offered keys serve the next attempt."""


class Outbound:
    """Our exchange with one peer. Methods return an ``Outcome`` when the exchange has ended by them."""

    def __init__(self, context: PeerContext, ahead: Ahead) -> None:
        self._context, self._ahead = context, ahead
        self._machine = Machine(OUT_TABLE, OutState.IDLE)
        self._ticket: int | None = None
        self._look: int | None = None
        self._asked: set[int] = set()
        self._fetch_limit = 0.0
        self._exchange = b""
        self._initiator: Initiator | None = None
        self._sealed: Sealed | None = None
        self._sealed_at = 0.0
        self._unconfirmed: tuple[EpochKeys | None, float] = (None, 0.0)
        """Of the exchange whose commit was never confirmed, and when they were made; monotonic seconds."""
        self._came: dict[KeyRef, float] = {}
        """When the keys of both came: they are in hand no more once an answer has come. Monotonic seconds."""
        self._retransmitter: Retransmitter | None = None
        self._started = 0.0
        self._failures: tuple[tuple[str, str], ...] = ()
        self._mismatch: str | None = None
        self._gone: Inventory | None = None
        """What the peer told whose store is another one than the offered keys were agreed with."""
        self.elsewhere: Hashable | None = None
        """Where a first message of the peer's came from while ours was under way: ours goes there as well."""
        self._offered = 0.0
        self.unanswered = False  # for so long that it was told; until the peer speaks
        self._cookie_taken = False
        self._cookie_wanted = False
        self._responses = TokenBucket(RESPONSE_BURST, RESPONSE_RATE)

    @property
    def state(self) -> OutState:
        return self._machine.state

    @property
    def exchange(self) -> bytes | None:
        """The id of the exchange under way."""
        return self._exchange if self._initiator is not None else None

    @property
    def deadline(self) -> float | None:
        if self.state is OutState.FETCHING:
            return self._fetch_limit
        return self._retransmitter.deadline if self._retransmitter is not None else None

    def distrust(self, source: str, since: float) -> bool:
        """That source's keys which came after ``since`` are in doubt: whether the exchange under way has one. An epoch
        that has, and was never confirmed, is not put in place any more."""
        doubted = {ref for ref, came in self._came.items() if ref.source == source and came > since}
        unconfirmed, _ = self._unconfirmed
        if unconfirmed is not None and not doubted.isdisjoint(unconfirmed.keys):
            self._unconfirmed = None, 0.0
        return self._initiator is not None and not doubted.isdisjoint(self._initiator.offer.keys)

    def asked(self, ticket: int) -> bool:
        """Whether this fetch is ours."""
        return ticket in self._asked

    def start(self, now: Now) -> Outcome | None:
        """Begin: fetch the keys that are missing, then offer. Only when idle."""
        context = self._context
        self._started = now.mono
        self._failures = ()
        context.notice("rekey.started", role="initiator")
        if context.chain_lost:
            return self._report(
                "chain-required",
                f"this end has lost the chain secrets, and its policy requires one; {CHAIN_REMEDY}",
            )
        self._ahead.weed()
        wanted = self._wanted
        self._look = self._ahead.look(wanted)
        if self._look is None:
            return self._gather(now)
        self._machine.fire(OutEvent.FETCH)
        self._fetch_limit = now.mono + FETCH_LIMIT
        return None

    @property
    def _wanted(self) -> tuple[str, ...]:
        """Sources whose keys our policy wants."""
        context = self._context
        return () if context.policy.qkd is QkdPolicy.OFF else context.settings.sources

    def looked(self, ticket: int, now: Now) -> Outcome | None:
        """A look was made, at sources whose keys were kept: they may be used now."""
        if self.state is not OutState.FETCHING or ticket != self._look:
            return None
        self._look = None
        return self._gather(now)

    def _gather(self, now: Now) -> Outcome | None:
        """Keys from the reservoir, those that are missing from their sources; then offer."""
        context, wanted = self._context, self._wanted
        most = len(wanted) if context.settings.mix is None else context.settings.mix
        held = context.ours.newest_by_source()
        missing = tuple(source for source in wanted if source not in held)
        self._ahead.take(missing, most - (len(wanted) - len(missing)), now)
        held = context.ours.newest_by_source()
        missing = tuple(source for source in wanted if source not in held)
        short = most - (len(wanted) - len(missing))
        if not missing or short <= 0:
            return self._offer(now)
        if self.state is OutState.IDLE:
            self._machine.fire(OutEvent.FETCH)
        self._ticket = next(context.tickets)
        self._asked.add(self._ticket)
        self._fetch_limit = now.mono + FETCH_LIMIT
        context.effects.append(FetchNew(context.name, self._ticket, missing, QKD_KEY_SIZE, min(short, len(missing))))
        return None

    def fetched(self, ticket: int, result: Fetched, now: Now) -> Outcome | None:
        """The sources answered. Keys that come too late are kept for the next attempt."""
        self._asked.discard(ticket)
        failures = self._context.admit(self._context.ours.put, result, now)
        if self.state is not OutState.FETCHING or ticket != self._ticket:
            return None
        self._failures = failures
        return self._offer(now)

    def _offer(self, now: Now) -> Outcome | None:
        context, settings, policy = self._context, self._context.settings, self._context.policy
        self._ahead.weed()  # once more: a commit of the peer's may have come while sources were waited for
        held = context.ours.newest_by_source()
        refs = tuple(held[source] for source in settings.sources if source in held)[: settings.mix]
        if policy.qkd is QkdPolicy.OFF:
            refs = ()
        if len(refs) < sources_required(policy):
            words = "; ".join(f"{detail}" for _, detail in self._failures) or "no key source answered"
            return self._give_up("qkd-unavailable", f"policy requires QKD and there is no key: {words}")
        timestamp = grow(tai64n(now.unix_ns), context.memory.sent)
        chains = tuple(ChainRef(held_link.epoch, held_link.id) for held_link in context.chain.links)
        inventory = self._ahead.tell()
        offer = Offer(timestamp, context.epoch + 1, policy, settings.capabilities, chains, refs, inventory)
        exchange = context.random_bytes(EXCHANGE_ID_SIZE)
        try:
            initiator = Initiator(
                context.local, settings.public, settings.suite, exchange, offer, context.random_bytes,
                pairing=settings.pairing, encapsulate=context.encapsulate,
            )  # fmt: skip
        except HandshakeError as error:
            return self._give_up(error.reason, error.detail)
        self._machine.fire(OutEvent.OFFER)
        self._ticket = None
        context.epoch = offer.epoch
        self._ahead.save(now)
        context.remember(sent=timestamp, proposed=offer.epoch)
        self._exchange, self._initiator = exchange, initiator
        before = () if self._unconfirmed[0] is None else self._unconfirmed[0].keys
        self._came = {ref: self._came[ref] for ref in before} | context.ours.came(refs)
        self._offered = now.mono
        self._send(MessageType.INIT, self._initiator.message, now, ATTEMPT_LIMIT)
        return None

    def _give_up(self, reason: str, detail: str) -> Outcome:
        """No offer can be made."""
        if self.state is OutState.FETCHING:
            self._machine.fire(OutEvent.FAILED)
        return self._report(reason, detail)

    def _send(self, kind: MessageType, body: bytes, now: Now, lifetime: float) -> None:
        context = self._context
        self._retransmitter = Retransmitter.start(
            context.datagrams(kind, self._exchange, body), now.mono, lifetime, context.fraction
        )
        self._transmit(now)

    def _transmit(self, now: Now) -> None:
        """Send what is under way, a first message with the cookie that we hold."""
        context, retransmitter = self._context, self._retransmitter
        assert retransmitter is not None
        datagrams, self._cookie_taken = retransmitter.datagrams, False
        if self.state is OutState.OFFERED:
            datagrams = stamped(datagrams, context.cookie, now.mono)
        context.effects.append(Send(context.name, datagrams))
        if self.elsewhere is not None and self.state is OutState.OFFERED:
            context.effects.append(Send(context.name, datagrams, self.elsewhere))

    def cookie(self, reply: CookieReply, now: Now) -> None:
        """The peer is under load and wants to see a cookie. Send again with it, once for each time that we sent by
        ourselves: whoever repeats its replies, or makes cookies of its own, gets no more out of us."""
        retransmitter = self._retransmitter
        if self.state is not OutState.OFFERED or retransmitter is None or self._cookie_taken:
            return
        if reply.index >= len(retransmitter.datagrams):
            raise HandshakeError("malformed", "a cookie for a datagram that was not sent")
        mac1 = retransmitter.datagrams[reply.index][-2 * MAC_SIZE : -MAC_SIZE]
        news = self._context.cookie.accept(reply.nonce, reply.sealed, mac1, now.mono)
        if news is None:
            raise HandshakeError("authentication", "a cookie that is not for a datagram of ours")
        self._cookie_wanted = True
        if news:
            self._transmit(now)
            self._cookie_taken = True

    def response(self, body: bytes, now: Now) -> Outcome | None:
        """Message 2 of our exchange."""
        context, initiator = self._context, self._initiator
        if self.state is not OutState.OFFERED or initiator is None:
            return None  # a duplicate of what was answered
        if not self._responses.take(now.mono):
            raise HandshakeError("flood", "more second messages than are read for one exchange")
        held = {ref: key for ref in initiator.offer.keys if (key := context.ours.get(ref)) is not None}
        try:
            answer, sealed = initiator.read_response(body, held, context.chain.secrets, self._judge)
        except HandshakeError as error:
            if error.reason in ("authentication", "malformed", "key-mismatch"):
                # Possibly changed on the way, then it counts as lost. An answer whose proof alone is wrong is put down
                # to the keys once the attempt ends without a better one.
                if error.reason == "key-mismatch":
                    self._mismatch = error.detail
                context.notice("message.rejected", message="response", reason=error.reason, detail=error.detail)
                return None
            self.unanswered = False
            self._spend(initiator.offer)
            outcome, gone, self._gone = self._fail(error.reason, error.detail), self._gone, None
            if gone is not None:
                self._ahead.learn(gone, now)
            return outcome if gone is None else Outcome.RETRY_NOW
        self.unanswered = False
        lost = self._ahead.answered(initiator.offer.inventory, answer, now)
        if answer.verdict not in KEYS_KEPT_ON:
            self._spend(initiator.offer)
        if sealed is None:
            if answer.epoch > context.floor + EPOCH_JUMP:
                return self._fail("epoch", f"the peer claims to be at epoch {answer.epoch}, out of all bounds")
            context.hear_of(answer.epoch)
            if answer.verdict is Verdict.CHAIN_REQUIRED:
                context.chain.settle(None)  # the offer listed it, and the peer holds none of them
            outcome = self._fail(answer.verdict.reason, sentence(answer))
            again = lost or answer.verdict is Verdict.STALE_EPOCH or bool(answer.inventory.withdrawn)
            return Outcome.RETRY_NOW if again else outcome
        self._settle(answer.chain, now)
        context.peer_capabilities = answer.capabilities
        context.heed(answer.policy)
        if answer.detail:
            context.notice("peer.says", detail=answer.detail)
        context.chain.doubt(link(sealed.keys.epoch, sealed.keys.chain, qkd=bool(sealed.keys.keys)))
        self._sealed, self._sealed_at = sealed, now.mono
        self._machine.fire(OutEvent.ACCEPTED)
        self._send(MessageType.COMMIT, sealed.commit, now, COMMIT_LIMIT)
        return None

    def _settle(self, chosen: bytes | None, now: Now) -> None:
        """The answer says whether the peer has the epoch that it never confirmed: it is good here, too, if young."""
        context, (unconfirmed, made) = self._context, self._unconfirmed
        self._unconfirmed = None, 0.0
        settled = context.chain.settle(chosen)
        if settled is None or settled.epoch <= context.floor:
            return
        context.notice("epoch.settled", epoch=settled.epoch)
        its = unconfirmed if unconfirmed is not None and unconfirmed.epoch == settled.epoch else None
        if its is None or now.mono - made >= context.settings.max_age or context.overtaken(its) is not None:
            context.floor = settled.epoch
            context.remember(epoch=context.floor)
            return
        context.install(its, now, handshake_now=True, chain=lambda: None, made=made)

    def _judge(self, answer: Answer) -> None:
        assert self._initiator is not None  # it reads the answer
        offered = self._initiator.offer.keys
        if self._ahead.outdated(answer.inventory.store, [offered[index] for index in answer.keys]):
            # It may have come to doubt one of them before, and forgotten that with the key.
            self._gone = answer.inventory
            raise HandshakeError("keys-lost", PEER_LOST)
        shortfall = self._context.judge(answer.policy, len(answer.keys), chained=answer.chain is not None)
        if shortfall is Shortfall.QKD:
            raise HandshakeError("qkd-required", sentence(answer))
        if shortfall is Shortfall.CHAIN:
            raise HandshakeError(
                "chain-required", f"the peer has lost the chain, and our policy requires it; {CHAIN_REMEDY}"
            )

    def _spend(self, offer: Offer) -> None:
        """An answer arrived: the keys of this offer are never offered again."""
        for ref in offer.keys:
            self._context.ours.discard(ref)

    def committed(self, body: bytes, now: Now) -> Outcome | None:
        """Message 4: the responder has installed the epoch."""
        context, sealed = self._context, self._sealed
        if self.state is not OutState.COMMITTING or sealed is None:
            return None
        if not hmac.compare_digest(body, sealed.committed):
            context.notice("message.rejected", message="committed", reason="authentication", detail="wrong tag")
            return None
        keys = sealed.keys
        shortfall = context.overtaken(keys)
        if shortfall is not None:
            if shortfall is Shortfall.CHAIN:
                context.chain.settle(None)  # what is built on it would lack the chain as well
            return self._fail(*OVERTAKEN[shortfall])
        self._machine.fire(OutEvent.CONFIRMED)
        if self._initiator is not None:
            self._ahead.confirmed(self._initiator.offer.inventory)
        if keys.epoch > context.floor:
            new = link(keys.epoch, keys.chain, qkd=bool(keys.keys))
            context.install(keys, now, handshake_now=True, chain=lambda: context.chain.commit(new))
        took = now.mono - self._started
        self._clear()
        context.notice(
            "rekey.done", role="initiator", epoch=keys.epoch, sources=[key.source for key in keys.keys],
            key_ids=[key.key_id for key in keys.keys], chained=keys.chained, seconds=round(took, 4),
        )  # fmt: skip
        return Outcome.DONE

    def insists(self, now: Now) -> bool:
        """Whether our offer, of an end that goes first, still does. A peer that had taken it would not go on with its
        own; one that never answers may refuse ours, such as one that knows of later ones of ours than we do."""
        answered = self._mismatch is not None or now.mono - self._offered < INSIST_TIME
        return self.state is OutState.OFFERED and answered

    def repeat(self, address: Hashable, now: Now) -> None:
        """Send the first message under way to ``address``, too, from which the peer's own has come just now."""
        assert self._retransmitter is not None  # as in OFFERED
        self.elsewhere = address
        datagrams = stamped(self._retransmitter.datagrams, self._context.cookie, now.mono)
        self._context.effects.append(Send(self._context.name, datagrams, address))

    def yield_to_peer(self) -> None:
        """The other end's exchange goes first: drop ours, keep its keys, unless they are wrong."""
        if self._machine.can(OutEvent.YIELDED):
            self._machine.fire(OutEvent.YIELDED)
            self._clear()

    def superseded(self, epoch: int) -> None:
        """An epoch at least as new as the one we were committing is in place."""
        if self.state is OutState.COMMITTING and self._sealed is not None and self._sealed.keys.epoch <= epoch:
            self.yield_to_peer()

    def tick(self, now: Now) -> Outcome | None:
        """Retransmit, or give up."""
        if self.state is OutState.FETCHING:
            if now.mono < self._fetch_limit:
                return None
            self._failures = (("", f"no key source answered within {FETCH_LIMIT:.0f} s"),)
            return self._offer(now)
        retransmitter = self._retransmitter
        if retransmitter is None:
            return None
        if retransmitter.over(now.mono):
            if self.state is OutState.COMMITTING and self._sealed is not None:
                self._unconfirmed = self._sealed.keys, self._sealed_at
                return self._fail("unconfirmed", "the peer did not confirm the commit; a new exchange settles it")
            if self._mismatch is not None:
                return self._fail("key-mismatch", self._mismatch)
            return self._fail("no-answer", f"the peer did not answer: {NO_ANSWER}")
        if retransmitter.due(now.mono, pressed=self._cookie_wanted or self._context.pressed(now.mono)):
            self._transmit(now)
            self._tell_silence(now)
        return None

    def _tell_silence(self, now: Now) -> None:
        """Once until the peer answers: most that is wrong with a new tunnel shows as silence."""
        waited = now.mono - self._offered
        silent = self.state is OutState.OFFERED and self._mismatch is None  # a mismatch was told as what it is
        if silent and waited >= UNANSWERED_AFTER and not self.unanswered:
            self.unanswered = True
            detail = f"no answer yet, after {waited:.0f} s: {NO_ANSWER}"
            self._context.notice("rekey.unanswered", role="initiator", detail=detail)

    def _fail(self, reason: str, detail: str) -> Outcome:
        self._machine.fire(OutEvent.FAILED)
        self._clear()
        return self._report(reason, detail)

    def _report(self, reason: str, detail: str) -> Outcome:
        self._context.notice("rekey.failed", role="initiator", reason=reason, detail=detail)
        return Outcome.FAILED

    def _clear(self) -> None:
        if self._initiator is not None:
            if self._mismatch is not None:  # each further exchange would have the wrong keys again
                self._spend(self._initiator.offer)
            self._initiator.wipe()
        self._initiator = self._sealed = self._retransmitter = self._mismatch = self._look = None
        self._responses = TokenBucket(RESPONSE_BURST, RESPONSE_RATE)
        self._ticket, self.elsewhere, self._cookie_wanted = None, None, False
