"""What the documents and docstrings have people run is there to be run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAID = re.compile(r"(?:`|^)make ([a-z][a-z-]*)", re.MULTILINE)
"""``make TARGET`` in code, or at the beginning of a line of a block of commands."""


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_target_that_is_spoken_of_exists() -> None:
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("qtunnel/**/*.py"), *ROOT.glob("tests/**/*.py")]
    said = {(file.name, target) for file in files for target in SAID.findall(file.read_text())}
    assert {target for _, target in said} >= {"demo", "test", "dev", "lint", "sim"}
    assert [(name, target) for name, target in sorted(said) if target not in targets()] == []


def test_the_whole_simulation_has_its_thousand_rekeys_a_seed_and_a_bound() -> None:
    done = subprocess.run(["make", "-n", "sim"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for word in ("QTUNNEL_SIM_REKEYS=1000", "QTUNNEL_SIM_SEEDS=100", "timeout ", "tests/rekey/test_convergence.py"):
        assert word in done.stdout
