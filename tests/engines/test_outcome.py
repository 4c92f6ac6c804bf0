"""A prefix that another interface gets is named, whatever routes of our own are there; the kernel is asked."""

from __future__ import annotations

import asyncio
from ipaddress import ip_interface, ip_network

import pytest

from qtunnel.engines import outcome
from qtunnel.engines.interface import Interface, InterfaceConfig
from tests.engines.namespaces import Namespace, run
from tests.engines.test_guard_routes import way


def interface(addresses: tuple[str, ...], *allowed: str) -> Interface:
    made = InterfaceConfig("qg0", tuple(map(ip_interface, addresses)), allowed_ips=tuple(map(ip_network, allowed)))
    return Interface(made)


def missing(made: Interface) -> list[str]:
    return asyncio.run(made.missing())


def other(prefix: str, device: str = "va") -> str:
    return f"way to {prefix} ({device} has it, by a route, an address or a rule)"


@pytest.fixture
def host(namespace: Namespace) -> None:
    """A gateway with a LAN at ``va``, and a TUN that plays the engine's."""
    for switch in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        run("sysctl", "-qw", f"{switch}=1")
    run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
    for device in ("va", "vb"):
        run("ip", "link", "set", device, "up")
    run("ip", "addr", "add", "192.168.1.7/24", "dev", "va")
    run("ip", "addr", "add", "fd77::7/64", "dev", "va", "nodad")
    run("ip", "route", "add", "default", "via", "192.168.1.254")
    run("ip", "tuntap", "add", "dev", "qg0", "mode", "tun")


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_a_peer_inside_a_prefix_that_the_lan_has_too_is_reached_by_the_tunnel() -> None:
    made = interface(("192.168.1.1/24", "fd77::1/64"), "192.168.1.2/32", "fd77::2/128")
    asyncio.run(made.up())
    assert {way("192.168.1.2"), way("fd77::2")} == {"qg0"}
    assert {way("192.168.1.3"), way("fd77::3")} == {"va"}
    assert missing(made) == []


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_a_connected_prefix_that_the_lan_has_too_is_told_until_it_is_gone() -> None:
    made = interface(("192.168.1.1/24", "fd77::1/64"), "192.168.1.0/24", "fd77::/64")
    asyncio.run(made.up())
    assert {way("192.168.1.2"), way("fd77::2")} == {"va"}
    assert missing(made) == [other("192.168.1.0/24"), other("fd77::/64")]
    asyncio.run(made.put_back())
    assert missing(made) == [other("192.168.1.0/24"), other("fd77::/64")]
    run("ip", "addr", "flush", "dev", "va")
    assert {way("192.168.1.2"), way("fd77::2")} == {"qg0"}
    assert missing(made) == []


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_a_rule_that_leads_past_the_tunnel_is_told() -> None:
    made = interface(("10.77.0.1/24",), "0.0.0.0/0", "fd08::/32")
    asyncio.run(made.up())
    assert missing(made) == []
    run("ip", "route", "add", "default", "dev", "va", "table", "100")
    run("ip", "-6", "route", "add", "default", "dev", "va", "table", "100")
    run("ip", "rule", "add", "lookup", "100", "pref", "100")
    run("ip", "-6", "rule", "add", "lookup", "100", "pref", "100")
    assert way("8.8.8.8") == "va"
    prefixes = ("0.0.0.0/1", "128.0.0.0/1", "fd08::/32", "10.77.0.0/24")
    assert missing(made) == [other(prefix) for prefix in prefixes]


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_what_the_host_has_more_specifically_and_its_own_addresses_are_no_fault() -> None:
    run("ip", "route", "add", "10.8.0.0/24", "dev", "va")
    run("ip", "route", "add", "unreachable", "10.9.0.0/24")
    run("ip", "addr", "add", "10.10.0.1/32", "dev", "va")
    made = interface(
        ("10.77.0.1/24", "fd78::1/64"),
        "0.0.0.0/0", "::/0", "10.8.0.0/16", "10.9.0.0/16", "10.10.0.0/30", "10.10.0.1/32", "fd77::/32", "ff00::/8",
    )  # fmt: skip
    asyncio.run(made.up())
    assert missing(made) == []


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_of_many_prefixes_all_are_asked_first_then_some_at_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "PER_LOOK", 2)
    prefixes = [f"10.8.{number}.0/24" for number in range(5)]
    made = interface(("10.77.0.1/24",), *prefixes)
    run("ip", "route", "add", "10.8.4.0/24", "dev", "va", "table", "100")
    run("ip", "rule", "add", "lookup", "100", "pref", "100")
    asyncio.run(made.up())
    assert missing(made) == [other("10.8.4.0/24")]
    run("ip", "route", "add", "10.8.3.0/24", "dev", "va", "table", "100")
    looks = [missing(made) for _ in range(3)]
    assert looks[0] == [other("10.8.4.0/24")], "not asked yet, and what is known stays"
    assert looks[-1] == [other("10.8.4.0/24"), other("10.8.3.0/24")]
    run("ip", "rule", "del", "pref", "100")
    assert missing(made) == []
