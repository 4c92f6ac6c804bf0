"""One PKI for all tests of a directory, as making it costs more than most of them; a pad for each that wants one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kme import make_pki
from tests.support.pads import Site, site_of


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A pad at two ends."""
    return site_of(tmp_path)
