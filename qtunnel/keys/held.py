"""QKD keys in hand but not yet part of an epoch: kept by reference for a bounded time, then wiped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef

MAX_KEY_ID = 255
"""Bytes of a key_ID in an offer (docs/protocol.md, Offer); ETSI GS QKD 014 clause 6 has UUIDs of 36."""

ARRIVALS = 64
"""Keys of which is known when they came, though they are in hand no more: those of the epoch in force, and what was
fetched since, which at one rekey in 120 s and 16 sources is eight minutes."""


def problem_of(ref: KeyRef, key: Secret, sources: Collection[str]) -> str | None:
    """What is wrong with a key that a source delivered, in words; None where it can be used."""
    if ref.source not in sources:
        return f"{ref.source}: delivered a key that was not asked of it"
    if not 0 < len(ref.key_id.encode()) <= MAX_KEY_ID or not ref.key_id.isprintable():
        return f"{ref.source}: a key_ID must have 1 to {MAX_KEY_ID} bytes of printable text"
    if not len(key) == ref.size == QKD_KEY_SIZE:
        return f"{ref.source}: delivered a key of {len(key)} bytes instead of {QKD_KEY_SIZE} (key_ID {ref.key_id})"
    return None


@dataclass(slots=True)
class _Entry:
    key: Secret
    since: float


class HeldKeys:
    """Keys by their reference. The initiator keeps those it offered without an answer, so that a dead peer does not
    drain its KME; the responder keeps those it fetched, so that a new attempt after a lost answer finds them.

    lifetime: seconds after which a key is wiped.
    """

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._entries: dict[KeyRef, _Entry] = {}
        self._arrivals: dict[KeyRef, float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, ref: KeyRef) -> bool:
        return ref in self._entries

    def __iter__(self) -> Iterator[KeyRef]:
        return iter(tuple(self._entries))

    def put(self, ref: KeyRef, key: Secret, now: float, came: float | None = None) -> None:
        """Keep ``key`` from now on; one that is held already under this reference stays. came: when its source gave it,
        where not now."""
        if ref in self._entries:
            key.wipe()
            return
        self._entries[ref] = _Entry(key, now)
        self._arrivals[ref] = now if came is None else came
        while len(self._arrivals) > ARRIVALS:
            del self._arrivals[next(iter(self._arrivals))]

    def arrived(self, ref: KeyRef) -> float | None:
        """When its source gave a key that is held, or was one of the last that were; ``None`` for any other."""
        return self._arrivals.get(ref)

    def get(self, ref: KeyRef) -> Secret | None:
        """The key, which stays held."""
        entry = self._entries.get(ref)
        return None if entry is None else entry.key

    def newest_by_source(self) -> dict[str, KeyRef]:
        """One reference per source, the newest of each."""
        return {ref.source: ref for ref in self._entries}

    def came(self, refs: Iterable[KeyRef]) -> dict[KeyRef, float]:
        """Since when these are held, those that are; monotonic seconds."""
        return {ref: self._entries[ref].since for ref in refs if ref in self._entries}

    def discard(self, ref: KeyRef) -> None:
        """Wipe and forget; a reference that is not held is ignored."""
        entry = self._entries.pop(ref, None)
        if entry is not None:
            entry.key.wipe()

    @property
    def deadline(self) -> float | None:
        """When the oldest is to be wiped; monotonic seconds."""
        return min((entry.since + self._lifetime for entry in self._entries.values()), default=None)

    def distrust(self, source: str, since: float) -> list[KeyRef]:
        """Wipe what came of that source after ``since``, and say which."""
        doubted = [ref for ref, entry in self._entries.items() if ref.source == source and entry.since > since]
        for ref in doubted:
            self.discard(ref)
        return doubted

    def keep(self, sources: Collection[str]) -> None:
        """Wipe what is of any other source."""
        for ref in [ref for ref in self._entries if ref.source not in sources]:
            self.discard(ref)

    def expire(self, now: float) -> list[KeyRef]:
        """Wipe what has reached the lifetime and say which."""
        old = [ref for ref, entry in self._entries.items() if now >= entry.since + self._lifetime]
        for ref in old:
            self.discard(ref)
        return old

    def wipe(self) -> None:
        """Wipe all."""
        for ref in list(self._entries):
            self.discard(ref)
