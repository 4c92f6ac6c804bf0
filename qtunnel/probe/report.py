"""What was found, for people and for programs. No key is in it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from qtunnel.probe.model import Report, Result, Verdict
from qtunnel.probe.target import Target

STANDARD = "ETSI GS QKD 014 v1.1.1"

WIDTH = 120
VERDICT, CLAUSE = 14, 10
"""Columns."""


def announcement(target: Target, keys: int) -> str:
    what = f"takes at most {keys} {'key' if keys == 1 else 'keys'} of {target.source}"
    return f"{what} ({target.master.url}) towards {target.slave_sae}"


def as_text(target: Target, report: Report) -> str:
    lines = [f"{target.master.url} as {target.master_sae}, towards {target.slave_sae}: {STANDARD}"]
    if target.slave is not None:
        lines.append(f"{target.slave.url} as {target.slave_sae}, for what the other end gets")
    lines.append("")
    for result in report.results:
        lines += _lines(result)
    passes, wrong, open_ = (report.count(verdict) for verdict in Verdict)
    counts = f"{passes} pass, {wrong} {'deviates' if wrong == 1 else 'deviate'}, {open_} not testable"
    taken = f"{report.taken} {'key' if report.taken == 1 else 'keys'} taken, of {report.announced} at most"
    return "\n".join([*lines, "", f"{counts}; {taken}"])


def _lines(result: Result) -> Iterator[str]:
    found, check = result.finding, result.check
    yield from _wrapped(f"{found.verdict:<{VERDICT}}{check.clause:<{CLAUSE}}", f"{check.title}: {found.seen}")
    for name, text in (("means", found.means), ("copes", found.copes)):
        if text:
            yield from _wrapped(" " * (VERDICT + CLAUSE), f"{name}: {text}")


def _wrapped(start: str, text: str) -> list[str]:
    """Within the width, also where it is sent on by mail; further lines stand below the text."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=" " * (VERDICT + CLAUSE + 2), break_on_hyphens=False
    )


def as_json(target: Target, report: Report) -> str:
    return json.dumps(
        {
            "version": 1,
            "standard": STANDARD,
            "source": target.source,
            "kme": target.master.url,
            "peer_kme": target.slave.url if target.slave is not None else None,
            "master_sae_id": target.master_sae,
            "slave_sae_id": target.slave_sae,
            "conforms": report.conforms,
            "keys": {"announced": report.announced, "taken": report.taken},
            "checks": [
                {
                    "id": result.check.id,
                    "clause": result.check.clause,
                    "title": result.check.title,
                    "verdict": str(result.finding.verdict),
                    "seen": result.finding.seen,
                    "means": result.finding.means,
                    "copes": result.finding.copes,
                }
                for result in report.results
            ],
        },
        indent=2,
    )
