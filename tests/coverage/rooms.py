"""The share of statements and of branches that was run, per room, and the bound that each room keeps."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from coverage import Coverage

from tests.architecture import BASE, ROOMS
from tests.coverage.start import DATA, ROOT

SANS_IO_BOUND = 98.0
"""Per cent in rooms that have no clock, file or socket: a test can bring about anything there."""
BOUND = 90.0
"""Per cent in all others: what is left are failures of kernels and disks that nobody can bring about at will."""


@dataclass(frozen=True)
class Measured:
    """Of one room. statements, branches: in per cent of those that there are."""

    room: str
    statements: float
    branches: float

    @property
    def bound(self) -> float:
        room = ROOMS.get(self.room)
        return SANS_IO_BOUND if room is not None and room.sans_io else BOUND

    def __str__(self) -> str:
        return f"| `{self.room}` | {self.statements:.1f} % | {self.branches:.1f} % | {self.bound:.0f} % |"


def table() -> list[Measured]:
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


def judge(measured: Iterable[Measured]) -> list[str]:
    """A line for each room below its bound."""
    return [
        f"{one.room}: {what} {share:.1f} % of {one.bound:.0f} %; uncovered ones: coverage report -m"
        for one in measured
        for what, share in (("statements", one.statements), ("branches", one.branches))
        if share < one.bound
    ]
