"""One PKI for all tests of a directory: making it costs more than most of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kme import make_pki


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("pki"))
