"""Keys agreed ahead with one peer: fetched in good time, told in the messages of rekeys, taken when one is due."""

from __future__ import annotations

from collections.abc import Iterable

from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.keys.reservoir import Reservoir
from qtunnel.rekey.context import PeerContext
from qtunnel.rekey.model import FetchAhead, FetchById, Fetched, Now, PeerSettings
from qtunnel.terms import RESERVOIR, STORE_SIZE, Inventory, KeyRef

FIRST_PAUSE = 2.0
"""Seconds until a source that gave fewer keys than it was asked for is asked again, doubling up to ..."""
LONGEST_PAUSE = 120.0
"""... these, the usual interval between rekeys: what comes sooner would not be announced sooner."""


class Ahead:
    """One peer's reservoir, and the fetches that fill it."""

    def __init__(self, context: PeerContext) -> None:
        self._context = context
        settings = context.settings
        store = context.random_bytes(STORE_SIZE)
        self.reservoir = Reservoir(store, settings.reservoir, settings.reservoir_age)
        self._own: dict[int, tuple[str, int]] = {}
        """Fetches under way for keys of ours: source and number, by ticket."""
        self._theirs: dict[int, tuple[KeyRef, ...]] = {}
        self._due: dict[str, float] = {}
        """When a source may be asked again, where not at once; monotonic seconds."""
        self._pauses: dict[str, float] = {}
        self._low = set(settings.sources)  # empty, as everybody expects at the start

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
        for ref in self.reservoir.expire(now.mono):
            self._context.notice("key.expired", source=ref.source, key_id=ref.key_id)
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
            del self._theirs[ticket]
            self._context.admit(reservoir.hold, result, now)
            return
        source, number = self._own.pop(ticket)
        failures = self._context.admit(reservoir.put, result, now)
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
        return self.reservoir.tell()

    def heard(self, told: Inventory) -> None:
        """The peer has read an offer or answer with that."""
        self.reservoir.heard(told)

    def learn(self, told: Inventory) -> None:
        """What a proven offer or answer says of the peer's keys; those that it announces are fetched."""
        context = self._context
        self._lost(self.reservoir.learn(told), "the peer has lost what it held of them, as by a restart")
        for source in context.settings.sources:
            self._watch(source)
        under_way = {ref for refs in self._theirs.values() for ref in refs}
        announced = [ref for ref in told.announced if ref not in under_way]
        wanted = self.reservoir.wanted(announced, context.settings.sources, QKD_KEY_SIZE)
        if wanted:
            ticket = next(context.tickets)
            self._theirs[ticket] = wanted
            context.effects.append(FetchById(context.name, ticket, wanted))

    def change(self, settings: PeerSettings) -> None:
        """Other settings of the same peer."""
        reservoir = self.reservoir
        reservoir.depth, reservoir.max_age = settings.reservoir, settings.reservoir_age
        self._lost(reservoir.keep(settings.sources if settings.reservoir else ()), "the configuration has changed")

    def _watch(self, source: str) -> None:
        """Tell once when few keys are left, and once when there are enough again."""
        low, shared = self._context.settings.reservoir_low, self.reservoir.shared(source)
        if source not in self._low and shared < low:
            self._low.add(source)
            self._context.notice("reservoir.low", source=source, keys=shared, low=low)
        elif source in self._low and shared >= low:
            self._low.remove(source)
            self._context.notice("reservoir.filled", source=source, keys=shared, low=low)

    def _lost(self, refs: Iterable[KeyRef], why: str) -> None:
        by_source: dict[str, int] = {}
        for ref in refs:
            by_source[ref.source] = by_source.get(ref.source, 0) + 1
        for source, number in by_source.items():
            self._context.notice("reservoir.lost", source=source, number=number, detail=why)

    def counts(self) -> dict[str, tuple[int, int]]:
        """By source: shared keys that we may offer, and all that are held here; empty where there is no reservoir."""
        if not self.reservoir.depth:
            return {}
        found = self.reservoir.counts()
        return {source: found.get(source, (0, 0)) for source in self._context.settings.sources}

    def close(self) -> None:
        """Wipe all."""
        self.reservoir.wipe()
