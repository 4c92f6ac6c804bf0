"""``make fuzz``: every target, or those with one of the words in their names, side by side on all processors.

At the end comes a table; directory/runs.jsonl gets a line of JSON for each run, and with --total the table is of all of
them together, those of earlier calls too. Exit code 1 where something was found.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz import corpora, distill
from tests.fuzz.run import Result, run
from tests.fuzz.table import find, targets
from tests.fuzz.target import Target, check

COLUMNS = ("executions", "coverage", "features", "corpus", "new", "memory")


def total(file: Path) -> list[Result]:
    """All runs of each target as one: executions, seconds and new inputs in sum, the rest of the newest."""
    sums: dict[str, Result] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        its = Result(**json.loads(line))
        before = sums.get(its.target)
        if before is not None:
            its = Result(
                its.target, its.outcome, before.executions + its.executions, before.seconds + its.seconds,
                max(before.coverage, its.coverage), max(before.features, its.features), its.corpus,
                before.new + its.new, max(before.memory_before, its.memory_before), max(before.memory, its.memory),
                its.saved,
            )  # fmt: skip
        sums[its.target] = its
    return [sums[name] for name in sorted(sums)]


def table(results: Iterable[Result]) -> str:
    """In Markdown; memory in MB."""
    rows = [f"| target | {' | '.join(COLUMNS)} | result |", f"| --- | {'--- | ' * len(COLUMNS)}--- |"]
    for its in results:
        cells = [f"{getattr(its, name):,}" for name in COLUMNS]
        rows.append(f"| {its.target} | {' | '.join(cells)} | {its.outcome}{f': {its.saved}' if its.saved else ''} |")
    return "\n".join(rows)


def choose(words: list[str]) -> dict[str, Target]:
    """Those with one of the words in their names, all where there is none; a whole name is that target alone."""
    with contextlib.suppress(KeyError):
        return {word: find(word) for word in words} or targets()
    return {name: its for name, its in targets().items() if any(word in name for word in words)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of names of targets")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--directory", type=Path, default=Path(".fuzz"))
    parser.add_argument("--total", action="store_true", help="run nothing; the table of all runs so far")
    parser.add_argument("--keep", action="store_true", help="run nothing; the corpora of the repository anew")
    parser.add_argument("--input", type=Path, help="run nothing else: this input alone, through the one target named")
    parser.add_argument(
        "--why", help="with --input: keep it as a regression, of which this says what was found with it"
    )
    options = parser.parse_args()
    logging.disable()
    chosen = choose(options.words)
    if not chosen:
        parser.error("no target has such a name")
    if options.input is not None:
        ((name, target),) = chosen.items()
        data = options.input.read_bytes()
        if options.why:
            corpora.add(name, data, options.why)
        check(target, data)
        return 0
    if options.keep:
        for name, target in chosen.items():
            distill.keep(name, target, options.directory / "corpus" / name)
        return 0
    record = options.directory / "runs.jsonl"
    if options.total:
        results = [result for result in total(record) if result.target in chosen]
    else:
        if importlib.util.find_spec("atheris") is None:
            parser.error(
                "atheris is not installed: pip install -e '.[fuzz]' (wheels for CPython 3.11 to 3.13 on x86-64)"
            )
        with ThreadPoolExecutor(options.jobs) as pool:
            jobs = [
                pool.submit(run, name, target, options.seconds, options.directory) for name, target in chosen.items()
            ]
            results = [job.result() for job in jobs]
        with record.open("a") as file:
            file.writelines(json.dumps(result.as_json()) + "\n" for result in results)
    print(table(results))
    wrong = [result for result in results if result.outcome != "ok"]
    runs = sum(result.executions for result in results)
    print(
        f"{runs:,} executions, {len(wrong)} of {len(results)} targets with a finding; records in {record}",
        file=sys.stderr,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
