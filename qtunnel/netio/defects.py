"""A defect of the code itself, in words for the log: what was raised, and where; no value that was at hand."""

from __future__ import annotations

import traceback
from pathlib import Path


def words(error: BaseException) -> str:
    """``TypeError at loop.py:103``."""
    places = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(places[-1].filename).name}:{places[-1].lineno}"
