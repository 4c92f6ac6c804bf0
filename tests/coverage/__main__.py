"""``make coverage``: the suite, measured, and whether every room keeps its bound. ARGS: files of tests, for a look at
what these run; without, the whole suite and the bounds."""

from __future__ import annotations

import subprocess
import sys

from tests.coverage.rooms import judge, table
from tests.coverage.start import DATA, ROOT, environment


def main() -> int:
    chosen = sys.argv[1:]
    for file in DATA.glob("measured*"):
        file.unlink()
    pytest = [str(ROOT / ".venv/bin/pytest"), *chosen] if chosen else [str(ROOT / "scripts/run-tests"), "pytest"]
    if not chosen:
        pytest[1] = str(ROOT / ".venv/bin/pytest")
    failed = subprocess.run(pytest, cwd=ROOT, env=environment(), check=False).returncode
    measured = table()
    for line in measured:
        print(line)
    short = [] if chosen else judge(measured)
    for words in short:
        print(words, file=sys.stderr)
    return failed or int(bool(short))


if __name__ == "__main__":
    sys.exit(main())
