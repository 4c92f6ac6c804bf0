"""The corpora of all targets, and every input with which something was found, through the targets again: without
atheris."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import corpora
from tests.fuzz.draw import Draw, document, edited
from tests.fuzz.run import _quoted, _read
from tests.fuzz.table import targets
from tests.fuzz.target import Target, check

TARGETS = targets()
MAX_CORPORA = 300_000
"""Bytes of all of them together in the repository."""


@pytest.mark.parametrize("name", TARGETS)
def test_everything_kept_passes(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(100)  # what the inputs have to say would fill the report
    for data in (b"", *corpora.read(name).values()):
        check(TARGETS[name], data)


def test_corpora_are_small_and_have_targets() -> None:
    files = list(corpora.CORPUS.iterdir())
    assert {file.stem for file in files} <= TARGETS.keys()
    assert sum(file.stat().st_size for file in files) < MAX_CORPORA
    for file in files:
        lines = file.read_text().splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            if line.startswith(corpora.FOUND):
                assert before.startswith("# "), f"{file.name}: {line[:20]}: nobody says what was found"


@pytest.mark.parametrize("allowed", [(), (ValueError,)])
def test_what_a_target_does_not_allow_is_a_finding(allowed: tuple[type[Exception], ...]) -> None:
    def run(data: bytes) -> None:
        raise (ValueError if data == b"v" else KeyError)("x")

    with pytest.raises(KeyError):
        check(Target(run, allowed), b"k")
    if allowed:
        check(Target(run, allowed), b"v")
    else:
        with pytest.raises(ValueError, match="x"):
            check(Target(run, allowed), b"v")


def test_decisions_are_the_same_each_time_and_end_with_the_input() -> None:
    data = bytes(range(200))
    first, second = Draw(data), Draw(data)
    made = [(its.number(3, 700), its.choice("abc"), its.flag(), its.piece(9), its.text(9)) for its in (first, second)]
    assert made[0] == made[1]
    empty = Draw(b"")
    assert (empty.number(3, 9), empty.choice("abc"), empty.flag(3), empty.piece(9), empty.rest()) == (
        3,
        "a",
        False,
        b"",
        b"",
    )
    template = {"a": [1, {"b": None}], "c": "d"}
    before = repr(template)
    assert all(edited(Draw(bytes([n]) * 60), template) is not template for n in range(256))
    assert repr(template) == before
    assert document(b"\x00raw", template) == b"raw"
    assert document(b"\xff", template) == b'{"a": [1, {"b": null}], "c": "d"}'


def test_what_libfuzzer_says_is_read() -> None:
    said = (
        "#2\tINITED cov: 5 ft: 6 corp: 1/1b exec/s: 0 rss: 60Mb\n"
        "#900\tDONE   cov: 72 ft: 125 corp: 32/1220b lim: 405 exec/s: 7757 rss: 61Mb\nDone 901 runs in 7 second(s)\n"
    )
    result = _read("x.y", said, "", 2, 32)
    assert (result.outcome, result.executions, result.seconds, result.coverage, result.new) == ("ok", 901, 7, 72, 30)
    wrong = (
        said.split("Done")[0]
        + "\n === Uncaught Python exception: ===\nKeyError: 'z'\nTest unit written to found/x-crash-1\n"
    )
    result = _read("x.y", wrong, "exit code 77", 2, 32)
    assert (result.outcome, result.saved, result.executions) == ("KeyError: 'z'", "found/x-crash-1", 900)
    result = _read("x.y", wrong[wrong.index("\n ===") :], "exit code 77", 2, 32)  # by an input that was kept
    assert (result.outcome, result.saved) == ("KeyError: 'z'", "found/x-crash-1")
    assert _read("x.y", "no module", "exit code 1", 0, 0).outcome == "exit code 1: no module"
    assert _quoted('a"\n²'.encode()) == "a\\x22\\x0a\\xc2\\xb2"


if importlib.util.find_spec("atheris") is not None:  # an extra that few have: no test that is skipped for the others

    def test_a_short_run_under_atheris(tmp_path: Path) -> None:
        command = [sys.executable, "-m", "tests.fuzz", "--seconds", "1", "--directory", str(tmp_path), "etsi004.key_id"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr + done.stdout
        assert "| etsi004.key_id |" in done.stdout
        assert (tmp_path / "runs.jsonl").read_text().count('"outcome": "ok"') == 1
