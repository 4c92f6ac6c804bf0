"""Keys agreed ahead with one peer: fetched in good time, told in the messages of rekeys, taken when one is due."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.handshake.messages import Answer, Verdict
from qtunnel.keys.reservoir import Reservoir, mark_of
from qtunnel.keys.stored import Image
from qtunnel.rekey.context import PeerContext
from qtunnel.rekey.model import FetchAhead, FetchById, Fetched, Keep, Look, Now, PeerSettings
from qtunnel.rekey.refill import Refill
from qtunnel.terms import NOTHING, RESERVOIR, STORE_SIZE, WITHDRAWALS, Inventory, KeyRef

CONFIGURATION_CHANGED = "the configuration has changed"
WITHDRAWN = "the peer has withdrawn them: its key source raised an alarm, or does not have them"
PEER_LOST = "the peer has lost what it held of them, as by a restart"
IN_MEMORY_ALONE = "the daemon was started anew, and they were in its memory alone"


@dataclass(frozen=True, slots=True)
class Kept:
    """What there is of a reservoir from before a restart. why: where there is nothing, what became of it, in words."""

    image: Image | None = None
    why: str = IN_MEMORY_ALONE


NOTHING_KEPT = Kept()


class Ahead:
    """One peer's reservoir, and the fetches that fill it.

    What is kept on disk is never behind what was sent: ``save`` stands before every message that tells what is held, or
    uses a key of it, and after every fetch.
    """

    def __init__(self, context: PeerContext, kept: Kept, now: Now) -> None:
        self._context = context
        settings = context.settings
        store = context.random_bytes(STORE_SIZE)
        self.reservoir = Reservoir(store, settings.reservoir, settings.reservoir_age)
        self._own: dict[int, tuple[str, int]] = {}
        """Fetches under way for keys of ours: source and number, by ticket."""
        self._theirs: dict[int, tuple[KeyRef, ...]] = {}
        self._unwanted: set[KeyRef] = set()
        """Of these, the peer's that it has withdrawn since."""
        self._unlooked: set[str] = set()
        """Sources of kept keys at whose status nobody has looked since the start: none of these keys is used."""
        self._looks: dict[int, tuple[str, ...]] = {}
        """Looks under way for that, by ticket."""
        self._taken: dict[KeyRef, bytes | None] = {}
        """Keys that were put in hand to be offered, and the peer's store with which each was agreed."""
        self._renounced: set[bytes] = set()
        """Marks that the peer has withdrawn since the last offer: it may be a key in hand."""
        self._refill = Refill()
        self._low = set(settings.sources)  # empty, as everybody expects at the start
        self._saved = self.reservoir.version
        self._begin(kept, now)

    def _begin(self, kept: Kept, now: Now) -> None:
        """Go on with what was kept; what was not is told as lost, once."""
        context, settings, reservoir = self._context, self._context.settings, self.reservoir
        before = dict(context.memory.held)
        context.held_ahead, context.withdrawn = self._held, reservoir.is_withdrawn
        if kept.image is not None and settings.store_key is not None:
            context.vouched |= reservoir.take_up(kept.image, now.mono, _unix_ms(now), context.is_news)
            self._saved = reservoir.version
            context.notice("reservoir.kept", number=sum(held for _, held in self._held()))
            self._lost(reservoir.keep(settings.sources if settings.reservoir else ()), CONFIGURATION_CHANGED)
            self._unlooked = {ref.source for ref in reservoir.refs}
            self.save(now)
        else:
            for source, number in before.items():
                context.notice("reservoir.lost", source=source, number=number, detail=kept.why)
            if context.memory.stored:  # a file that could not be used, or is not to be used any more
                self._keep(None, False, now)
        self._note()

    def _held(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted((source, held) for source, (_, held) in self.reservoir.counts().items()))

    def _note(self) -> None:
        """So that a daemon which is killed knows at its next start what it has lost."""
        if self._held() != self._context.memory.held:
            self._context.remember()

    def save(self, now: Now) -> None:
        """Bring what is on disk up to what is held, before anything is sent; nothing where it is so, or not kept."""
        reservoir = self.reservoir
        if self._context.settings.store_key is not None and reservoir.version != self._saved:
            self._saved, used = reservoir.version, reservoir.used
            held = {ref.source for ref in reservoir.refs}
            vouched = {source: at for source, at in self._context.vouched.items() if source in held}
            self._keep(reservoir.image(now.mono, _unix_ms(now), vouched), used, now)

    def _save_anew(self, now: Now) -> None:
        """The same, whatever is on disk."""
        self._saved = -1
        if self._context.settings.store_key is None:
            self._keep(None, False, now)
        else:
            self.save(now)

    def _keep(self, image: Image | None, used: bool, now: Now) -> None:
        """By the clock, so that a file from before the state directory was lost has a smaller generation, too."""
        context = self._context
        generation = max(context.memory.stored + 1, _unix_ms(now))
        ends = context.local.public.id, context.settings.public.id
        context.effects.append(Keep(context.name, generation, image, used, context.settings.store_key, ends))
        if used:  # at once, or an answer could go out with a key that an old copy of the file still has
            context.remember(stored=generation)
        else:  # on disk with the next thing to be remembered
            context.memory = replace(context.memory, stored=generation)

    @property
    def deadline(self) -> float | None:
        """When ``tick`` has something to do; monotonic seconds."""
        times = [self.reservoir.deadline]
        if self._wanted:
            busy = {source for source, _ in self._own.values()}
            times += [
                self._refill.due(source)
                for source in self._context.settings.sources
                if source not in busy and self.reservoir.missing(source)
            ]
        return min((time for time in times if time is not None), default=None)

    @property
    def _wanted(self) -> bool:
        """Whether keys are to be fetched ahead: only for a peer that takes them up."""
        return bool(self.reservoir.depth and self._context.peer_capabilities & RESERVOIR)

    def tick(self, now: Now) -> None:
        """Wipe what is too old, and ask for what is missing."""
        old = self.reservoir.expire(now.mono)
        for ref in old:
            self._context.notice("key.expired", source=ref.source, key_id=ref.key_id)
        if old:
            self.save(now)
            self._note()
        if not self._wanted:
            return
        busy = {source for source, _ in self._own.values()}
        for source in self._context.settings.sources:
            number = self.reservoir.missing(source)
            if source in busy or not number or now.mono < self._refill.due(source):
                continue
            ticket = next(self._context.tickets)
            self._own[ticket] = source, number
            self._context.effects.append(FetchAhead(self._context.name, ticket, source, number, QKD_KEY_SIZE))

    def asked(self, ticket: int) -> bool:
        """Whether this fetch is for the reservoir."""
        return ticket in self._own or ticket in self._theirs

    def fetched(self, ticket: int, result: Fetched, now: Now) -> None:
        """What a key source answered."""
        reservoir = self.reservoir
        if ticket in self._theirs:
            refs = self._theirs.pop(ticket)
            self._context.admit(reservoir.hold, result, now)
            self._drop({mark_of(ref) for ref in self._unwanted.intersection(refs)}, now)
            self._unwanted.difference_update(refs)
            self.reservoir.withdraw(self._refill.given_up(refs, {ref for ref, _ in result.keys}))
            self.save(now)
            self._note()
            return
        source, number = self._own.pop(ticket)
        failures = self._context.admit(reservoir.put, result, now)
        self.save(now)
        self._note()
        enough = not failures and len(result.keys) >= number
        self._refill.gave(source, len(result.keys), enough=enough, now=now.mono)

    def delivered(self, result: Fetched) -> None:
        """What came for a rekey: a source that was away is back, and what is missing is fetched without waiting."""
        self._refill.delivered(ref.source for ref, _ in result.keys)

    def look(self, sources: Iterable[str]) -> int | None:
        """Before keys of these sources are used: ask for a look where nobody has looked since they were kept. Returns
        its ticket; ``None`` where there is nothing to wait for."""
        unlooked = tuple(source for source in dict.fromkeys(sources) if source in self._unlooked)
        if not unlooked:
            return None
        ticket = next(self._context.tickets)
        self._looks[ticket] = unlooked
        self._context.effects.append(Look(self._context.name, ticket, unlooked))
        return ticket

    def looks(self, ticket: int) -> bool:
        """Whether that is a look under way."""
        return ticket in self._looks

    def looked(self, ticket: int) -> None:
        """That look is over; what it found was told."""
        self._unlooked.difference_update(self._looks.pop(ticket, ()))

    def vouch(self, source: str, at: float) -> None:
        """A look that began then found nothing wrong with that source's keys; monotonic seconds."""
        self._context.vouched[source] = at
        self._unlooked.discard(source)

    def weed(self) -> None:
        """Before an offer, wipe what is in hand for it and will not do: keys that the peer has withdrawn, and those
        that were agreed with a store of its that is no more."""
        ours = self._context.ours
        self._taken = {ref: store for ref, store in self._taken.items() if ref in ours}
        lost = [ref for ref, store in self._taken.items() if store != self.reservoir.peer_store]
        withdrawn = [ref for ref in ours if ref not in lost and self._renounced and mark_of(ref) in self._renounced]
        self._renounced.clear()
        for ref in (*lost, *withdrawn):
            ours.discard(ref)
        self._lost(lost, PEER_LOST)
        self._lost(withdrawn, WITHDRAWN)

    def outdated(self, store: bytes, refs: Iterable[KeyRef]) -> bool:
        """Whether one of these, which we offered, was agreed with another store of the peer's than it has now."""
        return any(self._taken.get(ref, store) != store for ref in refs)

    def take(self, sources: Iterable[str], most: int, now: Now) -> None:
        """Put the oldest shared key of up to ``most`` sources into the hand from which an offer is made."""
        for source in sources:
            if most <= 0:
                return
            ref = None if source in self._unlooked else self.reservoir.oldest(source)
            if ref is None:
                continue
            came, taken = self.reservoir.came(ref), self.reservoir.take(source)
            assert taken is not None  # it is the oldest
            self._context.ours.put(*taken, now.mono, came)
            self._taken[ref] = self.reservoir.peer_store
            most -= 1
            self._watch(source)

    def give(self, refs: Iterable[KeyRef], now: Now) -> None:
        """The peer offers these: those that were agreed ahead are in hand for the answer."""
        for ref in refs:
            if ref in self.reservoir.refs:
                came, key = self.reservoir.came(ref), self.reservoir.give(ref)
                assert key is not None  # it is there
                self._context.theirs.put(ref, key, now.mono, came)

    def tell(self) -> Inventory:
        """For the next offer or answer."""
        return self.reservoir.tell(withdrawals=bool(self._context.peer_capabilities & WITHDRAWALS))

    def refusing(self, capabilities: int) -> Inventory:
        """For an answer that refuses an offer with those capabilities: what the peer must not offer again."""
        return self.reservoir.refusing() if capabilities & WITHDRAWALS else NOTHING

    def heard(self, told: Inventory) -> None:
        """The peer has read an offer or answer with that."""
        self.reservoir.heard(told)

    def confirmed(self, told: Inventory) -> None:
        """Our commit has arrived, and with it what the offer told of withdrawn keys."""
        self.heard(Inventory(told.store, withdrawn=told.withdrawn))

    def answered(self, told: Inventory, answer: Answer, now: Now) -> bool:
        """The answer to our offer, which told that. What is withdrawn counts for the peer with our commit alone.
        Whether it is a refusal by which keys are lost."""
        if answer.verdict is not Verdict.ACCEPTED:
            return self.refused(answer.inventory, now)
        self.heard(replace(told, withdrawn=()))
        self.learn(answer.inventory, now)
        return False

    def refused(self, told: Inventory, now: Now) -> bool:
        """What a refusal of our offer says of the reservoir: its store and what is withdrawn, an older version's often
        nothing. Whether keys are lost by it."""
        lost = False
        if any(told.store) and self.reservoir.peer_store is not None:
            lost = self._throw(self.reservoir.learn(Inventory(told.store)), PEER_LOST, now)
        dropped = self._drop(told.withdrawn, now)
        if lost or dropped:
            self.save(now)
            self._note()
        return lost

    def learn(self, told: Inventory, now: Now) -> None:
        """What a proven offer or answer says of the peer's keys; those that it announces are fetched."""
        context = self._context
        lost = self._throw(self.reservoir.learn(told), PEER_LOST, now)
        if self._drop(told.withdrawn, now) or lost:
            self.save(now)
            self._note()
        for source in context.settings.sources:
            self._watch(source)
        self._refill.announced(told.announced)
        under_way = {ref for refs in self._theirs.values() for ref in refs}
        announced = [ref for ref in told.announced if ref not in under_way]
        wanted = self.reservoir.wanted(announced, context.settings.sources, QKD_KEY_SIZE)
        if wanted:
            ticket = next(context.tickets)
            self._theirs[ticket] = wanted
            context.effects.append(FetchById(context.name, ticket, wanted))

    def _throw(self, refs: Collection[KeyRef], why: str, now: Now) -> bool:
        """These were wiped at the peer's word; whether there were any."""
        self._refill.thrown((ref.source for ref in refs), self._context.settings.interval, now.mono)
        return self._lost(refs, why)

    def _drop(self, marks: Collection[bytes], now: Now) -> bool:
        """The peer has withdrawn these; whether any of them was here."""
        # Of keys that come into the hand later the peer knows nothing yet, and one that only answers offers none.
        self._renounced |= {mark for ref in self._context.ours if (mark := mark_of(ref)) in marks} if marks else set()
        under_way = {ref for refs in self._theirs.values() for ref in refs} if marks else set[KeyRef]()
        self._unwanted |= {ref for ref in under_way if mark_of(ref) in marks}
        return self._throw(self.reservoir.drop(marks), WITHDRAWN, now)

    def distrust(self, source: str, why: str, now: Now, coming: Iterable[KeyRef] = ()) -> list[KeyRef]:
        """An alarm: wipe what came of that source since the last good look, also what is in hand, and let the peer know
        what it holds of it; returns which that were. coming: further keys of the peer's that are being fetched."""
        context = self._context
        since = context.good_until(source)
        under_way = [ref for refs in (coming, *self._theirs.values()) for ref in refs if ref.source == source]
        self.reservoir.withdraw(under_way)  # whoever fetches them wipes them, and they must not come once more
        self._unlooked.discard(source)
        ahead = self.reservoir.distrust(source, since)
        theirs = context.theirs.distrust(source, since)
        self.reservoir.withdraw(theirs)  # the peer has them in hand, and may offer them again
        in_hand = [*context.ours.distrust(source, since), *theirs]
        if ahead or in_hand:
            number = len(ahead) + len(in_hand)
            context.notice("key.distrusted", source=source, number=number, detail=why)
        if ahead or in_hand or under_way:
            self._watch(source)
            self.save(now)
            self._note()
        return ahead + in_hand

    def change(self, settings: PeerSettings, before: PeerSettings, now: Now) -> None:
        """Other settings of the same peer."""
        reservoir = self.reservoir
        reservoir.depth, reservoir.max_age = settings.reservoir, settings.reservoir_age
        self._lost(reservoir.keep(settings.sources if settings.reservoir else ()), CONFIGURATION_CHANGED)
        if settings.store_key is not None and settings.store_key != before.store_key:
            self._save_anew(now)
        elif settings.store_key is None and before.store_key is not None:
            # Its keys go on being used, and nobody takes them out of the file any more.
            self._keep(None, True, now)
            self._context.remember()
        self.save(now)
        self._note()

    def lose(self, why: str, now: Now) -> None:
        """Wipe all, and let the peer know by another store."""
        self._lost([*self.reservoir.refs], why)
        self.reservoir.wipe()
        self.reservoir.store = self._context.random_bytes(STORE_SIZE)
        self._save_anew(now)
        self._note()

    def _watch(self, source: str) -> None:
        """Tell once when few keys are left, and once when there are enough again."""
        low, shared = self._context.settings.reservoir_low, self.reservoir.shared(source)
        if source not in self._low and shared < low:
            self._low.add(source)
            self._context.notice("reservoir.low", source=source, keys=shared, low=low)
        elif source in self._low and shared >= low:
            self._low.remove(source)
            self._context.notice("reservoir.filled", source=source, keys=shared, low=low)

    def _lost(self, refs: Iterable[KeyRef], why: str) -> bool:
        by_source: dict[str, int] = {}
        for ref in refs:
            by_source[ref.source] = by_source.get(ref.source, 0) + 1
        for source, number in by_source.items():
            self._context.notice("reservoir.lost", source=source, number=number, detail=why)
        return bool(by_source)

    def counts(self) -> dict[str, tuple[int, int]]:
        """By source: shared keys that we may offer, and all that are held here; empty where there is no reservoir."""
        if not self.reservoir.depth:
            return {}
        found = self.reservoir.counts()
        return {source: found.get(source, (0, 0)) for source in self._context.settings.sources}

    def close(self) -> None:
        """Wipe all."""
        self.reservoir.wipe()


def _unix_ms(now: Now) -> int:
    return now.unix_ns // 1_000_000
