"""What a check is, and what comes out of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from qtunnel.config import Config


class Verdict(StrEnum):
    """GOOD: as it should be. DOUBTFUL: works, but is to be known. WRONG: will not work. OPEN: cannot be told here."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    WRONG = "wrong"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Finding:
    """seen: what is so, in words. remedy: what to do, where there is something. subject: what of several."""

    verdict: Verdict
    seen: str
    remedy: str = ""
    subject: str = ""


def good(seen: str, subject: str = "") -> Finding:
    return Finding(Verdict.GOOD, seen, subject=subject)


def doubtful(seen: str, remedy: str, subject: str = "") -> Finding:
    return Finding(Verdict.DOUBTFUL, seen, remedy, subject)


def wrong(seen: str, remedy: str, subject: str = "") -> Finding:
    return Finding(Verdict.WRONG, seen, remedy, subject)


def left_open(seen: str, subject: str = "") -> Finding:
    return Finding(Verdict.OPEN, seen, subject=subject)


@dataclass(frozen=True, slots=True)
class Host:
    """What is looked at. config: None where none was given, or it is wrong. running: whether a daemon of this
    configuration answers, to which its ports belong. now: the wall clock, with its zone."""

    config: Config | None
    running: bool
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Check:
    """id: for programs. title: for people. look: what it finds; raises nothing that a host can bring about. config:
    whether there is nothing to look at without a configuration."""

    id: str
    title: str
    look: Callable[[Host], AsyncIterator[Finding]]
    config: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    check: Check
    finding: Finding


def is_well(results: list[Result]) -> bool:
    """Whether nothing is wrong."""
    return all(result.finding.verdict is not Verdict.WRONG for result in results)
