"""The table of faults, as ``make test-faults`` prints it and docs/reliability.md keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import date
from pathlib import Path

from tests.faults.fault import Fault, Outcome
from tests.faults.faults import FAULTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
END = "<!-- end -->"
HEAD = ("| fault | expectation | outcome |  | run of |", "| --- | --- | --- | --- | --- |")
HOLDS, FAILS = "holds", "**fails**"


@dataclass(frozen=True, slots=True)
class Row:
    """One line; the fields are those of the table, without its bars."""

    fault: str
    expectation: str
    outcome: str
    verdict: str
    day: str

    @property
    def holds(self) -> bool:
        return self.verdict == HOLDS

    @property
    def text(self) -> str:
        return f"{self.verdict.strip('*')}  {self.fault}: {self.outcome}"


def begin(engines: str = "") -> str:
    """Of the table in the document. engines: where others than ours are in it."""
    return f"<!-- generated: faults{f' {engines}' if engines else ''} -->"


def row_of(fault: Fault, outcome: Outcome, day: date) -> Row:
    verdict = FAILS if outcome.problems else HOLDS
    return Row(fault.name, fault.expectation, "; ".join(outcome.facts), verdict, day.isoformat())


def rows_in(text: str, engines: str = "") -> list[Row]:
    """The rows of a document."""
    lines = text.partition(begin(engines))[2].partition(END)[0].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and line not in HEAD]
    return [Row(*parts) for parts in cells if len(parts) == 5]


def written(text: str, rows: Sequence[Row], engines: str = "") -> str:
    """The document with these rows in the place of older ones of the same faults; of faults that there are no more,
    none are left."""
    known = {row.fault: row for row in [*rows_in(text, engines), *rows]}
    kept = [known[fault.name] for fault in FAULTS if fault.name in known]
    mark = begin(engines)
    head, found, rest = text.partition(mark)
    assert found, f"{DOCUMENT} has no table {mark}"
    return f"{head}{mark}\n{markdown(kept)}\n{END}{rest.partition(END)[2]}"


def markdown(rows: Iterable[Row]) -> str:
    """The table."""
    return "\n".join([*HEAD, *(f"| {' | '.join(astuple(row))} |" for row in rows)])
