"""Which inputs of a campaign are worth keeping in the repository: few, small, and each for something of its own.

Without atheris, by the lines of the package that an input reaches first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import qtunnel
from tests.fuzz import corpora
from tests.fuzz.target import Target, check

BUDGET = 2560
"""Bytes of inputs kept for each target, regressions not counted: with 70 targets that
is 240 kB in base64."""

_PACKAGE = str(Path(qtunnel.__file__).parent)
Line = tuple[str, int, int]
"""File, and the lines before and after a step."""


def lines_of(target: Target, data: bytes) -> set[Line]:
    """Steps from line to line in the package."""
    found: set[Line] = set()
    ours: dict[CodeType, bool] = {}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if ours.get(code) is None:
            ours[code] = code.co_filename.startswith(_PACKAGE)
        if not ours[code]:
            return None
        last = [0]

        def step(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                found.add((frame.f_code.co_filename, last[0], frame.f_lineno))
                last[0] = frame.f_lineno
            return step

        return step(frame, event, argument)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        check(target, data)
    finally:
        sys.settrace(before)
    return found


def keep(name: str, target: Target, directory: Path) -> None:
    """Choose from a campaign's corpus and what is kept already, small inputs first."""
    inputs = {file.read_bytes() for file in directory.iterdir()} if directory.is_dir() else set()
    inputs |= {data for its, data in corpora.read(name).items() if not its.startswith(corpora.FOUND)}
    seen: set[Line] = set()
    for its, data in corpora.read(name).items():
        if its.startswith(corpora.FOUND):
            seen |= lines_of(target, data)
    chosen: list[bytes] = []
    left = BUDGET
    for data in sorted(inputs, key=lambda its: (len(its), its)):
        if len(data) > left:
            break
        lines = lines_of(target, data)
        if not lines <= seen:
            seen |= lines
            chosen.append(data)
            left -= len(data)
    corpora.write(name, chosen)
