"""Prometheus's own tool, which says whether metrics, rules and queries are sound."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_OURS = Path(__file__).parents[2] / ".tools" / "promtool" / "promtool"
PROMTOOL = shutil.which("promtool") or (str(_OURS) if _OURS.exists() else None)
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not there: make test gets it")


def promtool(*arguments: str | Path, text: str | None = None) -> None:
    """Run it, with ``text`` on its standard input; it has to be content."""
    assert PROMTOOL is not None
    command = [PROMTOOL, *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
