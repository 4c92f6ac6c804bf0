"""``make test-faults``: every fault, and the table of what came of it, printed and put into docs/reliability.md.

``python -m tests.faults [WORDS,...]``: only faults with such words in their names; of the others the rows stay. ENGINE
in the environment: of both ends, or ALICE'S,BOB'S; then without what takes our own, and into a table of its own.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.conftest import missing_for_root_tests
from tests.faults.fault import BLOCKS, LABS, Fault, Outcome
from tests.faults.faults import FAULTS
from tests.faults.lab import FaultLab, fault_lab
from tests.faults.table import DOCUMENT, Row, row_of, written

KEEP = Path(tempfile.gettempdir()) / "qtunnel-faults"
"""Logs of faults whose outcome was not what it has to be."""


UNHURRIED = "10m"
"""max_age with engines of others: they take an epoch's key with their next handshake, two minutes later, so they cannot
keep a shorter one, and what has to block at its end takes too long for a table."""


def main(words: str) -> int:
    reason = missing_for_root_tests()
    if reason:
        print(f"make test-faults {reason}", file=sys.stderr)
        return 1
    engines = os.environ.get("ENGINE", "")
    options: dict[str, Any] = {}
    if engines:
        first, _, second = engines.partition(",")
        options = {"engines": (first, second or first), "max_age": UNHURRIED}
    chosen = [fault for fault in FAULTS if any(part.strip() in fault.name for part in words.split(","))]
    if engines:
        chosen = [fault for fault in chosen if not fault.own and "engines" not in LABS[fault.lab]]
        chosen = [fault for fault in chosen if fault.expectation != BLOCKS and "max_age" not in fault.name]
    rows: list[Row] = []
    begin = time.monotonic()
    for lab in LABS:
        faults = [fault for fault in chosen if fault.lab == lab]
        while faults:
            faults = _in_a_lab({**LABS[lab], **options}, faults, rows, engines)
    held = sum(row.holds for row in rows)
    print(f"\n{held} of {len(rows)} hold, in {time.monotonic() - begin:.0f} s")
    return 0 if held == len(rows) else 1


def keep(row: Row, engines: str) -> None:
    """In the document at once, where others may write rows, too."""
    with DOCUMENT.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = written(file.read(), [row], engines)
        file.seek(0)
        file.truncate()
        file.write(text)


def _in_a_lab(options: dict[str, Any], faults: list[Fault], rows: list[Row], engines: str) -> list[Fault]:
    """Until one goes wrong; those that are left then need another lab."""
    with tempfile.TemporaryDirectory() as directory, fault_lab(Path(directory), **options) as lab:
        for number, fault in enumerate(faults):
            outcome = _try(fault, lab)
            rows.append(row_of(fault, outcome, datetime.now(UTC).date()))
            print(rows[-1].text, flush=True)
            keep(rows[-1], engines)
            if outcome.problems:
                _keep(fault, lab, outcome)
                return faults[number + 1 :]
    return []


def _try(fault: Fault, lab: FaultLab) -> Outcome:
    outcome = Outcome()
    try:
        fault.act(lab, outcome)
    except Exception as error:  # one fault that goes wrong must not hide the others
        traceback.print_exc()
        outcome.problems.append(f"{type(error).__name__}: {error}".splitlines()[0])
    return outcome


def _keep(fault: Fault, lab: FaultLab, outcome: Outcome) -> None:
    place = KEEP / "".join(letter if letter.isalnum() else "-" for letter in fault.name)
    place.mkdir(parents=True, exist_ok=True)
    for site in lab.sites.values():
        (place / f"{site.name}.log").write_text(site.log)
    (place / "problems").write_text("\n".join(outcome.problems))
    print(f"  logs: {place}\n  " + "\n  ".join(outcome.problems), flush=True)


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
