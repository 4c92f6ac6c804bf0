"""The share of statements and of branches that was run, per room, and the bound that each room keeps."""

from __future__ import annotations

import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from coverage import Coverage

from tests.architecture import BASE, ROOMS
from tests.coverage.start import DATA, ROOT

SANS_IO_BOUND = 98.0
"""Per cent in rooms that have no clock, file or socket: a test can bring about anything there."""
BOUND = 90.0
"""Per cent in all others: what is left are failures of kernels and disks that nobody can bring about at will."""


DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- generated: coverage -->", "<!-- end -->"
HEAD = ("| room | statements | branches | bound | run of |", "| --- | --- | --- | --- | --- |")


@dataclass(frozen=True)
class Measured:
    """Of one room. statements, branches: in per cent of those that there are."""

    room: str
    statements: float
    branches: float

    @property
    def sans_io(self) -> bool:
        room = ROOMS.get(self.room)
        return room is not None and room.sans_io

    @property
    def bound(self) -> float:
        return SANS_IO_BOUND if self.sans_io else BOUND

    def row(self, day: date) -> str:
        return f"| `{self.room}` | {_down(self.statements)} % | {_down(self.branches)} % | {self.bound:.0f} % | {day} |"


def _down(share: float) -> str:
    """With one digit, never more than it is: what is below a bound must not look as if it were not."""
    return f"{math.floor(10 * share) / 10:.1f}"


def measure() -> list[Measured]:
    """What the processes measured, together."""
    coverage = Coverage(config_file=str(DATA / "settings"))
    coverage.combine(keep=True)
    report = DATA / "report.json"
    coverage.json_report(outfile=str(report))
    coverage.report(file=io.StringIO())
    return of(json.loads(report.read_text())["files"])


def of(files: dict[str, dict[str, dict[str, int]]]) -> list[Measured]:
    """files: of coverage's report in JSON, by path."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for path, found in files.items():
        parts = path.removeprefix(f"{ROOT}/").split("/")
        room = parts[1].removesuffix(".py")
        counts = found["summary"]
        for at, name in enumerate(("num_statements", "covered_lines", "num_branches", "covered_branches")):
            sums[room][at] += counts[name]
            sums["all"][at] += counts[name]

    def share(there: int, run: int) -> float:
        return 100 * run / there if there else 100.0

    order = [*ROOMS, *BASE, *sums]
    rooms = sorted(sums, key=order.index)
    return [Measured(room, share(*sums[room][:2]), share(*sums[room][2:])) for room in rooms]


def written(text: str, measured: Sequence[Measured], day: date) -> str:
    """The document with the rows of these rooms in the place of older ones."""
    head, _, rest = text.partition(BEGIN)
    inside, _, rest = rest.partition(END)
    rows = {line.split("`")[1]: line for line in inside.splitlines() if line.startswith("| `")}
    rows |= {one.room: one.row(day) for one in measured}
    order = [*ROOMS, *BASE, "all"]
    lines = [rows[room] for room in order if room in rows]
    return "\n".join([f"{head}{BEGIN}", *HEAD, *lines, END]) + rest


def judge(measured: Iterable[Measured]) -> list[str]:
    """A line for each room below its bound."""
    return [
        f"{one.room}: {what} {_down(share)} % of {one.bound:.0f} %; uncovered ones: coverage report -m"
        for one in measured
        for what, share in (("statements", one.statements), ("branches", one.branches))
        if share < one.bound
    ]
