"""How old a peer's epoch in force was in the recent past, as a line of small columns.

An age grows by itself, so what is kept is when each epoch was born, and not one value for each look.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

KEPT = 128
"""Epochs kept for each peer: two for each column of the widest line that a terminal shows."""
SAME = 1.5
"""Seconds by which two looks may differ about the birth of one epoch: what an answer takes on a busy machine."""

COLUMNS = "▁▂▃▄▅▆▇█"
COLUMNS_ASCII = "_.-:=+*#"
NO_EPOCH = "·"
NO_EPOCH_ASCII = "x"
"""No epoch was in force then. Where nothing is known, there is a blank."""

Age = float | None | Literal["none"]
"""Seconds; ``"none"``: no epoch was in force; ``None``: not known."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """From ``begin`` on. born: of the epoch in force; both in seconds of one clock."""

    begin: float
    born: Age


class Ages:
    """The past of one peer. All times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self._stretches: deque[_Stretch] = deque(maxlen=KEPT)

    def look(self, now: float, age: float | None) -> None:
        """What a status says now; age: ``None`` where no epoch is in force."""
        before = self._stretches[-1].born if self._stretches else None
        if age is None:
            self._add(now, "none")
            return
        born = now - age
        if isinstance(before, float) and abs(before - born) < SAME:
            return
        self._add(born if before is not None or not self._stretches else now, born)

    def away(self, now: float) -> None:
        """Nothing is known from now on."""
        if self._stretches:
            self._add(now, None)

    def _add(self, begin: float, born: Age) -> None:
        if self._stretches:
            begin = max(begin, self._stretches[-1].begin)
            if self._stretches[-1].born == born:
                return
        self._stretches.append(_Stretch(begin, born))

    def cells(self, now: float, span: float, count: int) -> list[Age]:
        """The highest age within each of ``count`` equal parts of the ``span`` seconds until now."""
        width = span / count
        found: list[Age] = [None] * count
        ends = [*(its.begin for its in self._stretches), now][1:]
        for its, end in zip(self._stretches, ends, strict=True):
            for cell in range(max(0, int((its.begin - now + span) // width)), count):
                left = now - span + cell * width
                if left >= end:
                    break
                age = min(left + width, end) - its.born if isinstance(its.born, float) else its.born
                found[cell] = _worse(found[cell], age)
        return found


def _worse(one: Age, other: Age) -> Age:
    """What a column shows that has both: no epoch before any age, and any age before nothing known."""
    if "none" in (one, other):
        return "none"
    known = [age for age in (one, other) if isinstance(age, float)]
    return max(known) if known else None


def from_events(events: Iterable[dict[str, Any]], ahead: float) -> dict[str, Ages]:
    """The past of all peers by what the daemon remembers of it. ahead: seconds by which the clock of events, Unix time,
    is ahead of that of looks."""
    found: dict[str, Ages] = {}
    for event in events:
        peer, at = event.get("peer"), event.get("time")
        if event.get("kind") == "epoch.in-force" and isinstance(peer, str) and isinstance(at, float | int):
            found.setdefault(peer, Ages())._add(at - ahead, at - ahead)
    return found


def line(ages: Sequence[Age], top: float, *, ascii_only: bool = False) -> str:
    """One character for each age; top: the age of a whole column."""
    columns = COLUMNS_ASCII if ascii_only else COLUMNS
    none = NO_EPOCH_ASCII if ascii_only else NO_EPOCH
    return "".join(
        (none if age == "none" else " ")
        if not isinstance(age, float)
        else columns[min(len(columns) - 1, max(0, int(age / top * len(columns))))]
        for age in ages
    )
