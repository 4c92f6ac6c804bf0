"""Two daemons whose engines are not the same program: keys rotate again and again, and no echo is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.sites import Site, two_sites
from tests.daemon.unequal import loses_nothing

pytestmark = pytest.mark.root


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    with two_sites(tmp_path) as made:
        yield made


@pytest.mark.parametrize("engines", [("qtunnel", "wireguard-go"), ("wireguard-go", "qtunnel")], ids="-".join)
def test_rekeys_under_traffic_lose_nothing(sites: tuple[Site, Site], engines: tuple[str, str]) -> None:
    """Either engine at the end whose daemon begins the exchanges."""
    loses_nothing(sites, engines, rekeys=6)
