"""What ``make coverage`` makes of a report."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

from coverage import Coverage

from tests.architecture import ROOMS
from tests.coverage.__main__ import OPTIONS, PYTEST
from tests.coverage.rooms import BEGIN, BOUND, END, HEAD, SANS_IO_BOUND, Measured, judge, of, written
from tests.coverage.start import ROOT, environment, programs


def found(statements: int, run: int, branches: int, taken: int) -> dict[str, dict[str, int]]:
    summary = {
        "num_statements": statements, "covered_lines": run, "num_branches": branches, "covered_branches": taken,
    }  # fmt: skip
    return {"summary": summary}


def test_files_are_summed_up_by_room_and_in_the_order_of_the_house() -> None:
    measured = of(
        {
            "qtunnel/errors.py": found(10, 10, 0, 0),
            "qtunnel/keys/pace.py": found(60, 60, 10, 10),
            str(ROOT / "qtunnel/keys/used.py"): found(40, 38, 10, 9),
            "qtunnel/handshake/suites.py": found(10, 9, 4, 4),
        }
    )
    assert measured == [
        Measured("handshake", 90.0, 100.0),
        Measured("keys", 98.0, 95.0),
        Measured("errors", 100.0, 100.0),
        Measured("all", 100 * 117 / 120, 100 * 23 / 24),
    ]


def test_rooms_that_decide_have_the_higher_bound_and_who_is_below_is_told() -> None:
    assert {Measured(room, 0, 0).bound for room, its in ROOMS.items() if its.sans_io} == {SANS_IO_BOUND}
    assert {Measured(room, 0, 0).bound for room, its in ROOMS.items() if not its.sans_io} == {BOUND}
    assert judge([Measured("keys", 98.0, 98.0), Measured("daemon", 90.0, 90.0)]) == []
    keys, daemon = judge([Measured("keys", 97.9, 99.0), Measured("daemon", 99.0, 89.9)])
    assert keys.startswith("keys: statements 97.9 % of 98 %")
    assert daemon.startswith("daemon: branches 89.9 % of 90 %")


def test_the_document_keeps_the_rows_of_other_rooms() -> None:
    text = f"before\n{BEGIN}\n{END}\nafter\n"
    text = written(text, [Measured("all", 91.0, 90.09), Measured("keys", 99.0, 98.0)], date(2026, 1, 2))
    text = written(text, [Measured("keys", 99.96, 98.5)], date(2026, 1, 3))
    assert text.splitlines() == [
        "before",
        BEGIN,
        *HEAD,
        "| `keys` | 99.9 % | 98.5 % | 98 % | 2026-01-03 |",
        "| `all` | 91.0 % | 90.0 % | 90 % | 2026-01-02 |",
        END,
        "after",
    ]


def test_a_process_is_measured_whatever_is_left_of_its_environment(tmp_path: Path) -> None:
    """As the engine, to which the daemon passes PATH and PYTHONPATH alone."""
    given = environment(tmp_path)
    script = "import os, sys; assert not [name for name in os.environ if 'COVERAGE' in name]; import qtunnel.terms"
    forks = "; os._exit(0) if os.fork() == 0 else os.wait()"
    for what in (script, script + forks):
        subprocess.run(
            [sys.executable, "-c", what], check=True, cwd=ROOT, timeout=60,
            env={name: given[name] for name in ("PATH", "PYTHONPATH")},
        )  # fmt: skip
    measured = {file.name.split(".pid")[1].partition(".")[0] for file in tmp_path.glob("measured.*")}
    assert len(measured) == 3, "of the second one its child as well"


def test_threads_are_measured_whoever_makes_them(tmp_path: Path) -> None:
    given = environment(tmp_path)
    script = "import asyncio; from qtunnel.aside import aside; print(asyncio.run(aside(lambda: 7)))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60, env=given, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("7\n", "")
    measured = Coverage(config_file=str(tmp_path / "settings"))
    measured.combine(keep=True)
    source = ROOT / "qtunnel" / "aside.py"
    in_a_thread = source.read_text().splitlines().index("        self._work()") + 1
    assert in_a_thread in (measured.get_data().lines(str(source)) or ())


def test_pytest_measures_what_it_runs(tmp_path: Path) -> None:
    """Also where it is started from its file, with nothing of the tree on its path."""
    (tmp_path / "test_it.py").write_text("def test_it() -> None:\n    import qtunnel.terms\n")
    done = subprocess.run(
        [PYTEST, "-q", "test_it.py"], cwd=tmp_path, timeout=60, check=False, capture_output=True, text=True,
        env=environment(tmp_path / "data") | {"PYTEST_ADDOPTS": OPTIONS},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "data").glob("measured.*"))


def test_programs_that_nothing_can_measure_are_left_out_by_what_they_say() -> None:
    names = [str(file.relative_to(ROOT / "qtunnel")) for file in programs()]
    assert {"sandbox/delay.py", "engines/launch.py", "bench/stream.py"} <= set(names)
    assert len(names) < 10, "these are few, and small"
