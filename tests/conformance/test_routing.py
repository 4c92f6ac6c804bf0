"""Tunnels in networks that are not simple: NAT, policy routing, tunnels in tunnels, and loops of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conformance.observe import counted
from tests.conformance.topology import Engine
from tests.support.netns import Namespace, namespaces, run, wait_until

pytestmark = pytest.mark.root

Make = Callable[..., list[Engine]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes engines, each from its host, port and perhaps program, and ends them."""
    made: list[Engine] = []

    def factory(*wanted: tuple[Any, ...]) -> list[Engine]:
        new = [Engine(*one) for one in wanted]
        made.extend(new)
        for engine in new:
            engine.ready()
        return new

    yield factory
    for engine in made:
        engine.close()


@pytest.fixture
def routed() -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    """A client 192.168.1.100 and a server 10.0.0.100, with a router that forwards between them."""
    with namespaces(3) as (client, router, server):
        for name, host in (("inside", client), ("outside", server)):
            run("ip", "link", "add", name, "netns", router.name, "type", "veth", "peer", "eth0", "netns", host.name)
        router.address("inside", "192.168.1.1/24")
        router.address("outside", "10.0.0.1/24")
        client.address("eth0", "192.168.1.100/24")
        server.address("eth0", "10.0.0.100/24")
        client.ip("route", "add", "default", "via", "192.168.1.1")
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        yield client, router, server


def conntrack_lifetime(host: Namespace, seconds: int) -> None:
    for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
        host.run("sh", "-c", f"echo {seconds} > /proc/sys/net/netfilter/{name}")


def test_nat_with_keepalive(routed: tuple[Namespace, Namespace, Namespace], make: Make) -> None:
    client, router, server = routed
    nat = "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; "
    router.run("nft", nat + "add rule ip nat post ip saddr 192.168.1.0/24 oifname outside snat to 10.0.0.1")
    conntrack_lifetime(router, 2)
    left, right = make((client, 1), (server, 2, "wireguard-go"))
    left.address("192.168.241.1/24")
    right.address("192.168.241.2/24")
    right.peer(left, "", "192.168.241.1/32")
    left.peer(right, "10.0.0.100:2", "192.168.241.2/32", keepalive=1)
    assert left.reaches("192.168.241.2")
    assert right.reaches("192.168.241.1")
    assert right.get("endpoint") == ["10.0.0.1:1"]
    received = counted(right)[1]
    wait_until(lambda: counted(right)[1] >= received + 4 * 32, "four keepalives, more than the NAT remembers")
    assert right.reaches("192.168.241.1")


def test_without_a_keepalive_the_nat_forgets(routed: tuple[Namespace, Namespace, Namespace], make: Make) -> None:
    """What makes the test above mean something; and the tunnel heals when the client speaks again."""
    client, router, server = routed
    nat = "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; "
    router.run("nft", nat + "add rule ip nat post oifname outside meta l4proto udp snat to 10.0.0.1:4000-4999")
    left, right = make((client, 1), (server, 2))
    left.address("192.168.241.1/24")
    right.address("192.168.241.2/24")
    right.peer(left, "", "192.168.241.1/32")
    left.peer(right, "10.0.0.100:2", "192.168.241.2/32")
    assert left.reaches("192.168.241.2")
    (before,) = right.get("endpoint")
    # The same as an entry that has run out: another mapping
    router.run("nft", "flush chain ip nat post")
    router.run("nft", "add rule ip nat post oifname outside meta l4proto udp snat to 10.0.0.1:5000-5999")
    left.set("listen_port=3")
    assert left.reaches("192.168.241.2")
    assert right.reaches("192.168.241.1")
    (after,) = right.get("endpoint")
    assert before.startswith("10.0.0.1:4")
    assert after.startswith("10.0.0.1:5")


def test_a_mark_that_reroutes_and_a_bound_socket(routed: tuple[Namespace, Namespace, Namespace], make: Make) -> None:
    client, _, server = routed
    server.ip("route", "add", "192.168.1.0/24", "via", "10.0.0.1")
    left, right = make((client, 1), (server, 2))
    left.address("192.168.241.1/24")
    right.address("192.168.241.2/24")
    right.peer(left, "", "192.168.241.1/32")
    left.peer(right, "10.0.0.100:2", "192.168.241.2/32")
    assert left.reaches("192.168.241.2", 2, "-I", left.interface)
    chain = "add table ip m; add chain ip m out { type route hook output priority -150; }; "
    client.run("nft", chain + "add rule ip m out meta mark set 1")
    assert left.reaches("192.168.241.2", 2)
    assert left.reaches("192.168.241.2", 2, "-I", left.interface)


def test_a_default_route_through_the_tunnel(routed: tuple[Namespace, Namespace, Namespace], make: Make) -> None:
    """Policy routing by fwmark, with an IPv6 default route on the link that leads nowhere."""
    client, _, server = routed
    server.ip("route", "add", "192.168.1.0/24", "via", "10.0.0.1")
    client.ip("addr", "add", "fc00::9/96", "dev", "eth0", "nodad")
    client.ip("-6", "route", "add", "default", "via", "fc00::1")
    left, right = make((client, 1), (server, 2))
    left.address("192.168.241.1/24", "fd00::1/112")
    right.address("192.168.241.2/24", "fd00::2/112", "192.168.99.7/32", "abab::1111/128")
    right.peer(left, "", "192.168.241.1/32", "fd00::1/128")
    left.set("fwmark=51820")
    left.peer(right, "10.0.0.100:2", "192.168.99.7/32", "abab::1111/128")
    for version in ("-4", "-6"):
        client.ip(version, "route", "add", "default", "dev", left.interface, "table", "51820")
        client.ip(version, "rule", "add", "not", "fwmark", "51820", "table", "51820")
        client.ip(version, "rule", "add", "table", "main", "suppress_prefixlength", "0")
    client.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/eth0/rp_filter")
    for address in ("192.168.99.7", "abab::1111"):
        assert left.reaches(address, 100, "-i", "0.002")
    assert right.get("endpoint") == ["192.168.1.100:1"]


Nested = tuple[Engine, Engine, Engine, Engine, Namespace]


@pytest.fixture
def nested(make: Make) -> Iterator[Nested]:
    """A tunnel over IPv4 loopback of one host, and a second one inside it: outer pair, inner pair, and that host.

    Each pair is made in the same host and moved apart, so that the outer tunnel's sockets stay there.
    """
    with namespaces(3) as (middle, left, right):
        outers = make((middle, 1), (middle, 2))
        inners = make((left, 5), (right, 5))
        for number, (outer, inner) in enumerate(zip(outers, inners, strict=True), 1):
            middle.ip("link", "set", outer.interface, "netns", inner.host.name)
            outer.host = inner.host
            outer.address(f"fd00::5:{number}/112")
            inner.address(f"192.168.241.{number}/24", f"fd00::{number}/112", mtu=1340)
        outers[0].peer(outers[1], "127.0.0.1:2", "fd00::5:2/128")
        outers[1].peer(outers[0], "127.0.0.1:1", "fd00::5:1/128")
        inners[0].peer(inners[1], "[fd00::5:2]:5", "192.168.241.2/32", "fd00::2/128")
        inners[1].peer(inners[0], "[fd00::5:1]:5", "192.168.241.1/32", "fd00::1/128")
        yield outers[0], outers[1], inners[0], inners[1], middle


def test_a_tunnel_in_a_tunnel(nested: Nested) -> None:
    _, _, left, right, _ = nested
    for address in ("192.168.241.2", "fd00::2"):
        assert left.reaches(address, 3, "-s", "1300", "-M", "do" if "." in address else "want")
    assert right.reaches("192.168.241.1")
    server = right.host.start("iperf3", "-s", "-1", "--forceflush")
    assert server.stdout is not None
    for line in server.stdout:
        if "listening" in line:
            break
    assert "receiver" in left.host.run("iperf3", "-c", "192.168.241.2", "-n", "4M").stdout


@pytest.mark.parametrize("size", [56, 1200])
def test_a_loop_of_tunnels_ends(nested: Nested, size: int) -> None:
    """The outer tunnel's peer is told to be behind the inner one, which runs through it: no storm, and no crash.

    Nobody decrypts what goes around, so each packet would grow until it is fragmented, and then multiply.
    """
    outer, outer_end, inner, inner_end, middle = nested
    inner.host.ip("link", "set", inner.interface, "netns", middle.name)
    inner.host = middle
    inner.address("192.168.241.1/24", mtu=1340)
    assert inner.reaches("192.168.241.2")
    outer.set(f"public_key={outer_end.public.hex()}", "endpoint=192.168.241.2:7")
    outer_end.close()
    inner_end.close()
    before = counted(inner)[0]
    assert inner.reaches_nobody("192.168.241.2", 10, "-s", str(size))
    assert 10 * size < counted(inner)[0] - before < 70_000 + 10 * 8 * size  # ping has waited for 2 s
    assert inner.answers()
    assert outer.answers()
    drops = [end.close() for end in (inner, outer)]
    assert any("too-many-tunnels-in-tunnels=" in words for words in drops)


def test_onion_routing(routed: tuple[Namespace, Namespace, Namespace], make: Make) -> None:
    """A second peer of one interface, whose endpoint is behind the first; and then behind itself."""
    client, _, server = routed
    server.ip("route", "add", "192.168.1.0/24", "via", "10.0.0.1")
    left, right, onion = make((client, 1), (server, 2), (server, 5))
    left.address("192.168.241.1/24", "192.168.242.1/24")
    right.address("192.168.241.2/24")
    onion.address("192.168.242.2/24")
    right.peer(left, "", "192.168.241.1/32")
    onion.peer(left, "", "192.168.242.1/32")
    left.peer(right, "10.0.0.100:2", "192.168.241.2/32")
    left.peer(onion, "192.168.241.2:5", "192.168.242.2/32")
    assert left.reaches("192.168.242.2")
    assert onion.get("endpoint") == ["192.168.241.1:1"]
    onion.close()
    left.set(f"public_key={onion.public.hex()}", "endpoint=192.168.242.2:5")
    assert left.reaches_nobody("192.168.242.2", 3)
    assert left.reaches("192.168.241.2")
    assert left.reaches_nobody("192.168.242.2", 1, "-s", "3000")  # a first fragment, and others
    assert left.reaches("192.168.241.2")
    assert "endpoint-behind-itself=" in left.close()


@pytest.mark.parametrize("version", [4, 6])
def test_inner_sources_of_others_are_dropped_and_counted(
    routed: tuple[Namespace, Namespace, Namespace], make: Make, version: int
) -> None:
    client, _, server = routed
    server.ip("route", "add", "192.168.1.0/24", "via", "10.0.0.1")
    left, right = make((client, 1), (server, 2))
    inner = {4: ("192.168.241.1", "192.168.241.2"), 6: ("fd00::1", "fd00::2")}[version]
    length = {4: 24, 6: 112}[version]
    left.address(f"{inner[0]}/{length}")
    right.address(f"{inner[1]}/{length}")
    right.peer(left, "", f"{inner[0]}/{length}")
    left.peer(right, "10.0.0.100:2", f"{inner[1]}/{length}")
    assert left.reaches(inner[1])
    other = "ab" * 32
    right.set(f"public_key={other}", f"allowed_ip={inner[0]}")  # a longer prefix: the address is theirs now
    sent, received = counted(left)[0], right.get("rx_bytes")[0]
    assert left.reaches_nobody(inner[1], 2)
    assert counted(left)[0] > sent
    assert int(right.get("rx_bytes")[0]) > int(received)  # authenticated, so counted; but not delivered
    right.set(f"public_key={other}", "remove=true")
    assert left.reaches(inner[1])
    assert "inner-source-not-allowed=2" in right.close()
