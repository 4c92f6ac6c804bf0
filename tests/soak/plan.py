"""Which faults a run has, and when: all of it follows from a seed. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

ENDS = ("alice", "bob")


@dataclass(frozen=True, slots=True)
class Kind:
    """seconds: for how long, least and most; amount: likewise, what it means is said where it is done. weight: how many
    times as often as others. ends: at which of them it may be; lossy: whether the link itself loses packets by it."""

    seconds: tuple[float, float]
    amount: tuple[float, float] = (0.0, 0.0)
    weight: int = 1
    ends: tuple[str, ...] = ENDS
    lossy: bool = False


LINK = ("link",)
KINDS: dict[str, Kind] = {
    "KME stopped": Kind((1, 5), ends=(*ENDS, "both"), weight=2),
    "KME slow": Kind((3, 6), (0.5, 2.5), weight=2),
    "KME does not answer": Kind((2, 5)),
    "KME answers malformed": Kind((2, 5)),
    "KME gives another SAE's key_ID": Kind((2, 4), ends=("alice",)),
    "KME gives a wrong key": Kind((1, 2)),
    "daemon killed": Kind((0, 2), ends=(*ENDS, "both"), weight=3),
    "daemon stopped (SIGSTOP)": Kind((1, 6)),
    "clock stepped": Kind((2, 5), (-7200, 7200), weight=2),
    "reload (SIGHUP)": Kind((0, 1), weight=2),
    "broker gone": Kind((2, 6), ends=("alice",)),
    "link loses": Kind((3, 8), (0.01, 0.1), ends=LINK, lossy=True, weight=2),
    "link reorders": Kind((3, 8), (0.05, 0.3), ends=LINK),
    "link duplicates": Kind((3, 8), (0.05, 0.3), ends=LINK),
    "link corrupts": Kind((3, 8), (0.005, 0.03), ends=LINK, lossy=True),
    "link delays": Kind((3, 8), (0.01, 0.1), ends=LINK),
    "link is narrow": Kind((3, 8), (5e6, 15e6), ends=LINK, lossy=True),
    "link cut": Kind((0.5, 4), ends=LINK, lossy=True, weight=2),
}
"""Each of them is over within ten seconds or so, a wrong key within the thirty that its exchange takes."""


ENDING = ("KME stopped", "daemon killed")
SPARING = 0.35
"""Part of a run from which on only bob's processes are ended: alice's live so long that their memory says something."""


@dataclass(frozen=True, slots=True)
class Planned:
    """at: seconds since the run's start, or as soon as the one before is over."""

    at: float
    kind: str
    end: str
    seconds: float
    amount: float


def plan(seed: int, seconds: float, count: int, first: float = 5.0) -> list[Planned]:
    """``count`` faults, evenly over so many seconds, the last some time before the end. Every kind comes once before
    any comes again beyond its weight."""
    chance = Random(seed)  # for the same run again, not for secrets
    kinds = _drawn(chance)
    step = (seconds - first) / (count + 0.5)
    times = (first + number * step for number in range(count))
    return [_one(at, next(kinds), chance, sparing=at > SPARING * seconds) for at in times]


def _drawn(chance: Random) -> Iterator[str]:
    while True:
        deck = [name for name, kind in KINDS.items() for _ in range(kind.weight)]
        chance.shuffle(deck)
        yield from deck


def _one(at: float, name: str, chance: Random, *, sparing: bool) -> Planned:
    kind = KINDS[name]
    end = chance.choice(kind.ends)
    return Planned(
        round(at, 3), name, "bob" if sparing and name in ENDING else end, round(chance.uniform(*kind.seconds), 2),
        round(chance.uniform(*kind.amount), 4),
    )  # fmt: skip
