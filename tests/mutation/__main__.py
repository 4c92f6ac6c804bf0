"""``make mutation``: mutants of a room, made and run by mutmut, and whether each that lives is explained.

ARGS: rooms (``handshake``) or files of them (``keys/chain.py``); without, the rooms that results.json has. What
was found goes into results.json, and what of it nobody has explained in explained.toml is printed, and fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from tests.mutation.explained import RESULTS, unexplained
from tests.mutation.place import ROOT, TESTS, make_place

BIN = ROOT / ".venv" / "bin"


def main() -> int:
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    asked: dict[str, list[str]] = {}
    for argument in sys.argv[1:] or sorted({file.partition("/")[0] for file in results}):
        room, _, file = argument.partition("/")
        if room not in TESTS:
            print(f"no room {room!r} here; there are {', '.join(TESTS)}", file=sys.stderr)
            return 2
        asked.setdefault(room, []).extend([file] if file else [])
    for room, files in asked.items():
        found = run(room, files)
        results |= found
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1, ensure_ascii=False) + "\n")
    lines = unexplained({file: its for file, its in results.items() if file.partition("/")[0] in asked})
    print(summary(results))
    for line in lines:
        print(line, file=sys.stderr)
    return int(bool(lines))


def run(room: str, files: list[str]) -> dict[str, Any]:
    """By file: the day, how many mutants came to what, and those that live."""
    place = make_place(room, files)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    for done in (ROOT / ".tools" / "liboqs").glob("prefix-*/done"):  # which the tests look for beside themselves
        environment["OQS_INSTALL_PATH"] = str(done.parent)
    again = (place / "mutants").exists()

    def mutmut(*names: str) -> None:
        command = [str(BIN / "mutmut"), "run", "--max-children", str(2 * (os.cpu_count() or 1)), *names]
        done = subprocess.run(command, cwd=place, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"mutmut ended with {done.returncode}: see above")

    def read() -> dict[str, Any]:
        command = [str(BIN / "python"), "-m", "tests.mutation.read"]
        out = subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True, text=True).stdout
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    mutmut()
    found = read()
    alive = [one["name"] for its in found.values() for one in its["alive"]]
    if again and alive:  # it remembers what lived in the run before; the tests may have more to say by now
        mutmut(*alive)
        found = read()
    today = datetime.now(UTC).date().isoformat()
    for its in found.values():
        for one in its["alive"]:
            del one["name"]  # its number changes with its neighbours
    return {file: {"date": today, **its} for file, its in found.items()}


def summary(results: dict[str, Any]) -> str:
    """A line for each room: its mutants by what came of them."""
    lines = []
    for room in TESTS:
        counts: Counter[str] = Counter()
        for file, its in results.items():
            if file.startswith(f"{room}/"):
                counts.update(its["statuses"])
        if counts:
            words = ", ".join(f"{number} {status}" for status, number in counts.most_common())
            lines.append(f"{room}: {counts.total()} mutants: {words}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
