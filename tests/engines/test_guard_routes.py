"""No packet for the tunnel leaves in the clear while its interface is gone."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from qtunnel.engines.interface import Interface, InterfaceConfig, guard_metric_of, plan_guards
from tests.engines.namespaces import Namespace, run

ALLOWED = ("10.77.0.2/32", "10.8.0.0/16", "0.0.0.0/0", "fd77::2/128", "fd08::/32")
CONFIG = InterfaceConfig(
    "qg0",
    (ip_interface("10.77.0.1/24"), ip_interface("fd77::1/64")),
    allowed_ips=tuple(map(ip_network, ALLOWED)),
    guard_metric=guard_metric_of(51820),
)
TARGETS = ("10.77.0.2", "10.8.1.1", "198.51.100.1", "203.0.113.9", "fd77::2", "fd08::1")


def way(target: str, *more: str) -> str:
    """The device that a packet to ``target`` leaves by; ``unreachable`` where the kernel refuses it."""
    done = subprocess.run(["ip", "route", "get", target, *more], capture_output=True, text=True, check=False)
    if done.returncode:
        assert "unreachable" in done.stderr.lower() or "no route" in done.stderr.lower(), done.stderr
        return "unreachable"
    words = done.stdout.split()
    return "unreachable" if words[0] == "unreachable" else words[words.index("dev") + 1]


def guards(wireguard_port: int = 51820) -> set[str]:
    lines = (run("ip", "-4", "route", "show", "type", "unreachable") or "").splitlines()
    lines += (run("ip", "-6", "route", "show", "type", "unreachable") or "").splitlines()
    return {line.split()[1] for line in lines if str(guard_metric_of(wireguard_port)) in line}


@pytest.fixture
def host(namespace: Namespace) -> None:
    """A host with default routes elsewhere, and a TUN that plays the engine's."""
    run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
    for device in ("va", "vb"):
        run("ip", "link", "set", device, "up")
    run("ip", "addr", "add", "192.0.2.1/24", "dev", "va")
    run("ip", "addr", "add", "2001:db8::1/64", "dev", "va", "nodad")
    run("ip", "route", "add", "default", "via", "192.0.2.2")
    run("ip", "-6", "route", "add", "default", "via", "2001:db8::2")
    run("ip", "tuntap", "add", "dev", "qg0", "mode", "tun")


def test_guards_have_the_prefixes_of_the_routes_that_they_stand_behind() -> None:
    found = list(map(str, plan_guards(CONFIG.addresses, CONFIG.allowed_ips)))
    assert found == [
        "10.77.0.2/32", "10.8.0.0/16", "0.0.0.0/1", "128.0.0.0/1", "fd77::2/128", "fd08::/32",
        "10.77.0.0/24", "fd77::/64",
    ]  # fmt: skip
    assert plan_guards(CONFIG.addresses, ()) == []


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_the_guards_hold_while_the_interface_is_gone_and_go_with_a_clean_end() -> None:
    assert {way(target) for target in TARGETS} == {"va"}
    interface = Interface(CONFIG)
    asyncio.run(interface.up())
    assert {way(target) for target in TARGETS} == {"qg0"}
    run("ip", "link", "del", "qg0")  # as when the engine dies
    assert {target: way(target) for target in TARGETS} == dict.fromkeys(TARGETS, "unreachable")
    run("ip", "tuntap", "add", "dev", "qg0", "mode", "tun")
    asyncio.run(interface.up())
    assert {way(target) for target in TARGETS} == {"qg0"}
    asyncio.run(interface.down())
    assert guards() == set()
    assert {way(target) for target in TARGETS} == {"va"}


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_guards_of_a_run_that_crashed_stay_until_a_clean_end() -> None:
    asyncio.run(Interface(CONFIG).up())
    run("ip", "link", "del", "qg0")
    run("ip", "tuntap", "add", "dev", "qg0", "mode", "tun")
    again = Interface(CONFIG)
    asyncio.run(again.up())
    asyncio.run(again.undo())  # a start that failed: they are not its own
    assert len(guards()) == 8
    asyncio.run(again.up())
    asyncio.run(again.down())
    assert guards() == set()


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_a_start_that_fails_takes_back_what_it_made() -> None:
    interface = Interface(CONFIG)
    asyncio.run(interface.up())
    asyncio.run(interface.undo())
    assert guards() == set()


@pytest.mark.root
@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("late", [False, True])
def test_no_route_of_the_host_to_the_same_prefix_wins(late: bool) -> None:
    interface = Interface(CONFIG)

    def add() -> None:
        for prefix in ("10.8.0.0/16", "fd08::/32"):
            run("ip", "route", "add", prefix, "dev", "va", "metric", "100")  # as network managers do

    if late:
        asyncio.run(interface.up())
        add()
    else:
        add()
        asyncio.run(interface.up())
    assert {way("10.8.1.1"), way("fd08::1")} == {"qg0"}
    assert asyncio.run(interface.missing()) == []
    asyncio.run(interface.down())
    assert {way("10.8.1.1"), way("fd08::1")} == {"va"}


@pytest.mark.root
@pytest.mark.usefixtures("host")
def test_a_clean_end_leaves_the_guards_of_a_neighbour_that_crashed() -> None:
    neighbour = replace(CONFIG, name="qg1", addresses=(), guard_metric=guard_metric_of(51821))
    run("ip", "tuntap", "add", "dev", "qg1", "mode", "tun")
    asyncio.run(Interface(neighbour).up())
    run("ip", "link", "del", "qg1")  # and the process with it
    theirs = guards(51821)
    interface = Interface(CONFIG)
    asyncio.run(interface.up())
    assert len(guards()) == 8
    asyncio.run(interface.down())
    assert guards() == set()
    assert guards(51821) == theirs
    assert {way("10.8.1.1"), way("fd08::1")} == {"unreachable"}


@pytest.mark.root
@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("routes", [True, False])
def test_a_start_takes_away_its_own_guards_of_prefixes_that_left_the_configuration(routes: bool) -> None:
    asyncio.run(Interface(CONFIG).up())
    run("ip", "link", "del", "qg0")
    run("ip", "tuntap", "add", "dev", "qg0", "mode", "tun")
    kept = ip_network("10.8.0.0/16")
    asyncio.run(Interface(replace(CONFIG, allowed_ips=(kept,), routes=routes)).up())
    assert guards() == ({"10.8.0.0/16"} if routes else set())
    assert {way("203.0.113.9"), way("fd08::1")} == {"va"}
