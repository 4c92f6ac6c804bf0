"""``tunnel.manage: psk`` with a userspace WireGuard that somebody else started; with the kernel's: tests/kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.owned import OwnedSite, keys_only
from tests.daemon.sites import Site, two_sites

pytestmark = pytest.mark.root


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    with two_sites(tmp_path) as made:
        yield made


def test_keys_alone_of_an_interface_of_wireguard_go(sites: tuple[Site, Site]) -> None:
    alice, bob = sites
    owned = OwnedSite(alice)
    owned.make_in_userspace("wireguard-go")
    keys_only(owned, bob)


def test_what_is_not_there_is_refused_and_not_made(sites: tuple[Site, Site]) -> None:
    alice, _ = sites
    owned = OwnedSite(alice)
    owned.configure("2s")
    assert (
        f"interface {alice.interface} does not exist; with tunnel.manage: psk somebody else makes it" in alice.refused()
    )
    alice.host.ip("link", "add", alice.interface, "type", "veth", "peer", "name", "other")
    assert f"interface {alice.interface} is no WireGuard interface" in alice.refused()
    alice.host.ip("link", "del", alice.interface)
    owned.make_in_userspace("wireguard-go")
    before = owned.settings()
    owned.wg("set", alice.interface, "peer", owned.peer, "remove")
    assert f"has no peer {owned.peer}; add it there, or correct wireguard_key" in alice.refused()
    assert owned.peer not in owned.peers()
    assert before[1:] == owned.settings()[1:]
