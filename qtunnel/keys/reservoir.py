"""Keys agreed ahead with one peer: fetched by one end, found by the other, used once when the key sources are silent.

Each end fetches keys of its own and announces their references in the messages of a rekey; the peer fetches them by
those references and says in the next messages which it holds. Only such keys are *shared* and can go into an epoch, at
both ends at the same time, without asking any key source. Who announced a key is the one that offers it, so two ends
never offer the same one.

``store`` names a reservoir: as long as its process lives or, where it is kept on disk, as long as its file can be used.
A peer that shows another store than before has lost what it held. ``image`` is what goes to disk; whoever lost a part
of what it had learned finds it again, for a key that is announced once more is marked once more.

Where a source raised an alarm, the keys that came since the last good look at it are wiped, and withdrawn: the peer
hears of it, and wipes its own. Until it has, none of them is taken up again, also after a restart where ``image`` is
kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate

from qtunnel.crypto.kdf import frame
from qtunnel.keys.stored import Image, StoredKey
from qtunnel.secret import Secret
from qtunnel.terms import MARK_SIZE, MAX_ANNOUNCED, MAX_ANNOUNCED_BYTES, MAX_MARKS, NOTHING, Inventory, KeyRef

TRANSIT = 2
"""Keys beyond the depth: where each rekey takes one, as many are on their way to being shared."""
MAX_DEPTH = 1024
"""Keys: a day and a half at the usual 120 s."""
MOST_WITHDRAWN = 8 * MAX_DEPTH
"""Marks of keys that a peer has not heard of: both ends' whole reservoirs of four sources, in 64 KB on disk. The oldest
give way."""
NONE_VOUCHED: Mapping[str, float] = {}


class Place(Enum):
    """Where a key of ours is. FETCHED: the peer does not know of it; SHARED: it said that it holds it."""

    FETCHED = "fetched"
    ANNOUNCED = "announced"
    SHARED = "shared"


_PLACES = (Place.FETCHED, Place.ANNOUNCED, Place.SHARED)
"""By the number that stands for them on disk."""


@dataclass(slots=True)
class _Own:
    key: Secret
    since: float
    place: Place = Place.FETCHED


@dataclass(slots=True)
class _Theirs:
    key: Secret
    since: float
    told: bool = False


def mark_of(ref: KeyRef) -> bytes:
    """A short name for a reference: 8 bytes of SHA-512 over its framed parts."""
    framed = frame(ref.source.encode(), ref.key_id.encode(), ref.size.to_bytes(2, "big"))
    return hashlib.sha512(framed).digest()[:MARK_SIZE]


class Reservoir:
    """Both ends' keys of one peer. All times are monotonic seconds.

    depth: keys of each source that this end keeps shared, and takes from the peer; 0 for none. max_age: seconds from a
    key's arrival until it is wiped. store: ``STORE_SIZE`` random bytes, not all zero.
    """

    def __init__(self, store: bytes, depth: int, max_age: float) -> None:
        self.store, self.depth, self.max_age = store, depth, max_age
        self._own: dict[KeyRef, _Own] = {}
        self._theirs: dict[KeyRef, _Theirs] = {}
        self._peer_store: bytes | None = None
        self._withdrawn: dict[bytes, None] = {}
        """Marks of keys that the peer has to wipe, until it knows: the oldest first."""
        self.version = 0
        """Another one after whatever changes what is on disk."""
        self.used = False
        """Whether a key was taken out to be used since the last ``image``."""

    @property
    def _room(self) -> int:
        return self.depth + TRANSIT if self.depth else 0

    # -- our own keys

    def missing(self, source: str) -> int:
        """How many keys of a source are to be fetched now: one message's worth at a time, and none while the peer does
        not take up those of before, so that a dead one never drains a KME."""
        own = [entry.place for ref, entry in self._own.items() if ref.source == source]
        waiting = sum(place is not Place.SHARED for place in own)
        return max(0, min(self._room - len(own), MAX_ANNOUNCED - waiting))

    def put(self, ref: KeyRef, key: Secret, now: float) -> None:
        """A key that our source gave, to be announced; wiped where there is no room for it."""
        if ref in self._own or len([its for its in self._own if its.source == ref.source]) >= self._room:
            key.wipe()
        else:
            self._own[ref] = _Own(key, now)
            self.version += 1

    def shared(self, source: str) -> int:
        """Keys of that source that both ends hold and that we may offer."""
        return sum(ref.source == source and entry.place is Place.SHARED for ref, entry in self._own.items())

    def came(self, ref: KeyRef) -> float:
        """When a key came that is held here."""
        return (self._own.get(ref) or self._theirs[ref]).since

    def oldest(self, source: str) -> KeyRef | None:
        """What ``take`` would give."""
        its = (ref for ref, entry in self._own.items() if ref.source == source and entry.place is Place.SHARED)
        return next(its, None)

    def take(self, source: str) -> tuple[KeyRef, Secret] | None:
        """The oldest shared key of a source, which is in no reservoir any more: the caller wipes it."""
        ref = self.oldest(source)
        if ref is None:
            return None
        self._out()
        return ref, self._own.pop(ref).key

    # -- the peer's

    def wanted(self, announced: Iterable[KeyRef], sources: Collection[str], size: int) -> tuple[KeyRef, ...]:
        """Which of the peer's announced keys are to be fetched: of our sources, of that size, as many as there is room
        for."""
        room = {source: self._room - sum(ref.source == source for ref in self._theirs) for source in sources}
        wanted = []
        for ref in announced:
            if ref in self._theirs or ref.size != size or room.get(ref.source, 0) <= 0 or self.is_withdrawn(ref):
                continue
            room[ref.source] -= 1
            wanted.append(ref)
        return tuple(wanted)

    def hold(self, ref: KeyRef, key: Secret, now: float) -> None:
        """A key of the peer's that our source gave by its reference."""
        if ref in self._theirs:
            key.wipe()
        else:
            self._theirs[ref] = _Theirs(key, now)
            self.version += 1

    def give(self, ref: KeyRef) -> Secret | None:
        """A key of the peer's that it offers now; it is in no reservoir any more: the caller wipes it."""
        entry = self._theirs.pop(ref, None)
        if entry is None:
            return None
        self._out()
        return entry.key

    def _out(self) -> None:
        self.version, self.used = self.version + 1, True

    # -- what is told

    def tell(self, *, withdrawals: bool = False) -> Inventory:
        """For our next message. What it says is repeated until ``heard`` tells that it arrived. withdrawals: the peer
        reads which keys are withdrawn."""
        if not self.depth:
            return NOTHING
        withdrawn = self.withdrawn if withdrawals else ()
        held = [ref for ref, entry in self._theirs.items() if not entry.told][: MAX_MARKS - len(withdrawn)]
        fresh = [ref for ref, entry in self._own.items() if entry.place is not Place.SHARED][:MAX_ANNOUNCED]
        sizes = accumulate(ref.wire_size for ref in fresh)
        announced = tuple(ref for ref, size in zip(fresh, sizes, strict=True) if size <= MAX_ANNOUNCED_BYTES)
        for ref in announced:
            if self._own[ref].place is Place.FETCHED:
                self._own[ref].place = Place.ANNOUNCED
                self.version += 1
        return Inventory(self.store, announced, tuple(mark_of(ref) for ref in held), withdrawn)

    @property
    def withdrawn(self) -> tuple[bytes, ...]:
        """Marks of keys that the peer has to wipe, as many as one message takes."""
        return tuple(self._withdrawn)[:MAX_MARKS]

    def is_withdrawn(self, ref: KeyRef) -> bool:
        """Whether a key must not be used, whoever delivers it."""
        return bool(self._withdrawn) and mark_of(ref) in self._withdrawn

    def withdraw(self, refs: Iterable[KeyRef]) -> None:
        """The peer has to wipe these, which are in no reservoir here (any more)."""
        before = len(self._withdrawn)
        self._withdrawn |= dict.fromkeys(mark_of(ref) for ref in refs)
        if len(self._withdrawn) > before:
            self._out()  # a file of before does not know of it, and must not be used any more
        while len(self._withdrawn) > MOST_WITHDRAWN:
            del self._withdrawn[next(iter(self._withdrawn))]

    def refusing(self) -> Inventory:
        """For a refusal, of which nobody hears whether it arrived: another one has the next of them."""
        marks = self.withdrawn
        for mark in marks:
            self._withdrawn[mark] = self._withdrawn.pop(mark)
        return Inventory(self.store, withdrawn=marks) if self.depth else NOTHING

    def heard(self, told: Inventory) -> None:
        """The peer has read a message with what ``tell`` gave, and counts on it."""
        for mark in told.withdrawn:
            self.version += mark in self._withdrawn
            self._withdrawn.pop(mark, None)
        marks = set(told.held)
        for ref, entry in self._theirs.items():
            if not entry.told and mark_of(ref) in marks:
                entry.told = True
                self.version += 1

    def learn(self, told: Inventory) -> list[KeyRef]:
        """What the peer said of its reservoir. Returns our keys that are lost by it: the peer held them, in a store
        that is no more."""
        lost: list[KeyRef] = []
        if told.store != self._peer_store:
            if self._peer_store is not None:  # else nothing of ours was announced to it
                lost = [ref for ref, entry in self._own.items() if entry.place is not Place.FETCHED]
                for ref in lost:
                    self._own.pop(ref).key.wipe()
                lost += self._drop_theirs()
                self._withdrawn.clear()  # with the store it has lost what they are of
            self._peer_store = told.store
            self.version += 1
        for ref in told.announced:
            if ref in self._theirs and self._theirs[ref].told:
                self._theirs[ref].told = False  # the peer has lost that it knew
                self.version += 1
        marks = set(told.held)
        for ref, entry in self._own.items():
            if entry.place is Place.ANNOUNCED and mark_of(ref) in marks:
                entry.place = Place.SHARED
                self.version += 1
        return lost

    @property
    def peer_store(self) -> bytes | None:
        """The peer's, as it told it last."""
        return self._peer_store

    def _drop_theirs(self) -> list[KeyRef]:
        """A peer that has lost its store will never offer what it fetched."""
        lost = list(self._theirs)
        for entry in self._theirs.values():
            entry.key.wipe()
        self._theirs.clear()
        return lost

    def distrust(self, source: str, since: float) -> list[KeyRef]:
        """Wipe the keys of a source that came after ``since``, of both ends, and say which; those that the peer knows
        of are withdrawn."""
        doubted: list[KeyRef] = []
        known: list[KeyRef] = []
        # The peer's first: it may offer one at any moment.
        for ref in [ref for ref, its in self._theirs.items() if ref.source == source and its.since > since]:
            self._theirs.pop(ref).key.wipe()
            doubted.append(ref)
            known.append(ref)
        for ref in [ref for ref, its in self._own.items() if ref.source == source and its.since > since]:
            entry = self._own.pop(ref)
            entry.key.wipe()
            doubted.append(ref)
            if entry.place is not Place.FETCHED:
                known.append(ref)
        self.withdraw(known)
        if doubted:
            self._out()
        return doubted

    def drop(self, marks: Collection[bytes]) -> list[KeyRef]:
        """The peer has withdrawn these: wipe them, and say which they were."""
        gone: list[KeyRef] = []
        for entries in (self._own, self._theirs) if marks else ():
            for ref in [ref for ref in entries if mark_of(ref) in marks]:
                entries.pop(ref).key.wipe()
                gone.append(ref)
        if gone:
            self._out()
        return gone

    # -- on disk

    def image(self, now: float, unix_ms: int, vouched: Mapping[str, float] = NONE_VOUCHED) -> Image:
        """All that is held, in copies. unix_ms: the wall clock's milliseconds at ``now``; vouched: by source, when a
        look last found nothing wrong with its keys."""
        self.used = False

        def entry(ref: KeyRef, its: _Own | _Theirs, state: int) -> StoredKey:
            return StoredKey(ref, its.key.copy(), max(0, unix_ms - round((now - its.since) * 1000)), state)

        own = tuple(entry(ref, its, _PLACES.index(its.place)) for ref, its in self._own.items())
        theirs = tuple(entry(ref, its, int(its.told)) for ref, its in self._theirs.items())
        # A millisecond earlier, so that no key which came after a look seems to have come before.
        looks = {source: unix_ms - math.ceil((now - at) * 1000) - 1 for source, at in vouched.items()}
        kept = tuple(sorted((source, at) for source, at in looks.items() if at >= 0))
        return Image(self.store, self._peer_store, own, theirs, tuple(self._withdrawn), kept)

    def take_up(
        self, image: Image, now: float, unix_ms: int, news: Callable[[KeyRef, Secret], bool]
    ) -> dict[str, float]:
        """Go on with what an ``image`` has, whose keys are this reservoir's from now on. Only while it is empty. news:
        whether a key was never seen before; others are wiped. Returns by source when a look last found nothing wrong
        with its keys; not that of a moment which is yet to come, as nobody can tell then what came after it."""
        self.store, self._peer_store = image.store, image.peer_store
        self._withdrawn = dict.fromkeys(image.withdrawn)
        self.version += 1
        for number, stored in enumerate((*image.own, *image.theirs)):
            # A clock that went back makes a key young, and one that went forward too old: neither uses it twice.
            since = now - max(0, unix_ms - stored.since) / 1000
            if self.is_withdrawn(stored.ref) or not news(stored.ref, stored.key):
                stored.key.wipe()
            elif number < len(image.own):
                self._own[stored.ref] = _Own(stored.key, since, _PLACES[stored.state])
            else:
                self._theirs[stored.ref] = _Theirs(stored.key, since, stored.state > 0)
        return {source: now - (unix_ms - at) / 1000 for source, at in image.vouched if at <= unix_ms}

    # -- bounds

    @property
    def deadline(self) -> float | None:
        """When the oldest key is to be wiped."""
        times = [entry.since for entries in (self._own, self._theirs) for entry in entries.values()]
        return min(times) + self.max_age if times else None

    def expire(self, now: float) -> list[KeyRef]:
        """Wipe what is too old, and say which."""
        old: list[KeyRef] = []
        for entries in (self._own, self._theirs):
            for ref in [ref for ref, entry in entries.items() if now >= entry.since + self.max_age]:
                entries.pop(ref).key.wipe()
                old.append(ref)
        self.version += bool(old)
        return old

    def keep(self, sources: Collection[str]) -> list[KeyRef]:
        """Wipe what is of any other source, and say which."""
        gone: list[KeyRef] = []
        for entries in (self._own, self._theirs):
            for ref in [ref for ref in entries if ref.source not in sources]:
                entries.pop(ref).key.wipe()
                gone.append(ref)
        self.version += bool(gone)
        return gone

    @property
    def refs(self) -> tuple[KeyRef, ...]:
        """All that are held."""
        return *self._own, *self._theirs

    def counts(self) -> dict[str, tuple[int, int]]:
        """By source: our shared keys, and all that are held, both ends' together."""
        found: dict[str, tuple[int, int]] = {}
        for entries in (self._own, self._theirs):
            for ref in entries:
                shared, held = found.get(ref.source, (0, 0))
                found[ref.source] = shared, held + 1
        return {source: (self.shared(source), held) for source, (_, held) in found.items()}

    def wipe(self) -> int:
        """Wipe all; how many that were."""
        every = [entry.key for entry in self._own.values()] + [entry.key for entry in self._theirs.values()]
        for key in every:
            key.wipe()
        self._own.clear()
        self._theirs.clear()
        self.version += bool(every)
        return len(every)
