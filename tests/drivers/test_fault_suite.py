"""No driver without its faults: each installed one of qtunnel's own has a module with a case for every fault."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

import pytest

from qtunnel.drivers.registry import ENTRY_POINT_GROUP
from qtunnel.errors import KeySourceError
from tests.drivers.faults import FAULTS

OURS = sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP) if point.value.startswith("qtunnel."))


def test_there_is_a_driver() -> None:
    assert "etsi014" in OURS


@pytest.mark.parametrize("driver", OURS)
def test_a_driver_has_a_case_for_every_fault(driver: str) -> None:
    cases = importlib.import_module(f"tests.drivers.test_{driver}_faults").CASES
    assert cases.keys() == FAULTS.keys()
    for fault, expected in cases.items():
        if isinstance(expected, str):
            assert len(expected.split()) > 3, f"{fault}: say in words why it cannot come to this driver"
        else:
            assert issubclass(expected, KeySourceError)
            assert expected is not KeySourceError, f"{fault}: which error it is, not any"
