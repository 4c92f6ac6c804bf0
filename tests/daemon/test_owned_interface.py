"""``tunnel.manage: psk`` with a userspace WireGuard that somebody else started; with the kernel's: tests/kernel."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtunnel.identity import Identity
from tests.daemon.owned import OwnedSite, keys_only
from tests.daemon.sites import Site, two_sites
from tests.daemon.unequal import carries, done
from tests.support.netns import wait_until

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


def test_where_everything_goes_into_the_tunnel_the_key_handshake_goes_around_it(sites: tuple[Site, Site]) -> None:
    """As wg-quick does it: what carries the interface's mark goes by the main table, all else into the tunnel."""
    alice, bob = sites
    outside = "203.0.113.2"  # of bob's host, and reached by alice's default route alone
    bob.host.ip("addr", "add", f"{outside}/32", "dev", "lo")
    alice.host.ip("route", "add", "default", "via", "10.99.0.2")
    owned = OwnedSite(alice)
    owned.make_in_userspace("wireguard-go")
    owned.wg("set", owned.interface, "fwmark", "51820")
    owned.wg("set", owned.interface, "peer", owned.peer, "endpoint", f"{outside}:51820", "allowed-ips", "0.0.0.0/0")
    alice.host.ip("route", "add", "default", "dev", owned.interface, "table", "51820")
    alice.host.ip("rule", "add", "not", "fwmark", "51820", "table", "51820")
    alice.host.ip("rule", "add", "table", "main", "suppress_prefixlength", "0")
    assert (alice.way(outside), alice.way(outside, 51820)) == (owned.interface, "eth0")
    owned.configure("2s", outside)
    bob.write(endpoint="10.99.0.9")  # nobody: alice has to begin
    owned.named_by(bob)
    bob.start()
    alice.start()
    wait_until(lambda: carries(alice) and alice.ping("10.77.0.2"), "traffic", 60)
    assert alice.way(outside) == owned.interface


def test_a_peer_that_is_not_there_keeps_no_other_from_its_keys(sites: tuple[Site, Site]) -> None:
    """carol stands first in the file, and is not in the interface; she comes and goes as her owner wants."""
    alice, bob = sites
    carol = Identity.create(os.urandom).public
    (alice.directory / "carol.public").write_text(carol.to_text())
    key = base64.b64encode(carol.wireguard).decode()
    owned = OwnedSite(alice)
    owned.make_in_userspace("wireguard-go")
    peer = {"name": "carol", "public": "carol.public", "endpoint": "10.99.0.3", "qkd": {"policy": "off"}}
    owned.configure("2s", before=(peer,))
    bob.write()
    owned.named_by(bob)
    alice.start()
    assert owned.peers()[owned.peer][0] != "(none)", "a random one from the first moment on"
    assert f"has no peer {key}; add it there" in alice.log
    bob.start()
    wait_until(lambda: alice.ping("10.77.0.2") and carries(alice), "traffic with bob", 60)
    wait_until(lambda: alice.status()["node"]["state"] == "interface-altered", "the status tells who is missing")
    told = {its["name"]: its for its in alice.status()["peers"]}
    assert (told["carol"]["protected"], told["bob"]["protected"]) == (False, True)

    # bob's key is put back, and rekeys go on, while she is away.
    wait_until(owned.key_is_missed, "it is noticed")
    wait_until(lambda: owned.peers()[owned.peer][0] != "(none)" and alice.ping("10.77.0.2"), "traffic again", 60)
    count = done(alice)
    wait_until(lambda: done(alice) >= count + 3, "more rekeys", 60)

    # Once she is there she gets a random key; and whoever goes again is missed again.
    owned.wg("set", owned.interface, "peer", key, "allowed-ips", "10.56.0.0/16")
    wait_until(lambda: owned.peers()[key][0] != "(none)", "a random key for carol")
    wait_until(lambda: alice.status()["node"]["state"] == "up", "the status is good again")
    owned.wg("set", owned.interface, "peer", key, "remove")
    wait_until(lambda: alice.log.count("missing: peer carol;") == 2, "she is missed again")
    count = done(alice)
    wait_until(lambda: done(alice) >= count + 3, "more rekeys", 60)
    assert "engine.stopped" not in alice.log
    assert "Traceback" not in alice.log


def test_another_process_that_serves_the_socket_gets_no_key_before_a_random_one(sites: tuple[Site, Site]) -> None:
    """As the owner's program restarted, or another of the same name in another namespace: nothing there is of ours."""
    alice, bob = sites
    owned = OwnedSite(alice)
    program = owned.make_in_userspace("wireguard-go")
    owned.configure("2s")
    bob.write()
    owned.named_by(bob)
    alice.start()
    bob.start()
    wait_until(lambda: alice.ping("10.77.0.2") and carries(alice), "traffic", 60)
    os.kill(program, signal.SIGSTOP)  # it would end when it sees that its socket is gone
    path = Path("/run/wireguard") / f"{alice.interface}.sock"
    path.unlink()
    # Of the same name and elsewhere, with bob as its peer: the daemon begins anew with whoever serves the path now.
    bob.host.start("wireguard-go", "-f", alice.interface, env={**os.environ, "WG_PROCESS_FOREGROUND": "1"})
    wait_until(lambda: "is not served by process" in alice.log, "another process is seen")
    assert "event=engine.died" in alice.log
    wait_until(lambda: alice.status()["node"]["state"] == "interface-altered", "the status tells it")
    assert not alice.status()["peers"][0]["protected"]
    wait_until(lambda: f"has no peer {owned.peer}" in alice.log, "its peers are looked at anew")
    assert owned.peer not in bob.host.run("wg", "show", alice.interface, "dump").stdout
    assert "Traceback" not in alice.log
