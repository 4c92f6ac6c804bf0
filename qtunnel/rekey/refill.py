"""When a key source may be asked for keys ahead, and which announced keys are asked for no more. Times are monotonic
seconds."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from qtunnel.rekey.timing import THROWN_PAUSE
from qtunnel.terms import KeyRef

FIRST_PAUSE = 2.0
"""Seconds until a source that gave fewer keys than it was asked for is asked again, doubling up to ..."""
LONGEST_PAUSE = 120.0
"""... these, the usual interval between rekeys: what comes sooner would not be announced sooner."""
VAIN = 3
"""Times that a key which the peer announced is asked for in vain, while its source delivers others: a KME may not have
heard of it yet, or have lost it, as by a restart, and would be asked at each rekey for as long as the key is kept."""


class Refill:
    """Of one peer's reservoir."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._away: set[str] = set()
        """Sources that gave not one key when they were asked last."""
        self._thrown: dict[str, float] = {}
        """Where the peer had us throw away what we held: who goes on so must not drain a KME."""
        self._vain: dict[KeyRef, int] = {}
        """How often keys of the peer's were asked for in vain, of those that it announced last."""

    def due(self, source: str) -> float:
        """From when on it may be asked."""
        return max(times.get(source, float("-inf")) for times in (self._due, self._thrown))

    def gave(self, source: str, number: int, *, enough: bool, now: float) -> None:
        """It was asked. number: of keys that came; enough: as many as were wanted, and nothing failed."""
        self._away.discard(source)
        if enough:
            self._due.pop(source, None)
            self._pauses.pop(source, None)
            return
        if not number:
            self._away.add(source)
        pause = self._pauses.get(source, FIRST_PAUSE)
        self._due[source] = now + pause
        self._pauses[source] = min(LONGEST_PAUSE, 2 * pause)

    def delivered(self, sources: Iterable[str]) -> None:
        """These gave keys for a rekey: one that was away is back, and what is missing is fetched without waiting."""
        for source in self._away.intersection(sources):
            self._away.discard(source)
            self._due.pop(source, None)
            self._pauses.pop(source, None)

    def thrown(self, sources: Iterable[str], interval: float, now: float) -> None:
        """Keys of these went at the peer's word. interval: seconds between rekeys."""
        self._thrown |= dict.fromkeys(sources, now + THROWN_PAUSE * interval)

    def announced(self, refs: Iterable[KeyRef]) -> None:
        """The peer announces these, and no others."""
        self._vain = {ref: self._vain[ref] for ref in refs if ref in self._vain}

    def given_up(self, asked: Iterable[KeyRef], came: Collection[KeyRef]) -> list[KeyRef]:
        """The peer's keys that were asked for too often, by a source that has others."""
        well = {ref.source for ref in came}
        for ref in asked:
            if ref in came:
                self._vain.pop(ref, None)
            elif ref.source in well or ref in self._vain:
                self._vain[ref] = self._vain.get(ref, 0) + 1
        gone = [ref for ref, times in self._vain.items() if times >= VAIN]
        for ref in gone:
            del self._vain[ref]
        return gone
