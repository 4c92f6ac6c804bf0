"""The KMEs of a world, which remember what they delivered."""

from __future__ import annotations

import random
from collections.abc import Callable

from qtunnel.secret import Secret
from qtunnel.terms import KeyRef
from tests.rekey.model.plan import ENDS
from tests.rekey.simulation import KmePair


class RecordedKmes(KmePair):
    """The pair, with a memory of what it delivered to whom and when. barred: whether an end asks a source for nothing,
    as the daemon does while there is an alarm."""

    def __init__(self, rng: random.Random, clock: Callable[[], float], barred: Callable[[str, str], bool]) -> None:
        super().__init__(rng)
        self._clock, self._barred = clock, barred
        self._bits: dict[tuple[str, KeyRef], bytes] = {}
        self.came: dict[tuple[str, KeyRef], float] = {}
        self.since_start: dict[str, set[KeyRef]] = {end: set() for end in ENDS}

    def get(self, who: str, source: str, size: int) -> tuple[KeyRef, Secret] | str:
        if self._barred(who, source):
            return f"{source}: in quarantine"
        return self._note(who, super().get(who, source, size))

    def get_by_id(self, who: str, ref: KeyRef) -> tuple[KeyRef, Secret] | str:
        if self._barred(who, ref.source):
            return f"{ref.source}: in quarantine"
        return self._note(who, super().get_by_id(who, ref))

    def _note(self, who: str, answer: tuple[KeyRef, Secret] | str) -> tuple[KeyRef, Secret] | str:
        if not isinstance(answer, str):
            self._bits[who, answer[0]] = bytes(answer[1].reveal())
            self.came[who, answer[0]] = self._clock()
            self.since_start[who].add(answer[0])
        return answer

    def bits(self, who: str, ref: KeyRef) -> bytes | None:
        """The key as that end got it."""
        return self._bits.get((who, ref))

    def others(self, who: str, ref: KeyRef) -> bytes | None:
        """The key as the other end got it, or would get it from a KME that does not lie."""
        return self._bits.get(("b" if who == "a" else "a", ref), self._waiting.get(ref.key_id))
