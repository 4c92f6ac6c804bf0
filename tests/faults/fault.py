"""What a fault is, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.lab import Expiry, FaultLab, Site, named, reporting
from tests.faults.traffic import Traffic

BLOCK_BOUND = 1.0
"""Seconds after max_age within which traffic has to stop."""
EARLY = 0.1
"""Seconds before it that are not yet too early: the two ends' epochs differ by what an exchange takes."""


@dataclass
class Outcome:
    """What came of a fault: facts for the table, and what was not as it has to be."""

    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def fact(self, text: str) -> None:
        self.facts.append(text)

    def expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    def said(self, site: Site, since: int, *words: str) -> None:
        """All words in one line of the log."""
        found = any(all(word in line for word in words) for line in site.log[since:].splitlines())
        self.expect(found, f"the log of {site.name} has no line with {words}")

    def lossless(self, seen: Traffic) -> None:
        self.fact(f"{seen.lost} of {seen.sent} lost")
        self.expect(seen.lost == 0, f"lost: {seen.gaps}")
        self.expect(seen.sent > 50, f"only {seen.sent} echoes")

    def blocked(self, seen: Traffic, at: Expiry, until: float) -> None:
        """Nothing was lost but from ``at`` to ``until``; and from ``at`` on nothing passed. An echo that is on its way
        then is lost by it."""
        early = EARLY + seen.round_trip
        inside = seen.lost_between(at.low - early, until)
        first = min((gap[0] for gap in seen.gaps if gap[1] >= at.low - early), default=until)
        off = min(first - at.low, 0.0) or max(first - at.high, 0.0)
        self.fact(f"{seen.lost - inside} of {seen.sent} lost while allowed; blocked {off:+.2f} s from max_age")
        self.expect(seen.lost == inside, f"lost while policy allowed traffic: {seen.gaps}, {at}")
        self.expect(-early <= off <= BLOCK_BOUND, f"blocked {off:+.2f} s from max_age")
        longest = max((last - begin for begin, last, _ in seen.gaps), default=0.0)
        self.expect(longest > 0.8 * (until - at.high) - BLOCK_BOUND, f"it did not stay blocked: {seen.gaps}")

    def by_the_link(self, seen: Traffic, begin: float, end: float) -> None:
        """Nothing was lost but from ``begin`` to ``end``, and what was on its way then."""
        inside = seen.lost_between(begin - EARLY - seen.round_trip, end)
        self.fact(f"{inside} of {seen.sent} lost by the link, {seen.lost - inside} besides")
        self.expect(seen.lost == inside, f"lost: {seen.gaps}, the link was at fault from {begin} to {end}")
        self.expect(seen.sent > 50, f"only {seen.sent} echoes")


Act = Callable[[FaultLab, Outcome], None]


@dataclass(frozen=True)
class Fault:
    """One line of the table. lab: which of LABS it is done in. quick: also part of every test run. own: takes our own
    engine, which outlives its daemon, knows ends of keys, and has the clock of its test."""

    name: str
    expectation: str
    act: Act
    lab: str = "steady"
    quick: bool = False
    own: bool = False


LABS: dict[str, dict[str, Any]] = {
    "steady": {"interval": "20s", "max_age": "60s"},
    "short": {"interval": "4s", "max_age": "12s"},
    "brief": {"interval": "4s", "max_age": "30s"},
    "faulty link": {"interval": "2s", "max_age": "60s", "faulty_link": True},
    "reporting": {"interval": "4s", "max_age": "60s", "prepare": reporting},
    "named": {"interval": "20s", "max_age": "60s", "prepare": named},
    "moving": {"interval": "20s", "max_age": "60s", "subnet": "10.98.0"},
    "wireguard-go": {"interval": "20s", "max_age": "60s", "engines": ("wireguard-go", "wireguard-go")},
    "long": {"interval": "20s", "max_age": "10m"},
}
"""The last is for faults that take minutes."""

GOES_ON = "0 lost; a common new epoch"
BLOCKS = "0 lost while allowed; blocked within 1 s of max_age; a common new epoch afterwards"
