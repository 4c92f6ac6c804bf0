"""A blocked peer: nothing goes around its tunnel, nothing through it; seen on every interface of the host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest

from tests.daemon.sites import Site, protected, two_sites
from tests.support.netns import Namespace, join, namespaces, wait_until

pytestmark = pytest.mark.root

SNIFF = Path(__file__).parents[1] / "support" / "sniff.py"
ALLOWED = {
    "alice": '10.77.0.2/32, "fd77::2/128", 10.8.0.0/16, "fd08::/32"',
    "bob": '10.77.0.1/32, "fd77::1/128", 192.0.2.0/24, "2001:db8::/64"',
}
NETWORKS = [ip_network(text) for text in ("10.77.0.0/24", "fd77::/64", "10.8.0.0/16", "fd08::/32")]
TARGETS = ("10.77.0.2", "fd77::2", "10.8.1.1", "fd08::1")
MAX_AGE = 6
OUTGOING = 4
"""PACKET_OUTGOING of packet(7)."""
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
WIREGUARD = 51820


@dataclass(frozen=True)
class Packet:
    """One that left by an interface: where to, and the type of a WireGuard message where it is one."""

    interface: str
    target: IPv4Address | IPv6Address
    wireguard: int | None = None

    @property
    def is_for_the_tunnel(self) -> bool:
        return any(self.target in network for network in NETWORKS)


def parse(line: str) -> Packet | None:
    """What left of what passed, by a line of the sniffer's."""
    interface, kind, protocol, _, text = line.split()
    data, number = bytes.fromhex(text), int(protocol, 16)
    if int(kind) != OUTGOING:
        return None
    if number == ARP:
        return Packet(interface, ip_address(data[24:28]))
    if number == IPV4:
        head, target, transport = (data[0] & 15) * 4, ip_address(data[16:20]), data[9]
    elif number == IPV6:
        head, target, transport = 40, ip_address(data[24:40]), data[6]
    else:
        return None
    is_wireguard = transport == 17 and int.from_bytes(data[head + 2 : head + 4], "big") == WIREGUARD
    return Packet(interface, target, data[head + 8] if is_wireguard else None)


@contextmanager
def sniffed(host: Namespace, found: list[Packet]) -> Iterator[None]:
    """Everything that leaves by any interface of the host during the ``with`` block."""
    process = host.start(sys.executable, str(SNIFF))
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    try:
        yield
    finally:
        process.terminate()
        found += [packet for line in process.communicate(timeout=30)[0].splitlines() if (packet := parse(line))]


def knock(*hosts: Namespace) -> None:
    """Two packets from each host to every target; whether they are answered does not matter."""
    command = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1")
    pings: list[subprocess.Popen[str]] = [host.start(*command, target) for host in hosts for target in TARGETS]
    for ping in pings:
        ping.communicate(timeout=30)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site, Namespace]]:
    """alice and bob, and a client in the LAN behind alice, whose default route leads elsewhere."""
    with two_sites(tmp_path) as (alice, bob), namespaces(1) as (client,):
        for site in (alice, bob):
            site.write(allowed=ALLOWED[site.name])
            text = site.config.read_text()
            site.config.write_text(text.replace("{policy: off}", f"{{policy: off, max_age: {MAX_AGE}s}}"))
        join(alice.host, client, "lan0")
        alice.host.address("lan0", "192.0.2.1/24", "2001:db8::1/64")
        client.address("lan0", "192.0.2.9/24", "2001:db8::9/64")
        client.ip("route", "add", "default", "via", "192.0.2.1")
        client.ip("-6", "route", "add", "default", "via", "2001:db8::1")
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            alice.host.run("sysctl", "-q", "-w", f"{name}=1")
        alice.host.ip("route", "add", "default", "via", "10.99.0.2")
        alice.host.ip("-6", "route", "add", "default", "via", "fd99::2")
        for target in ("10.8.1.1/32", "fd08::1/128"):
            bob.host.address("lo", target)
        yield alice, bob, client


def protection(site: Site) -> str:
    peers = site.status().get("peers", [])
    return str(peers[0]["protection"]) if peers else ""


def cut_handshakes(*sites: Site) -> None:
    """Let nothing of the key handshake in any more."""
    for site in sites:
        site.host.run("nft", "add table ip cut; add chain ip cut in { type filter hook input priority 0; }")
        site.host.run("nft", "add rule ip cut in udp dport 51821 drop")


def join_handshakes(*sites: Site) -> None:
    for site in sites:
        site.host.run("nft", "delete table ip cut")


def test_nothing_leaves_in_the_clear_or_in_an_old_session_while_a_peer_is_blocked(
    sites: tuple[Site, Site, Namespace],
) -> None:
    """Only the key handshake is cut off: WireGuard itself could go on for minutes with the keys that it has."""
    alice, bob, client = sites
    process = alice.start()
    bob.start()
    for site in (alice, bob):
        wait_until(lambda site=site: protected(site), "a first epoch", 60)  # type: ignore[misc]
    for target in TARGETS:
        wait_until(lambda target=target: alice.ping(target), f"{target} answers through the tunnel", 30)  # type: ignore[misc]
    before: list[Packet] = []
    with sniffed(alice.host, before):
        knock(alice.host, client)
    assert any(packet.wireguard in (4, 5) for packet in before), "what goes through the tunnel is seen"
    assert {packet.interface for packet in before if packet.is_for_the_tunnel} == {alice.interface}

    cut_handshakes(alice, bob)
    for site in (alice, bob):
        wait_until(lambda site=site: protection(site) == "blocked", f"{site.name} blocks", MAX_AGE + 30)  # type: ignore[misc]
    blocked: list[Packet] = []
    theirs: list[Packet] = []
    with sniffed(alice.host, blocked), sniffed(bob.host, theirs):
        knock(alice.host, client, bob.host)
    assert protection(alice) == "blocked"
    assert {packet.interface for packet in blocked if packet.is_for_the_tunnel} == {alice.interface}, "it leaks"
    # Initiations and responses, which the random PSKs lead nowhere; no message that a session carries.
    assert {packet.wireguard for packet in blocked + theirs} <= {None, 1, 2}, "a session goes on, or begins"
    assert not any(alice.ping(target) for target in TARGETS)
    for site in (alice, bob):
        assert "event=peer.blocked" in site.log
        assert "event=protection.changed" in site.log
        assert "after=blocked" in site.log

    join_handshakes(alice, bob)
    wait_until(lambda: protected(alice) and alice.ping("10.8.1.1") and alice.ping("fd08::1"), "it comes back", 120)

    # And so that this test can fail: without the tunnel, by the wish of its owner, the same packets do leave.
    process.terminate()
    assert process.wait(30) == 0
    after: list[Packet] = []
    with sniffed(alice.host, after):
        knock(alice.host, client)
    leaking = {(packet.interface, packet.target.version) for packet in after if packet.is_for_the_tunnel}
    assert leaking >= {("eth0", 4), ("eth0", 6)}
