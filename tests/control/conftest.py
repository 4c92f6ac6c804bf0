from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.support import Serving, serving


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a socket's path, and open to other users, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="qc", dir="/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture
def server(directory: Path) -> Iterator[Serving]:
    with serving(directory / "alice.sock") as started:
        yield started
