"""All targets by their names, ``module.target``."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.fuzz.target import Target

MODULES = sorted(file.stem for file in (Path(__file__).parent / "targets").glob("[a-z]*.py"))


def targets() -> dict[str, Target]:
    """In the order of their names."""
    found: dict[str, Target] = {}
    for module in MODULES:
        its: dict[str, Target] = importlib.import_module(f"tests.fuzz.targets.{module}").TARGETS
        found |= {f"{module}.{name}": target for name, target in its.items()}
    return found


def find(name: str) -> Target:
    """One of them; raises ``KeyError``."""
    module, _, target = name.partition(".")
    if module not in MODULES:
        raise KeyError(name)
    its: dict[str, Target] = importlib.import_module(f"tests.fuzz.targets.{module}").TARGETS
    return its[target]
