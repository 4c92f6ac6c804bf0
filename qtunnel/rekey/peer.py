"""Rekeying with one peer: who begins, when, and what happens when nobody does."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

from qtunnel.crypto.kem import Encapsulate
from qtunnel.handshake.fragments import Message, MessageType
from qtunnel.handshake.responder import Responder
from qtunnel.identity import Identity
from qtunnel.keys.pace import Stock
from qtunnel.keys.used import UsedKeys
from qtunnel.keys.volume import least_gap
from qtunnel.rekey.ahead import NOTHING_KEPT, Ahead, Kept
from qtunnel.rekey.context import PeerContext
from qtunnel.rekey.doubt import Doubts
from qtunnel.rekey.inbound import Inbound
from qtunnel.rekey.model import Block, Effect, EpochInfo, Fetched, Memory, Now, PeerSettings
from qtunnel.rekey.outbound import Outbound
from qtunnel.rekey.protection import GuardEvent, GuardState
from qtunnel.rekey.replay import OldOffers
from qtunnel.rekey.states import InState, Outcome, OutState
from qtunnel.rekey.timing import CLOCK_DOUBT, GRACE_AT_START, OFFER_HOLD
from qtunnel.rekey.view import PeerView
from qtunnel.secret import RandomBytes, Secret

NEGOTIATED = ("suite", "policy", "sources", "pairing", "capabilities")
"""Settings that stand in an exchange, or decide about what comes out of it."""
CHANGE_SPREAD = 10.0
"""Seconds over which rekeys begin that nothing but other settings asks for: a hub's configuration may change them for
1,000 peers at once, and its KME and its processor are not to be asked for all in one moment."""


class PeerRekey:
    """One peer's two machines, its schedule and its guard."""

    def __init__(
        self,
        local: Identity,
        settings: PeerSettings,
        memory: Memory,
        now: Now,
        random_bytes: RandomBytes,
        tickets: Iterator[int],
        used: UsedKeys,
        effects: list[Effect],
        encapsulate: Encapsulate | None = None,
        delay: float = 0.0,
        crowd: Callable[[], int] = lambda: 1,
        kept: Kept = NOTHING_KEPT,
    ) -> None:
        self.context = PeerContext(
            local, settings, memory, now, random_bytes, tickets, used, effects, encapsulate, crowd
        )
        self.settings = settings
        self.ahead = Ahead(self.context, kept, now)
        self.outbound = Outbound(self.context, self.ahead)
        self.inbound = Inbound(self.context, self.ahead)
        self._doubts = Doubts(self.context, self.ahead)
        self._old_offers = OldOffers()
        self._put_off: bytes | None = None
        """Replay time of the offer that gave way to ours: where ours comes to nothing, a copy of it is looked at once
        more, or the peer would wait out its attempt."""
        self._unsuited: bytes | None = None
        """The replay time of the peer's last offer of a suite that was not ours."""
        self._reachable = settings.has_endpoint
        self._initiates = settings.has_endpoint and self.context.higher
        self._crowd = crowd
        self._retried = False
        self._next: float | None = None
        if settings.has_endpoint:
            self._next = now.mono + delay if self._initiates else now.mono + delay + GRACE_AT_START

    def view(self) -> PeerView:
        guard, schedule, volume = self.context.guard, self.context.schedule, self.context.volume
        if self._initiates:
            interval, reason = schedule.pace.interval, schedule.pace.reason
        else:
            interval = schedule.expected
            reason = "so the peer has done of late" if interval > self.settings.interval else ""
        return PeerView(
            self.settings.name,
            guard.installed,
            dict(self.context.epochs),
            guard.protection(),
            "initiator" if self._initiates else "responder",
            self.outbound.state,
            self.inbound.state,
            self._next,
            guard.deadline,
            interval,
            reason,
            volume.bytes,
            volume.packets,
            None if self.context.peer_policy is None else self.context.peer_policy.words,
            self.ahead.counts(),
        )

    @property
    def deadline(self) -> float | None:
        """When ``tick`` has something to do; monotonic seconds."""
        times = [self.outbound.deadline, self.inbound.deadline, self.context.guard.deadline, self.ahead.deadline]
        if self.outbound.state is OutState.IDLE:
            times += [self._next, self.context.ours.deadline]
        if self.inbound.state is InState.IDLE:
            times.append(self.context.theirs.deadline)
        return min((time for time in times if time is not None), default=None)

    @property
    def next_rekey(self) -> float | None:
        """When this end begins one, as far as it is planned; monotonic seconds."""
        return self._next

    def current_psk(self) -> tuple[int, Secret] | None:
        """Epoch and PSK (a copy) as installed."""
        return self.context.current_psk()

    def take_up(self, installed: EpochInfo, in_force: EpochInfo | None) -> None:
        """An epoch of before a restart is still in place, and perhaps the session is of another one. Its PSK and chain
        secret are gone, so it can only run out or be replaced."""
        context = self.context
        context.floor = max(context.floor, installed.epoch)
        context.epoch = max(context.epoch, installed.epoch)
        context.epochs |= {info.epoch: info for info in (in_force, installed) if info is not None}
        context.guard.install(installed)
        context.show_protection()

    def rekey_now(self, now: Now) -> bool:
        """Begin at once, whoever's turn it is. False where there is no address to send to or one is under way."""
        if not self._reachable or self.outbound.state is not OutState.IDLE:
            return False
        self._begin(now)
        return True

    def _begin(self, now: Now) -> None:
        self._next = None
        self._expire(now)
        self._ended(self.outbound.start(now), now)

    def _ended(self, outcome: Outcome | None, now: Now) -> None:
        """Plan what comes after an exchange of ours."""
        if outcome is None:
            return
        schedule, fraction = self.context.schedule, self.context.fraction()
        # At once but once: a peer that goes on calling every epoch stale is asked no quicker than any other failure.
        again, self._retried = outcome is Outcome.RETRY_NOW and not self._retried, outcome is Outcome.RETRY_NOW
        if outcome is Outcome.DONE:
            self._initiates = True
            self._put_off = None
            self._advance()
            self.ahead.save(now)  # what the peer holds, so that both may be killed with their KMEs away
            self._next = schedule.after_success(now.mono, fraction, self._crowd())
        elif again:
            self._next = now.mono
        else:
            self._next = schedule.after_failure(now.mono, fraction)

    def _advance(self) -> None:
        """Move the interval by what is known of the supply of keys, and tell."""
        pace = self.context.schedule.pace
        before = pace.interval
        if pace.advance():
            usual = "" if pace.reason else "the usual one: there are keys enough, and no more"
            self.context.notice(
                "schedule.changed", before=round(before, 3), after=round(pace.interval, 3),
                usual=self.settings.interval, detail=pace.reason or usual,
            )  # fmt: skip

    def supply(self, stock: Stock) -> None:
        """What a key source has left for this peer; moves the interval at the next rekey."""
        self.context.schedule.pace.tell(stock)

    def carried(self, total_bytes: int, total_packets: int | None, now: Now) -> None:
        """The engine's counters, both directions together: a rekey is due where a limit is reached.

        While keys are scarce it takes ``FAR`` times as much, and never comes before the usual interval is over: who can
        send through the tunnel must not use up what time spares.
        """
        context, installed = self.context, self.context.guard.installed
        context.volume.count(total_bytes, total_packets)
        scarce = context.schedule.scarce(initiates=self._initiates)
        limit = context.volume.far_passed if scarce else context.volume.reached
        # A failed exchange is tried again in its own time, however much passes.
        if limit is None or installed is None or self._next is None or context.schedule.failures:
            return
        gap = least_gap(self.settings.interval, self.settings.min_interval)
        if scarce:
            gap = max(gap, self.settings.interval)
        # Both ends count about the same, and one beginning is enough.
        due = max(now.mono, installed.made + gap) + (0.0 if self._initiates else GRACE_AT_START)
        if due < self._next:
            self._next = due
            passed = context.volume.bytes if limit == "bytes" else context.volume.packets
            context.notice("rekey.due", limit=limit, passed=passed, seconds=round(due - now.mono, 3))

    def change(self, settings: PeerSettings, now: Now) -> None:
        """Other settings of the same peer. What is installed stays, unless the new policy forbids it: then the peer is
        blocked at once. Where an exchange to come would be another one, it begins without waiting for its turn."""
        context, before = self.context, self.settings
        self.settings = context.settings = settings
        context.reschedule()
        other = any(getattr(before, name) != getattr(settings, name) for name in NEGOTIATED)
        begun = other and self.outbound.state is not OutState.IDLE
        if other:
            self.outbound.yield_to_peer()  # the next one has the new settings, and what was offered in vain goes first
            if before.suite.id != settings.suite.id or before.pairing != settings.pairing:
                self.inbound.forget()  # with the old secret a message 1 was proven, which the new one may be to stop
            for held in (context.ours, context.theirs):
                held.keep(settings.sources)
        self.ahead.change(settings, before, now)
        state = context.guard.state
        if context.guard.change(settings, now.mono):
            self._block("the policy has become stricter than what is in force: traffic is blocked")
        context.show_protection()
        self._guard(now)
        barred = self.inbound.barred
        if barred:
            self.inbound.forget()  # a commit of the peer's would be in vain: it hears of another exchange instead
        blocked = context.guard.state is GuardState.BLOCKED is not state
        if settings.has_endpoint != before.has_endpoint:
            self._reachable = self._reachable or settings.has_endpoint
            self._initiates = settings.has_endpoint and context.higher
        if self.outbound.state is OutState.IDLE:
            self._plan_anew(now, at_once=blocked or begun or barred, soon=other and self._initiates)

    def _plan_anew(self, now: Now, *, at_once: bool, soon: bool) -> None:
        """The next rekey by the schedule as it is now, counted from the newest epoch."""
        context, schedule = self.context, self.context.schedule
        made = now.mono if context.guard.installed is None else context.guard.installed.made
        if self._reachable and at_once:
            self._next = now.mono
        elif self._reachable and soon:
            self._next = now.mono + min(CHANGE_SPREAD, schedule.interval) * context.fraction()
        elif not self._reachable or (schedule.failures and self._next is not None):
            return  # the peer's turn, or it is tried again soon anyway
        elif context.guard.installed is None:
            self._next = self._next or now.mono + GRACE_AT_START
        elif self._initiates:
            self._next = max(now.mono, schedule.after_success(made, context.fraction()))
        else:
            self._next = max(now.mono, schedule.takes_over(made))

    def fetched(self, ticket: int, result: Fetched, now: Now) -> None:
        """What the key sources answered, to whichever machine asked; where none did, the keys are wiped."""
        if self.ahead.looks(ticket):
            self.ahead.looked(ticket)
            self.inbound.looked(ticket, now)
            self._ended(self.outbound.looked(ticket, now), now)
        elif self.inbound.asked(ticket):
            self.ahead.delivered(result)
            self.inbound.fetched(ticket, result, now)
        elif self.outbound.asked(ticket):
            self.ahead.delivered(result)
            self._ended(self.outbound.fetched(ticket, result, now), now)
        elif self.ahead.asked(ticket):
            self.ahead.fetched(ticket, result, now)
        else:
            result.wipe()  # asked for before a defect: nobody knows any more which end's keys they are

    def unkept(self, now: Now) -> None:
        """Keys were taken out of the reservoir to be used, and the disk may bring them back: they are not used, nor any
        other that it may have. Exchanges under way come to nothing; the next one has other keys."""
        self.ahead.lose("the disk refused to let go of one of them, so that it might have been used again", now)
        self.context.ours.wipe()
        self.context.theirs.wipe()
        self.inbound.forget()
        if self.outbound.state is not OutState.IDLE:
            self.outbound.yield_to_peer()
            self._ended(Outcome.FAILED, now)

    def vouch(self, source: str, at: float) -> None:
        """A look that began then (monotonic seconds) found nothing wrong with that source's keys."""
        self.ahead.vouch(source, at)
        self._doubts.vouch(source)

    def distrust(self, source: str, why: str, now: Now) -> None:
        """An alarm: keys since that source's last good look are not used, and an exchange with one comes to nothing."""
        doubted = self.ahead.distrust(source, why, now, self.inbound.coming)
        if self.inbound.uses(doubted):
            self.inbound.forget()
        if self.outbound.distrust(source, self.context.good_until(source)):
            self.outbound.yield_to_peer()
            self._ended(Outcome.RETRY_NOW, now)
        self._replace(source, now)

    def _replace(self, source: str, now: Now) -> None:
        """Begin a rekey sooner where the epoch in force has a key of that source's that is in doubt."""
        due = self._doubts.due(source, now.mono, initiates=self._initiates)
        # An exchange under way has none, and a failed one is tried again in its own time.
        busy = self.outbound.state is not OutState.IDLE or self.context.schedule.failures
        if due is not None and not busy and self._next is not None and due < self._next:
            self._next = due
            self.context.notice("rekey.due", limit="doubt", source=source, seconds=round(due - now.mono, 3))

    def offered(self, responder: Responder, message: Message, address: Hashable, now: Now) -> bool:
        """An authenticated message 1 from this peer. Whether it is news."""
        context = self.context
        insists = context.higher and self.outbound.insists(now)
        suits = responder.suite.id == self.settings.suite.id
        again = responder.offer.timestamp == self._put_off and not insists
        again = again or (responder.offer.timestamp == self._unsuited and suits)  # ours is another one since
        if not self.inbound.fresh(responder.offer.timestamp, again=again):
            self._refuse_old(responder.offer.timestamp, now)
            return False
        if not self.inbound.may_offer(now):  # not before: replays, which are anybody's, must not use it up
            context.notice("message.rejected", message="init", reason="flood", detail="more offers than are answered")
            return False
        self.inbound.handled(responder.offer.timestamp, now)
        self._put_off = None
        self._reachable = True
        if self._next is None and self.outbound.state is OutState.IDLE:
            self._next = context.schedule.overdue(now.mono)  # should nothing come of it, nor the peer begin again
        self._unsuited = None if suits else responder.offer.timestamp
        if not suits:
            context.notice(
                "rekey.failed", role="responder", reason="suite",
                detail=f"the peer uses suite {responder.suite.name}, this end {self.settings.suite.name}; "
                "set the same kem and cipher at both ends",
            )  # fmt: skip
            return True
        if self.outbound.state in (OutState.OFFERED, OutState.FETCHING):
            if insists:
                self._put_off = responder.offer.timestamp
                self.outbound.repeat(address, now)
                return True  # both began at once: the higher identity goes first, the other end yields to our offer
            self.outbound.yield_to_peer()
            self._next = now.mono + OFFER_HOLD
        self.outbound.unanswered = False
        self.inbound.offer(responder, message.body, address, now)
        return True

    def _refuse_old(self, timestamp: bytes, now: Now) -> None:
        """Most are copies, of which nobody needs to hear. New ones that are much too old, one after the other, may be
        those of a peer whose clock was ahead, and whose memory of it is gone: they are refused until the clock gets
        there."""
        behind = self.inbound.behind(timestamp)
        if behind > CLOCK_DOUBT:
            self.inbound.handled(timestamp, now)
        if behind <= CLOCK_DOUBT or not self._old_offers.insist(timestamp, now.mono):
            self.context.notice("message.rejected", message="init", reason="replay", detail="an old first message")
            return
        self.context.notice(
            "message.rejected", message="init", reason="clock",
            detail=f"the peer goes on making offers that are {behind} s older than the newest one agreed on: its clock "
            "is behind, or was ahead then and it has lost its state since. Set the clocks of both right; where they "
            "are, wait until then, or give that one peer another identity (there: qtunnel identity new) and put its "
            "public file in the place of the old one here",
        )  # fmt: skip

    def message(self, message: Message, address: Hashable, now: Now) -> bool:
        """Messages 2 to 4. Whether it proves that ``address`` is where the peer is."""
        if message.suite != self.settings.suite.id:
            return False
        if message.type is MessageType.COMMIT:
            if self.inbound.commit(message.exchange, message.body, address, now):
                self.outbound.superseded(self.context.floor)
                self.ahead.save(now)
                self._initiates = False
                if self.outbound.state is OutState.IDLE:
                    self._next = self.context.schedule.overdue(now.mono)
                return True
        elif message.exchange == self.outbound.exchange:
            if message.type is MessageType.RESPONSE:
                # A first message of the peer's came from there, and now the answer to ours: it has moved.
                moved, before = address == self.outbound.elsewhere, self.outbound.state
                self._ended(self.outbound.response(message.body, now), now)
                return moved and self.outbound.state is not before
            self._ended(self.outbound.committed(message.body, now), now)
        return False

    def tick(self, now: Now) -> None:
        """Everything that the passing of time brings."""
        self.inbound.tick(now)
        self._ended(self.outbound.tick(now), now)
        self._expire(now)
        self.ahead.tick(now)
        self._guard(now)
        if self.outbound.state is not OutState.IDLE or self._next is None or now.mono < self._next:
            return
        if self.inbound.state is not InState.IDLE and now.mono < self.inbound.started + OFFER_HOLD:
            self._next = self.inbound.started + OFFER_HOLD  # the peer's exchange first
            return
        self._begin(now)

    def _expire(self, now: Now) -> None:
        context = self.context
        # Not during an exchange: what was offered must stay in hand until its answer.
        old = context.ours.expire(now.mono) if self.outbound.state is OutState.IDLE else []
        old += context.theirs.expire(now.mono) if self.inbound.state is InState.IDLE else []
        for ref in old:
            context.notice("key.expired", source=ref.source, key_id=ref.key_id)

    def _guard(self, now: Now) -> None:
        context = self.context
        event = context.guard.tick(now.mono)
        if event is None:
            return
        max_age = self.settings.max_age
        if event is GuardEvent.EXPIRED_RELAX:
            context.notice("policy.relaxed", detail=f"no epoch with QKD for {max_age:g} s: on_expiry allows PQC alone")
            if self.outbound.state is OutState.IDLE and self._next is not None:
                self._next = now.mono
        else:
            self._block(f"no new epoch for {max_age:g} s: traffic is blocked")
        context.show_protection()

    def _block(self, detail: str) -> None:
        self.context.block()
        self.context.effects.append(Block(self.settings.name))
        self.context.notice("peer.blocked", detail=detail)

    def close(self) -> None:
        """Wipe what is held."""
        self.ahead.close()
        self.context.ours.wipe()
        self.context.theirs.wipe()
        self.context.chain.wipe()
        self.context.block()
