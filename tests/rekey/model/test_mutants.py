"""Every broken core of ``make mutants`` can still be made: code that changes takes its mutants along."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from tests.rekey.model.mutants import MUTANTS, ROOT, Mutant, apply


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda its: its.what)
def test_it_applies(mutant: Mutant, tmp_path: Path) -> None:
    for file in {edit.file for edit in mutant.edits}:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "qtunnel" / file, tmp_path / file)
    apply(mutant, tmp_path)
    for edit in mutant.edits:
        ast.parse((tmp_path / edit.file).read_text())
