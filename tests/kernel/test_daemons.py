"""Daemons on a real kernel's WireGuard: against our own engine and among themselves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.owned import OwnedSite, keys_only
from tests.daemon.sites import Site, two_sites
from tests.daemon.unequal import carries, loses_nothing
from tests.support.netns import wait_until

pytestmark = pytest.mark.root

INTERVAL = "10s"
"""Without help of the processor a rekey takes a second or two of both gateways."""


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    with two_sites(tmp_path) as made:
        yield made


@pytest.mark.parametrize("engines", [("qtunnel", "kernel"), ("kernel", "kernel")], ids="-".join)
def test_rekeys_under_traffic_lose_nothing(sites: tuple[Site, Site], engines: tuple[str, str]) -> None:
    loses_nothing(sites, engines, rekeys=4, interval=INTERVAL)
    alice, bob = sites
    assert "wireguard" in bob.host.ip("-d", "link", "show", bob.interface)
    # A daemon that is killed takes its kernel interface along, and the guards hold.
    bob.processes[-1].send_signal(signal.SIGKILL)
    wait_until(lambda: bob.interface not in bob.host.links(), "the interface is gone")
    assert bob.way("10.77.0.1") == "unreachable"
    (bob.directory / "bob.log").write_text("")
    bob.start()
    wait_until(lambda: carries(bob) and carries(alice), "both are back", 60)


def test_keys_alone_of_a_kernel_interface(sites: tuple[Site, Site]) -> None:
    alice, bob = sites
    owned = OwnedSite(alice)
    owned.make_in_kernel()
    keys_only(owned, bob, interval=INTERVAL)
