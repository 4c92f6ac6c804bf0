"""A network of four nodes, with its certificates."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from qtunnel.simulator.pki import make_pki
from qtunnel.simulator.topology_file import load_topology
from tests.simulator.support import write_metro


@pytest.fixture(scope="session")
def network_pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For all tests: the same KMEs and SAEs."""
    directory = tmp_path_factory.mktemp("network")
    make_pki(load_topology(write_metro(directory, directory / "pki")), datetime.now(UTC))
    return directory / "pki"


@pytest.fixture
def metro(tmp_path: Path, network_pki: Path) -> Path:
    return write_metro(tmp_path, network_pki)
