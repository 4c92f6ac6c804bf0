"""``qtunnel kme ...`` as a process of its own, as an operator starts it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

KME = [sys.executable, "-m", "qtunnel", "kme"]


@contextlib.contextmanager
def kme_process(ready: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """``qtunnel kme`` with these arguments once it has logged the event ``ready``; its output up to then is dropped."""
    process = subprocess.Popen([*KME, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if ready in line:
                break
        else:
            pytest.fail(f"it ended before it said {ready}")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()
