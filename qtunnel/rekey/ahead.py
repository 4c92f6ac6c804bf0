"""Keys agreed ahead with one peer: fetched in good time, told in the messages of rekeys, taken when one is due."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.handshake.messages import Answer, Verdict
from qtunnel.keys.reservoir import Reservoir, mark_of
from qtunnel.keys.stored import Image
from qtunnel.rekey.context import PeerContext
from qtunnel.rekey.model import FetchAhead, FetchById, Fetched, Keep, Now, PeerSettings
from qtunnel.terms import NOTHING, RESERVOIR, STORE_SIZE, WITHDRAWALS, Inventory, KeyRef

FIRST_PAUSE = 2.0
"""Seconds until a source that gave fewer keys than it was asked for is asked again, doubling up to ..."""
LONGEST_PAUSE = 120.0
"""... these, the usual interval between rekeys: what comes sooner would not be announced sooner."""
CONFIGURATION_CHANGED = "the configuration has changed"
WITHDRAWN = "the peer has withdrawn them: its key source raised an alarm"
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
        self._due: dict[str, float] = {}
        """When a source may be asked again, where not at once; monotonic seconds."""
        self._pauses: dict[str, float] = {}
        self._low = set(settings.sources)  # empty, as everybody expects at the start
        self._saved = self.reservoir.version
        self._begin(kept, now)

    def _begin(self, kept: Kept, now: Now) -> None:
        """Go on with what was kept; what was not is told as lost, once."""
        context, settings, reservoir = self._context, self._context.settings, self.reservoir
        before = dict(context.memory.held)
        context.held_ahead = self._held
        if kept.image is not None and settings.store_key is not None:
            reservoir.take_up(kept.image, now.mono, _unix_ms(now), context.is_news)
            for source, at in context.memory.vouched:
                if at <= _unix_ms(now):  # else the clock went back, and nobody can tell what came after the look
                    context.vouched[source] = now.mono - (_unix_ms(now) - at) / 1000, at
            self._saved = reservoir.version
            context.notice("reservoir.kept", number=sum(held for _, held in self._held()))
            self._lost(reservoir.keep(settings.sources if settings.reservoir else ()), CONFIGURATION_CHANGED)
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
            self._keep(reservoir.image(now.mono, _unix_ms(now)), used, now)

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
                self._due.get(source, float("-inf"))
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
            if source in busy or not number or now.mono < self._due.get(source, float("-inf")):
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
            self._drop({mark_of(ref) for ref in self._unwanted.intersection(refs)})
            self._unwanted.difference_update(refs)
            self.save(now)
            self._note()
            return
        source, number = self._own.pop(ticket)
        failures = self._context.admit(reservoir.put, result, now)
        self.save(now)
        self._note()
        if failures or len(result.keys) < number:
            pause = self._pauses.get(source, FIRST_PAUSE)
            self._due[source] = now.mono + pause
            self._pauses[source] = min(LONGEST_PAUSE, 2 * pause)
        else:
            self._due.pop(source, None)
            self._pauses.pop(source, None)

    def take(self, sources: Iterable[str], most: int, now: Now) -> None:
        """Put the oldest shared key of up to ``most`` sources into the hand from which an offer is made."""
        for source in sources:
            if most <= 0:
                return
            taken = self.reservoir.take(source)
            if taken is not None:
                self._context.ours.put(*taken, now.mono)
                most -= 1
                self._watch(source)

    def give(self, refs: Iterable[KeyRef], now: Now) -> None:
        """The peer offers these: those that were agreed ahead are in hand for the answer."""
        for ref in refs:
            key = self.reservoir.give(ref)
            if key is not None:
                self._context.theirs.put(ref, key, now.mono)

    def tell(self) -> Inventory:
        """For the next offer or answer."""
        return self.reservoir.tell(withdrawals=bool(self._context.peer_capabilities & WITHDRAWALS))

    def refusing(self, capabilities: int) -> Inventory:
        """For an answer that refuses an offer with those capabilities: what the peer must not offer again."""
        return self.reservoir.refusing() if capabilities & WITHDRAWALS else NOTHING

    def heard(self, told: Inventory) -> None:
        """The peer has read an offer or answer with that."""
        self.reservoir.heard(told)

    def answered(self, told: Inventory, answer: Answer, now: Now) -> None:
        """The answer to our offer, which told that. One that refuses says nothing of a reservoir but what is withdrawn:
        that is no peer whose store is gone."""
        if answer.verdict is Verdict.ACCEPTED:
            self.heard(told)
            self.learn(answer.inventory, now)
        elif self._drop(answer.inventory.withdrawn):
            self.save(now)
            self._note()

    def learn(self, told: Inventory, now: Now) -> None:
        """What a proven offer or answer says of the peer's keys; those that it announces are fetched."""
        context = self._context
        lost = self._lost(self.reservoir.learn(told), "the peer has lost what it held of them, as by a restart")
        if self._drop(told.withdrawn) or lost:
            self.save(now)
            self._note()
        for source in context.settings.sources:
            self._watch(source)
        under_way = {ref for refs in self._theirs.values() for ref in refs}
        announced = [ref for ref in told.announced if ref not in under_way]
        wanted = self.reservoir.wanted(announced, context.settings.sources, QKD_KEY_SIZE)
        if wanted:
            ticket = next(context.tickets)
            self._theirs[ticket] = wanted
            context.effects.append(FetchById(context.name, ticket, wanted))

    def _drop(self, marks: Collection[bytes]) -> bool:
        """The peer has withdrawn these; whether any of them was here."""
        under_way = {ref for refs in self._theirs.values() for ref in refs} if marks else set[KeyRef]()
        self._unwanted |= {ref for ref in under_way if mark_of(ref) in marks}
        return self._lost(self.reservoir.drop(marks), WITHDRAWN)

    def distrust(self, source: str, why: str, now: Now) -> list[KeyRef]:
        """An alarm: wipe what came of that source since the last good look, also what is in hand, and let the peer know
        what it holds of it; returns which that were."""
        context = self._context
        since = context.good_until(source)
        ahead = self.reservoir.distrust(source, since)
        in_hand = [*context.ours.distrust(source, since), *context.theirs.distrust(source, since)]
        if ahead or in_hand:
            number = len(ahead) + len(in_hand)
            context.notice("key.distrusted", source=source, number=number, detail=why)
        if ahead:
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
