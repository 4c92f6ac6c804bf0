"""The quickest of the faults; ``make test-faults`` has them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.faults import FAULTS, LABS, Fault, Outcome
from tests.faults.lab import FaultLab, fault_lab

QUICK = [fault for fault in FAULTS if fault.quick]


@contextmanager
def made(name: str, factory: pytest.TempPathFactory) -> Iterator[FaultLab]:
    with fault_lab(factory.mktemp(name), **LABS[name]) as lab:
        yield lab


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultLab]:
    with made("steady", tmp_path_factory) as lab:
        yield lab


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultLab]:
    with made("short", tmp_path_factory) as lab:
        yield lab


@pytest.mark.root
@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_what_has_to_come_of_a_fault_does(fault: Fault, request: pytest.FixtureRequest) -> None:
    outcome = Outcome()
    fault.act(request.getfixturevalue(fault.lab), outcome)
    assert not outcome.problems, outcome.facts


def test_no_two_faults_have_one_name() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    assert {fault.lab for fault in FAULTS} == set(LABS)


def test_the_table_goes_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "reliability.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "DOCUMENT", document)
    bad = Outcome(["1 of 9 lost"], ["lost"])
    table.write([table.row_of(QUICK[0], Outcome(["0 lost"])), table.row_of(QUICK[1], bad)], date(2026, 1, 2))
    text = document.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\nRun of 2026-01-02: 1 of 2 hold.\n")
    assert text.endswith(f"{table.END}\nafter\n")
    assert "| 1 of 9 lost | **fails** |" in text
    assert "\nold" not in text
