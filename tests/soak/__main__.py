"""``make soak``: two gateways under load and faults for some minutes, and a verdict.

``python -m tests.soak [--minutes 60] [--faults N] [--rekeys N] [--seed N] [--into FILE]``. Every fault and what came of
it is printed as it is done; logs and the record stay where the last lines say.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.conftest import missing_for_root_tests
from tests.soak.run import soak

FAULT_EVERY = 27.0
"""Seconds on average; 133 in an hour."""
REKEYS_A_MINUTE = 61
"""3,660 in an hour: by itself one would come each second, and each second lasts as long as the exchange longer."""
SEED = 20261126


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--faults", type=int, help="as many, evenly over the time; 133 for an hour")
    parser.add_argument("--rekeys", type=int, help="as many at least; 3,660 for an hour")
    parser.add_argument("--seed", type=int, default=SEED, help="the same faults again")
    parser.add_argument("--into", type=Path, help="the record, JSON lines")
    options = parser.parse_args()
    reason = missing_for_root_tests()
    if reason:
        print(f"make soak {reason}", file=sys.stderr)
        return 1
    directory = Path(tempfile.mkdtemp(prefix="qtunnel-soak-"))
    into = options.into or directory / "soak.jsonl"
    seconds = options.minutes * 60
    verdict = soak(
        directory, into, seconds=seconds, seed=options.seed,
        faults=options.faults or max(1, round(seconds / FAULT_EVERY)),
        rekeys=options.rekeys or round(options.minutes * REKEYS_A_MINUTE), say=partial(print, flush=True),
    )  # fmt: skip
    text = verdict.text()
    (directory / "verdict").write_text(text + "\n")
    print(f"\n{text}\nlogs: {directory}; record: {into}")
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
