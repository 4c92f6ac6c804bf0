"""All checks, one after the other, and their outcome for people and for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path

from qtunnel.doctor.model import Check, Host, Result, Verdict, is_well
from qtunnel.doctor.table import CHECKS

WIDTH = 120
VERDICT, TITLE = 10, 24
"""Columns."""


async def examine(host: Host, checks: Iterable[Check] = CHECKS) -> list[Result]:
    """What each of the checks finds; those that need a configuration only where there is one."""
    results = []
    for check in checks:
        if check.config and host.config is None:
            continue
        async for finding in check.look(host):
            results.append(Result(check, finding))
    return results


def as_text(results: list[Result]) -> str:
    lines = []
    for result in results:
        finding = result.finding
        start = f"{finding.verdict:<{VERDICT}}{result.check.title:<{TITLE}}"
        said = f"{finding.subject}: {finding.seen}" if finding.subject else finding.seen
        lines += _wrapped(start, said)
        if finding.remedy:
            lines += _wrapped(" " * (VERDICT + TITLE), f"-> {finding.remedy}")
    counts = {verdict: sum(result.finding.verdict is verdict for result in results) for verdict in Verdict}
    summary = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    return "\n".join([*lines, "", summary])


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=" " * (VERDICT + TITLE + 2), break_on_hyphens=False
    )


def as_json(file: Path | None, results: list[Result]) -> str:
    return json.dumps(
        {
            "version": 1,
            "config": None if file is None else str(file),
            "well": is_well(results),
            "checks": [
                {
                    "id": result.check.id,
                    "title": result.check.title,
                    "subject": result.finding.subject,
                    "verdict": str(result.finding.verdict),
                    "seen": result.finding.seen,
                    "remedy": result.finding.remedy,
                }
                for result in results
            ],
        },
        indent=2,
    )
