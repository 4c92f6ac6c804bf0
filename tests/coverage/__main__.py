"""``make coverage``: the suite, measured, and whether every room keeps its bound.

ARGS: ``unit`` is the tests that need no root, which suffice for the rooms without input and output, and judges these
alone; files of tests are for a look at what these run, and judge nothing; without, the whole suite, every room, as
root. What was judged goes into the table in docs/reliability.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime

from tests.coverage.rooms import DOCUMENT, Measured, judge, measure, written
from tests.coverage.start import DATA, PLUGIN, ROOT, environment

PYTEST = str(ROOT / ".venv/bin/pytest")
OPTIONS = f"-p {PLUGIN} --timeout=900"
"""Seconds for a test: measured, it takes several times as long."""


def main() -> int:
    asked = sys.argv[1:]
    unit = asked == ["unit"]
    if not asked and os.geteuid() != 0:
        print("the whole suite wants root; make coverage ARGS=unit is what needs none", file=sys.stderr)
        return 2
    for file in DATA.glob("measured*"):
        file.unlink()
    command = [PYTEST, *asked]
    if unit:
        command = [PYTEST, "-m", "not root", "-n", str(os.cpu_count() or 1)]
    elif not asked:
        command = [str(ROOT / "scripts/run-tests"), PYTEST]
    patient = environment() | {"PYTEST_ADDOPTS": OPTIONS}
    failed = subprocess.run(command, cwd=ROOT, env=patient, check=False).returncode
    measured = measure()
    for one in measured:
        print(f"{one.room:12} {one.statements:6.1f} % of statements, {one.branches:6.1f} % of branches")
    judged = [one for one in measured if not unit or one.sans_io] if unit or not asked else []
    short = judge(judged)
    for words in short:
        print(words, file=sys.stderr)
    if judged and not failed:
        note(judged)
    return failed or int(bool(short))


def note(judged: list[Measured]) -> None:
    """Into the document, with the day."""
    DOCUMENT.write_text(written(DOCUMENT.read_text(), judged, datetime.now(UTC).date()))


if __name__ == "__main__":
    sys.exit(main())
