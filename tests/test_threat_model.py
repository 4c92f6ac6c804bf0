"""docs/threat-model.md names tests that exist, and leaves no attacker and no promise without one, or a word why not."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "threat-model.md"
TEXT = DOCUMENT.read_text()
SECTION = TEXT[TEXT.index("## What shows it") : TEXT.index("## State")]
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
ROW = re.compile(r"^\| ([AC]\d+) \| (.*) \|$", re.MULTILINE)
SHOWN = dict(ROW.findall(SECTION))
MODELS = {path.stem for path in (ROOT / "docs" / "formal").glob("*.pv")}


@functools.cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name for node in functions if node.name.startswith("test_")}


def test_every_attacker_has_a_row_that_says_what_shows_it() -> None:
    before = TEXT[: TEXT.index("## What shows it")]
    attackers = [name for name, _ in ROW.findall(before)]
    assert attackers == [f"A{number}" for number in range(1, len(attackers) + 1)]
    assert len(attackers) > 20
    assert [name for name in SHOWN if name.startswith("A")] == attackers


@pytest.mark.parametrize("name", SHOWN)
def test_a_row_names_tests_that_exist_or_says_why_not(name: str) -> None:
    cell = SHOWN[name]
    named = TEST.findall(cell)
    assert named or cell.startswith("not shown: ")
    for file, test in named:
        assert test in names_in(file), f"{file}::{test}"
    for model in re.findall(r"`(\w+)`", cell):
        assert model in MODELS, model
    assert cell.count("::") == len(named), "a test that this does not read"


def test_every_source_has_title_date_and_address() -> None:
    said = TEXT[TEXT.index("### What the agencies say") : TEXT.index("## What shows it")]
    sources = re.findall(r"^(\d+)\. \*(.+)\*, (.+), <https://\S+>$", said, re.MULTILINE)
    assert [int(number) for number, _, _ in sources] == list(range(1, len(sources) + 1))
    assert all(re.search(r"\b20\d\d\b", date) for _, _, date in sources)
    assert {number for number, _, _ in sources} == set(re.findall(r"\[(\d+)\]", said))
