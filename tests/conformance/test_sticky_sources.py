"""Sticky source addresses: which local address a host with several of them answers from."""

from __future__ import annotations

import pytest

from tests.support.netns import Namespace, join
from tests.wireguard.gateways import PORT, Gateway

pytestmark = pytest.mark.root

SECOND = {4: "10.99.0.10", 6: "fd99::10"}
LENGTH = {4: 24, 6: 64}


def endpoint(address: str) -> str:
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"


def second_address(gateway: Gateway, version: int) -> str:
    """One more address on the host's link, which routing would not choose."""
    nodad = ["nodad"] if version == 6 else []
    # Among IPv6 addresses the kernel prefers the newest; a deprecated one it never chooses by itself.
    late = ["preferred_lft", "0"] if version == 6 else []
    gateway.host.ip("addr", "add", f"{SECOND[version]}/{LENGTH[version]}", "dev", "eth0", *nodad, *late)
    return SECOND[version]


def ask_at(asker: Gateway, asked: Gateway, address: str) -> None:
    """Make them peers where only the asker knows an endpoint, and ping."""
    asked.meet(asker, endpoint=False)
    asker.meet(asked)
    asker.set(f"public_key={asked.public.hex()}", f"endpoint={endpoint(address)}")
    asker.ping(asked)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("program", ["qtunnel", "wireguard-go"])
def test_answers_come_from_the_address_asked(hosts: tuple[Namespace, Namespace], program: str, version: int) -> None:
    asked, asker = Gateway(hosts[0], 0), Gateway(hosts[1], 1, program=program)
    try:
        address = second_address(asked, version)
        ask_at(asker, asked, address)
        asked.ping(asker)
        assert asker.get("endpoint") == [endpoint(address)]
    finally:
        asked.close()
        asker.close()


def test_answers_from_a_link_local_address(gateways: tuple[Gateway, Gateway]) -> None:
    asked, asker = gateways
    asked.host.ip("addr", "add", "fe80::77/64", "dev", "eth0", "nodad")
    index = asker.host.links()["eth0"]["ifindex"]
    asked.meet(asker, endpoint=False)
    asker.meet(asked)
    asker.set(f"public_key={asked.public.hex()}", f"endpoint=[fe80::77%{index}]:{PORT}")
    asker.ping(asked)
    asked.ping(asker)
    assert asker.get("endpoint") == [f"[fe80::77%{index}]:{PORT}"]
    assert f"[fe80::77%eth0]:{PORT}" in asker.host.run("wg", "show", asker.interface, "endpoints").stdout


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_that_is_gone_is_given_up_without_a_loss(gateways: tuple[Gateway, Gateway], version: int) -> None:
    asked, asker = gateways
    address = second_address(asked, version)
    ask_at(asker, asked, address)
    asked.host.ip("addr", "del", f"{address}/{LENGTH[version]}", "dev", "eth0")
    asked.ping(asker)
    assert asker.get("endpoint") == [f"{asked.outer(version)}:{PORT}"]


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_that_comes_back_is_used_again(gateways: tuple[Gateway, Gateway], version: int) -> None:
    asked, asker = gateways
    address = second_address(asked, version)
    ask_at(asker, asked, address)
    asked.host.ip("addr", "del", f"{address}/{LENGTH[version]}", "dev", "eth0")
    asked.ping(asker)
    second_address(asked, version)
    asker.set(f"public_key={asked.public.hex()}", f"endpoint={endpoint(address)}")
    asker.ping(asked)
    asked.ping(asker)
    assert asker.get("endpoint") == [endpoint(address)]


def test_a_configured_endpoint_gives_the_source_up(gateways: tuple[Gateway, Gateway]) -> None:
    asked, asker = gateways
    ask_at(asker, asked, second_address(asked, 4))
    asked.set(f"public_key={asker.public.hex()}", f"endpoint={asker.outer(4)}:{PORT}")
    asked.ping(asker, count=1)
    assert asker.get("endpoint") == [f"{asked.outer(4)}:{PORT}"]


def test_an_address_of_another_interface_than_the_packets_come_by(gateways: tuple[Gateway, Gateway]) -> None:
    asked, asker = gateways
    asked.host.ip("addr", "add", "10.50.0.1/32", "dev", "lo")
    asker.host.ip("route", "add", "10.50.0.1/32", "dev", "eth0")
    ask_at(asker, asked, "10.50.0.1")
    asked.ping(asker)
    assert asker.get("endpoint") == [endpoint("10.50.0.1")]


def test_another_route_takes_over(gateways: tuple[Gateway, Gateway]) -> None:
    """Two links between the same hosts; the source follows when the better one changes, and no packet is lost."""
    left, right = gateways
    join(left.host, right.host, "eth1")
    for host in (left.host, right.host):
        for link in ("all", "eth0", "eth1"):
            host.run("sh", "-c", f"echo 0 > /proc/sys/net/ipv4/conf/{link}/rp_filter")
    left.host.address("eth1", "10.99.0.3/24")
    right.host.ip("link", "set", "eth1", "up")
    left.host.ip("route", "flush", "10.99.0.0/24")
    left.host.ip("route", "add", "10.99.0.0/24", "dev", "eth0", "src", "10.99.0.1", "metric", "1")
    left.host.ip("route", "add", "10.99.0.0/24", "dev", "eth1", "src", "10.99.0.3", "metric", "2")
    right.meet(left, endpoint=False)
    left.meet(right)
    left.ping(right)
    assert right.get("endpoint") == [endpoint("10.99.0.1")]
    left.host.ip("route", "add", "10.99.0.0/24", "dev", "eth1", "src", "10.99.0.3", "metric", "0")
    left.host.ip("route", "del", "10.99.0.0/24", "dev", "eth0", "metric", "1")
    left.host.ip("route", "add", "10.99.0.0/24", "dev", "eth0", "src", "10.99.0.1", "metric", "9")
    left.ping(right)
    assert right.get("endpoint") == [endpoint("10.99.0.3")]


def test_a_change_of_other_routes_leaves_the_source(gateways: tuple[Gateway, Gateway]) -> None:
    asked, asker = gateways
    address = second_address(asked, 4)
    ask_at(asker, asked, address)
    for number in range(20):
        asked.host.ip("route", "add", f"10.60.{number}.0/24", "dev", "eth0")
    asked.ping(asker)
    assert asker.get("endpoint") == [endpoint(address)]
