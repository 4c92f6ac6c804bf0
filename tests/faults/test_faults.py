"""The quickest of the faults; ``make test-faults`` has them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import pytest

from tests.faults import table
from tests.faults.fault import LABS, Fault, Outcome
from tests.faults.faults import FAULTS
from tests.faults.lab import Expiry, FaultLab, fault_lab
from tests.faults.traffic import within

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


def test_the_table_goes_between_its_marks_and_a_part_of_it_leaves_the_rest() -> None:
    first, second, third = FAULTS[:3]
    text = f"before\n{table.begin()}\n{table.END}\nafter\n"
    early, late = date(2026, 1, 2), date(2026, 3, 4)
    good, bad = Outcome(["0 lost", "epoch 3"]), Outcome(["1 lost"], ["lost"])
    text = table.written(text, [table.row_of(third, good, early), table.row_of(first, bad, early)])
    text = table.written(text, [table.row_of(second, good, late), table.row_of(third, good, late)])
    assert text.startswith(f"before\n{table.begin()}\n| fault |")
    assert text.endswith(f"|\n{table.END}\nafter\n")
    rows = table.rows_in(text)
    assert [(row.fault, row.holds, row.day) for row in rows] == [
        (first.name, False, "2026-01-02"),
        (second.name, True, "2026-03-04"),
        (third.name, True, "2026-03-04"),
    ]
    assert rows[0].text == f"fails  {first.name}: 1 lost"


def test_the_document_has_every_fault_as_it_is_tried_now() -> None:
    rows = {row.fault: row.expectation for row in table.rows_in(table.DOCUMENT.read_text())}
    assert rows == {fault.name: fault.expectation for fault in FAULTS}, "run make test-faults"


@pytest.mark.parametrize(
    "gap, count", [((1.0, 1.0, 1), 0), ((2.0, 2.0, 1), 1), ((1.95, 2.04, 10), 5), ((2.96, 3.05, 10), 5), ((1, 4, 4), 2)]
)
def test_echoes_of_a_gap_count_where_they_were_sent(gap: tuple[float, float, int], count: int) -> None:
    assert within(gap, 2.0, 3.005) == count


def test_ages_that_are_told_again_and_again_say_more_exactly_when_they_end() -> None:
    first = Expiry(3, 10.0, 12.0)
    assert Expiry(3, 10.5, 13.0).with_(first) == Expiry(3, 10.5, 12.0)
    assert Expiry(4, 20.0, 21.0).with_(first) == Expiry(4, 20.0, 21.0)
    assert first.with_(None) == first
