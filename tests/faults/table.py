"""The table of faults, as ``make test-faults`` prints it and docs/reliability.md keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from tests.faults.faults import Fault, Outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- generated: faults -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One line."""

    fault: str
    expectation: str
    outcome: str
    holds: bool

    @property
    def text(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}  {self.fault}: {self.outcome}"


def row_of(fault: Fault, outcome: Outcome) -> Row:
    return Row(fault.name, fault.expectation, "; ".join(outcome.facts), not outcome.problems)


def markdown(rows: Sequence[Row], day: date) -> str:
    """The generated part."""
    held = sum(row.holds for row in rows)
    lines = [f"Run of {day.isoformat()}: {held} of {len(rows)} hold.", "", "| fault | expectation | outcome |  |",
             "| --- | --- | --- | --- |"]  # fmt: skip
    lines += [
        f"| {row.fault} | {row.expectation} | {row.outcome} | {'holds' if row.holds else '**fails**'} |" for row in rows
    ]
    return "\n".join(lines)


def write(rows: Sequence[Row], day: date) -> None:
    """Into the document, between its marks."""
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    DOCUMENT.write_text(f"{head}{BEGIN}\n{markdown(rows, day)}\n{END}{tail}")
