"""Daemons on a real kernel's WireGuard: against our own engine and among themselves."""

from __future__ import annotations

import os
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


def test_a_keeper_that_is_killed_alone_is_replaced_and_its_keys_are_gone(sites: tuple[Site, Site]) -> None:
    alice, bob = sites
    alice.write(engine="kernel", interval=INTERVAL)
    bob.write(interval=INTERVAL)
    for site in sites:
        site.start()
    wait_until(lambda: carries(alice) and carries(bob), "both are protected", 60)
    before = alice.host.ip("link", "show", alice.interface).split(":")[0]
    keeper = alice.status()["node"]["engine_pid"]
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: "event=engine.restarted" in alice.log, "another keeper", 60)
    assert "event=engine.died" in alice.log
    assert "event=engine.failed" not in alice.log, "nothing stood in the way"
    assert alice.status()["node"]["engine_pid"] not in (None, keeper)
    assert alice.host.ip("link", "show", alice.interface).split(":")[0] != before, "another interface"
    wait_until(lambda: alice.ping("10.77.0.2"), "traffic again", 60)
    wait_until(lambda: carries(alice), "and the log says so")
    assert "Traceback" not in alice.log


def test_keys_alone_of_a_kernel_interface(sites: tuple[Site, Site]) -> None:
    alice, bob = sites
    owned = OwnedSite(alice)
    owned.make_in_kernel()
    keys_only(owned, bob, interval=INTERVAL)
