"""What a check is, and what it finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qtunnel.probe.session import Session


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105
    DEVIATION = "deviation"
    NOT_TESTABLE = "not testable"


@dataclass(frozen=True, slots=True)
class Finding:
    """seen: what the KME did. means: what that is for the user. copes: what of the driver etsi014 copes with it."""

    verdict: Verdict
    seen: str
    means: str = ""
    copes: str = ""


def passed(seen: str, copes: str = "") -> Finding:
    return Finding(Verdict.PASS, seen, copes=copes)


def deviates(seen: str, means: str, copes: str) -> Finding:
    return Finding(Verdict.DEVIATION, seen, means, copes)


def untestable(seen: str) -> Finding:
    return Finding(Verdict.NOT_TESTABLE, seen)


@dataclass(frozen=True, slots=True)
class Check:
    """One demand of the standard. clause: of ETSI GS QKD 014 v1.1.1. keys: how many it takes at most, by what the
    KME's status says."""

    id: str
    clause: str
    title: str
    keys: Callable[[Session], int]
    look: Callable[[Session], Awaitable[Finding]]


@dataclass(frozen=True, slots=True)
class Result:
    check: Check
    finding: Finding


@dataclass(frozen=True, slots=True)
class Report:
    """taken: keys that the KME gave out, or may have given out; announced: how many it would be at most."""

    results: tuple[Result, ...]
    announced: int
    taken: int

    def count(self, verdict: Verdict) -> int:
        return sum(result.finding.verdict is verdict for result in self.results)

    @property
    def conforms(self) -> bool:
        return not self.count(Verdict.DEVIATION)
