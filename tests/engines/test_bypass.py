"""Where the tunnel's own datagrams go, and that nothing else goes there; the kernel is asked."""

from __future__ import annotations

import asyncio
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest
from pyroute2 import AsyncIPRoute

from qtunnel.engines.bypass import mark_of
from qtunnel.engines.interface import Interface, InterfaceConfig
from qtunnel.engines.netlink import Route
from tests.engines.namespaces import Namespace, run
from tests.engines.test_guard_routes import way

MARK = mark_of(51820)
ADDRESSES = (ip_interface("10.77.0.1/24"), ip_interface("fd77::1/64"))
FAR = ("198.51.100.7", "2001:db8:9::7")
ON_LINK = ("192.0.2.9", "2001:db8::9")


def marked(target: str, mark: int = MARK) -> str:
    return way(target, "mark", str(mark))


def gateway(target: str) -> str | None:
    words = run("ip", "route", "get", target, "mark", str(MARK)).split()
    return words[words.index("via") + 1] if "via" in words else None


def interface(*allowed: str) -> Interface:
    return Interface(InterfaceConfig("qg0", ADDRESSES, allowed_ips=tuple(map(ip_network, allowed)), mark=MARK))


def state() -> list[str]:
    commands = (("rule",), ("-6", "rule"), ("route", "show", "table", "all"), ("-6", "route", "show", "table", "main"))
    return [run("ip", *command) for command in commands]


@pytest.fixture
def host(namespace: Namespace) -> None:
    """A host with default routes by ``va``, and a TUN that plays the engine's."""
    run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
    for device in ("va", "vb"):
        run("ip", "link", "set", device, "up")
    run("ip", "addr", "add", "192.0.2.1/24", "dev", "va")
    run("ip", "addr", "add", "2001:db8::1/64", "dev", "va", "nodad")
    run("ip", "route", "add", "default", "via", "192.0.2.254", "src", "192.0.2.1", "metric", "100")
    run("ip", "-6", "route", "add", "default", "via", "2001:db8::fe")
    run("ip", "tuntap", "add", "dev", "qg0", "mode", "tun")


def test_every_tunnel_of_a_host_has_a_mark_of_its_own() -> None:
    assert len({mark_of(port) for port in (1, 51820, 51821, 65535)}) == 4
    assert all(0 < mark_of(port) < 2**31 for port in (1, 65535))  # a group is a signed number to the kernel


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_only_what_is_marked_goes_around_and_where_the_host_would_send_it() -> None:
    made = interface("0.0.0.0/0", "::/0", "10.8.0.0/16")
    asyncio.run(made.up())
    for target in FAR:
        assert (way(target), marked(target)) == ("qg0", "va")
        assert marked(target, MARK + 1) == "qg0", "the mark of another tunnel"
    assert [gateway(target) for target in FAR] == ["192.0.2.254", "2001:db8::fe"]
    for target in ON_LINK:
        assert (way(target), marked(target), gateway(target)) == ("va", "va", None)
    assert marked("10.8.1.1") == "va"
    assert marked("10.77.0.2") == "va", "never into the tunnel"


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_a_hosts_more_specific_routes_and_those_that_only_some_of_the_tunnels_hide() -> None:
    run("ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.8")
    run("ip", "route", "add", "10.8.0.0/16", "via", "192.0.2.16", "metric", "50")
    run("ip", "route", "add", "10.8.9.0/24", "via", "192.0.2.24")
    run("ip", "route", "add", "198.51.100.0/24", "nexthop", "via", "192.0.2.2", "nexthop", "via", "192.0.2.3")
    run("ip", "route", "add", "203.0.113.0/24", "via", "172.31.1.1", "dev", "va", "onlink")
    asyncio.run(interface("10.8.0.0/16", "198.51.100.0/25", "203.0.113.7/32").up())
    assert (way("10.8.1.1"), gateway("10.8.1.1")) == ("qg0", "192.0.2.16")
    assert (way("10.8.9.1"), gateway("10.8.9.1")) == ("va", "192.0.2.24")
    assert (way("10.9.1.1"), gateway("10.9.1.1")) == ("va", "192.0.2.8")
    assert (way("198.51.100.1"), gateway("198.51.100.1")) == ("qg0", "192.0.2.2")
    assert (way("203.0.113.7"), gateway("203.0.113.7")) == ("qg0", "172.31.1.1")


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_without_another_way_it_goes_nowhere_and_never_into_the_tunnel() -> None:
    made = interface("0.0.0.0/0", "::/0")
    asyncio.run(made.up())
    run("ip", "route", "del", "default")
    run("ip", "-6", "route", "del", "default")
    asyncio.run(made.follow_routes())
    for target in FAR:
        assert (way(target), marked(target)) == ("qg0", "unreachable")


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_it_follows_the_hosts_routes_and_puts_its_rules_back() -> None:
    made = interface("0.0.0.0/0")
    asyncio.run(made.up())
    run("ip", "route", "replace", "default", "via", "192.0.2.253", "src", "192.0.2.1", "metric", "100")
    run("ip", "rule", "flush")  # as network managers do with rules that are not their own
    run("ip", "rule", "add", "lookup", "main", "pref", "32766")
    asyncio.run(made.follow_routes())
    assert gateway(FAR[0]) == "192.0.2.253"
    assert way(FAR[0]) == "qg0"


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_it_goes_with_the_interface_and_a_run_that_crashed_is_no_hindrance() -> None:
    before = state()
    asyncio.run(interface("0.0.0.0/0", "::/0").up())
    run("ip", "link", "del", "qg0")  # and the process with it
    run("ip", "tuntap", "add", "dev", "qg0", "mode", "tun")
    again = interface("0.0.0.0/0", "::/0")
    asyncio.run(again.up())
    assert marked(FAR[0]) == "va"
    asyncio.run(again.down())
    assert state() == before


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_a_strict_reverse_path_filter_is_told_with_the_remedy() -> None:
    switch = Path("/proc/sys/net/ipv4/conf/va/rp_filter")
    switch.write_text("1")
    made = interface("0.0.0.0/0")
    asyncio.run(made.up())
    assert len(made.warnings) == 1
    assert "sysctl -w net.ipv4.conf.va.rp_filter=2" in made.warnings[0]
    switch.write_text("2")
    asyncio.run(made.follow_routes())
    assert made.warnings == []


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_a_link_that_vanishes_while_the_way_around_is_made_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = interface("0.0.0.0/0")
    hidden = made._bypass._hidden

    async def told_and_then_gone(netlink: AsyncIPRoute, index: int, version: int) -> set[Route]:
        found = await hidden(netlink, index, version)
        run("ip", "link", "del", "va")
        return found

    monkeypatch.setattr(made._bypass, "_hidden", told_and_then_gone)
    asyncio.run(made.up())
    assert made.warnings == []


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_a_group_that_somebody_reset_is_named_and_put_back() -> None:
    made = interface("0.0.0.0/0")
    asyncio.run(made.up())
    assert asyncio.run(made.missing()) == []
    run("ip", "link", "set", "qg0", "group", "default")
    run("ip", "route", "del", "default")
    assert marked(FAR[0]) == "qg0", "into itself"
    assert asyncio.run(made.missing()) == ["its group, which keeps the tunnel's own datagrams out of it"]
    asyncio.run(made.put_back())
    assert asyncio.run(made.missing()) == []
    assert marked(FAR[0]) == "unreachable"
