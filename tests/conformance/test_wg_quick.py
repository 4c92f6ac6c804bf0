"""wg-quick(8) brings a tunnel up and down with ``qtunnel-wg`` in the place of the kernel's WireGuard."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtunnel.secret import Secret
from qtunnel.wireguard.noise import KeyPair
from tests.support.netns import Namespace, join, namespaces, run, unique_name, wait_until
from tests.support.ping import all_answered, ping
from tests.wireguard.gateways import socket_path

pytestmark = pytest.mark.root

PROGRAM = Path(sys.executable).with_name("qtunnel-wg")
ADDRESSES = {1: ("10.99.0.1", "fd99::1"), 2: ("10.99.0.2", "fd99::2")}


def key(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class Site:
    """A host with a wg-quick configuration file. inner: 10.77.0.N and fd77::N."""

    def __init__(self, host: Namespace, number: int, directory: Path) -> None:
        self.host = host
        self.number = number
        self.interface = unique_name("qq")
        self.private = os.urandom(32)
        self.public = KeyPair.of(Secret(self.private)).public
        self.file = directory / f"{self.interface}.conf"

    def configure(self, other: Site, allowed: str, interface: str = "") -> None:
        self.file.touch(0o600)
        self.file.write_text(
            f"[Interface]\nPrivateKey = {key(self.private)}\nListenPort = 51820\n"
            f"Address = 10.77.0.{self.number}/24, fd77::{self.number}/64\n{interface}"
            f"[Peer]\nPublicKey = {key(other.public)}\nEndpoint = 10.99.0.{other.number}:51820\n"
            f"PersistentKeepalive = 25\nAllowedIPs = {allowed}\n"
        )

    def quick(self, verb: str) -> str:
        environment = os.environ | {"WG_QUICK_USERSPACE_IMPLEMENTATION": str(PROGRAM)}
        done = self.host.run("wg-quick", verb, str(self.file), env=environment)
        return done.stderr

    def ping(self, address: str) -> None:
        done = self.host.run(*ping(address, 3), check=False)
        assert all_answered(done.stdout, 3), done.stdout

    def is_gone(self) -> bool:
        return self.interface not in self.host.links() and not socket_path(self.interface).exists()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    with namespaces(2) as (left, right):
        join(left, right)
        made = Site(left, 1, tmp_path), Site(right, 2, tmp_path)
        for site in made:
            site.host.address("eth0", f"10.99.0.{site.number}/24", f"fd99::{site.number}/64")
        try:
            yield made
        finally:
            for site in made:
                run("ip", "-n", site.host.name, "link", "del", site.interface, check=False)
                wait_until(site.is_gone, "the engine ended")


def test_up_and_down(sites: tuple[Site, Site]) -> None:
    left, right = sites
    left.configure(right, "10.77.0.2/32, fd77::2/128, 10.88.0.0/16", "MTU = 1380\n")
    right.configure(left, "10.77.0.1/32, fd77::1/128")
    for site in sites:
        assert f"qtunnel-wg {site.interface}" in site.quick("up")
    assert left.host.links()[left.interface]["mtu"] == 1380
    assert right.host.links()[right.interface]["mtu"] == 1420
    assert f"dev {left.interface}" in left.host.ip("route", "get", "10.88.1.1")
    left.ping("10.77.0.2")
    right.ping("fd77::1")
    for site in sites:
        site.quick("down")
        wait_until(site.is_gone, "the engine ended")
    left.quick("up")  # and again
    right.quick("up")
    right.ping("10.77.0.1")


def test_a_default_route_through_the_tunnel(sites: tuple[Site, Site]) -> None:
    """The policy routing of wg-quick: all traffic but the engine's own, which is marked."""
    left, right = sites
    left.configure(right, "0.0.0.0/0, ::/0")
    right.configure(left, "10.77.0.1/32, fd77::1/128")
    right.host.ip("addr", "add", "192.0.2.1/32", "dev", "lo")
    right.host.ip("addr", "add", "2001:db8::1/128", "dev", "lo")
    for site in sites:
        site.quick("up")
    assert left.host.run("wg", "show", left.interface, "fwmark").stdout.strip() == "0xca6c"
    for address in ("192.0.2.1", "2001:db8::1", "10.77.0.2"):
        left.ping(address)
    left.host.run("ping", "-q", "-f", "-c", "200", "-W", "2", "192.0.2.1")
    left.quick("down")
    wait_until(left.is_gone, "the engine ended")
    assert "lookup 51820" not in left.host.ip("rule")
    assert left.host.ip("route", "show", "default") == ""


def test_save_config_keeps_what_was_set(sites: tuple[Site, Site]) -> None:
    left, right = sites
    left.configure(right, "10.77.0.2/32", "SaveConfig = true\n")
    left.quick("up")
    left.host.run("wg", "set", left.interface, "peer", key(right.public), "allowed-ips", "10.77.0.2/32,10.89.0.0/16")
    left.quick("down")
    assert "10.89.0.0/16" in left.file.read_text()
    assert "PersistentKeepalive = 25\n" in left.file.read_text()
    left.quick("up")
    assert left.host.run("wg", "show", left.interface, "public-key").stdout.strip() == key(left.public)
