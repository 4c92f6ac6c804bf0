"""The interface's set-up, read back from the kernel with ``ip -j``."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2 import AsyncIPRoute

from qtunnel.engines.base import IPNetwork
from qtunnel.engines.interface import WORST_METRIC, Interface, InterfaceConfig, plan_routes
from qtunnel.errors import InterfaceError
from tests.engines.namespaces import Namespace, run

ADDRESSES = (ip_interface("10.77.0.1/24"), ip_interface("fd77::1/64"))


def tun(name: str) -> None:
    run("ip", "tuntap", "add", "dev", name, "mode", "tun")


def ip(*command: str) -> list[dict[str, Any]]:
    parsed: list[dict[str, Any]] = json.loads(run("ip", "-j", *command) or "[]")
    return parsed


def routes(device: str) -> set[str]:
    return {
        route["dst"]
        for family in ("-4", "-6")
        for route in ip(family, "route", "show", "dev", device)
        if route.get("protocol") == "static"
    }


def config(name: str, *allowed: str, **options: Any) -> InterfaceConfig:
    return InterfaceConfig(name, ADDRESSES, allowed_ips=tuple(map(ip_network, allowed)), **options)


def up(interface: Interface) -> None:
    asyncio.run(interface.up())


def test_a_default_route_becomes_two_halves() -> None:
    planned = plan_routes((), (ip_network("0.0.0.0/0"), ip_network("::/0")))
    assert list(map(str, planned)) == ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]


def test_the_own_prefix_and_repetitions_need_no_route() -> None:
    allowed = [ip_network(text) for text in ("10.77.0.0/24", "10.77.0.2/32", "fd77::2/128", "10.8.0.0/16")]
    planned = plan_routes(ADDRESSES, [*allowed, *allowed, ip_network("10.0.0.0/8")])
    assert list(map(str, planned)) == ["10.77.0.2/32", "fd77::2/128", "10.8.0.0/16", "10.0.0.0/8"]


networks4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda t: IPv4Network(t, strict=False))
networks6 = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda t: IPv6Network(t, strict=False))


@given(st.lists(networks4 | networks6, max_size=8), st.data())
def test_every_allowed_address_is_routed_and_no_other(allowed: list[IPNetwork], data: st.DataObject) -> None:
    planned = plan_routes(ADDRESSES, allowed)
    covered = [*planned, *(address.network for address in ADDRESSES)]
    for network in allowed:
        offset = data.draw(st.integers(0, network.num_addresses - 1))
        assert any(network[offset] in part for part in covered)
    for part in planned:
        assert any(part[0] in network and part[-1] in network for network in allowed)
        assert part.prefixlen > 0


@pytest.mark.root
def test_up_sets_everything_and_down_takes_it_away(namespace: Namespace, interface: str) -> None:
    tun(interface)
    made = Interface(config(interface, "10.77.0.2/32", "10.8.0.0/16", "fd08::/32", mtu=1380))
    up(made)
    link = ip("link", "show", interface)[0]
    assert "UP" in link["flags"]
    assert (link["mtu"], link["txqlen"]) == (1380, 1000)
    found = {
        (a["local"], a["prefixlen"]) for a in ip("addr", "show", interface)[0]["addr_info"] if a["scope"] != "link"
    }
    assert found == {("10.77.0.1", 24), ("fd77::1", 64)}
    assert routes(interface) == {"10.77.0.2", "10.8.0.0/16", "fd08::/32"}
    up(made)  # again: nothing changes, nothing fails
    asyncio.run(made.down())
    assert "UP" not in ip("link", "show", interface)[0]["flags"]
    assert ip("addr", "show", interface)[0]["addr_info"] == []
    assert routes(interface) == set()
    asyncio.run(made.down())


@pytest.mark.root
def test_routes_off_leaves_the_routes_alone(namespace: Namespace, interface: str) -> None:
    tun(interface)
    up(Interface(config(interface, "10.8.0.0/16", routes=False)))
    assert routes(interface) == set()


@pytest.mark.root
def test_what_somebody_undid_is_named_and_put_back(namespace: Namespace, interface: str) -> None:
    tun(interface)
    made = Interface(config(interface, "10.77.0.2/32", "10.8.0.0/16", "fd08::/32"))
    up(made)
    assert asyncio.run(made.missing()) == []
    run("ip", "addr", "del", "10.77.0.1/24", "dev", interface)  # and the kernel drops the IPv4 routes with it
    run("ip", "-6", "route", "del", "unreachable", "fd08::/32", "metric", str(WORST_METRIC))
    assert asyncio.run(made.missing()) == [
        "address 10.77.0.1/24", "route to 10.77.0.2/32", "route to 10.8.0.0/16", "unreachable route behind fd08::/32",
    ]  # fmt: skip
    run("ip", "link", "set", interface, "down")
    assert "the link is down" in asyncio.run(made.missing())
    asyncio.run(made.put_back())
    assert asyncio.run(made.missing()) == []
    assert routes(interface) == {"10.77.0.2", "10.8.0.0/16", "fd08::/32"}


@pytest.mark.root
def test_one_lost_route_of_many_takes_no_dump_for_each(
    namespace: Namespace, interface: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tun(interface)
    made = Interface(config(interface, *(f"10.8.{number}.0/24" for number in range(40))))
    up(made)
    run("ip", "route", "del", "10.8.7.0/24", "dev", interface)
    dumps = 0
    ways = made._ways

    async def counted(netlink: AsyncIPRoute, index: int, version: int) -> set[IPNetwork]:
        nonlocal dumps
        dumps += 1
        return await ways(netlink, index, version)

    monkeypatch.setattr(made, "_ways", counted)
    asyncio.run(made.put_back())
    assert dumps == 1
    assert asyncio.run(made.missing()) == []


@pytest.mark.root
def test_an_interface_that_vanishes_during_the_look_is_gone(
    namespace: Namespace, interface: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tun(interface)
    made = Interface(config(interface, "10.8.0.0/16"))
    up(made)
    ours = made._ours

    async def found_and_then_gone(netlink: AsyncIPRoute) -> int | None:
        index = await ours(netlink)
        run("ip", "link", "del", interface)
        return index

    monkeypatch.setattr(made, "_ours", found_and_then_gone)
    assert asyncio.run(made.missing()) == []


@pytest.mark.root
def test_an_interface_that_took_the_name_over_is_nobody_of_ours(namespace: Namespace, interface: str) -> None:
    tun(interface)
    made = Interface(config(interface, "10.8.0.0/16"))
    up(made)
    run("ip", "link", "del", interface)
    run("ip", "link", "add", interface, "type", "veth", "peer", "name", "vb")
    run("ip", "addr", "add", "10.77.0.1/24", "dev", interface)
    run("ip", "link", "set", interface, "up")
    before = ip("addr", "show", interface), ip("route")
    assert asyncio.run(made.missing()) == []
    asyncio.run(made.put_back())
    assert (ip("addr", "show", interface), ip("route")) == before
    asyncio.run(made.down())
    assert ip("addr", "show", interface) == before[0]
    asyncio.run(Interface(config(interface, "10.8.0.0/16")).down())  # of a process that has made nothing
    assert ip("addr", "show", interface) == before[0]


@pytest.mark.root
def test_a_route_that_another_interface_has_is_told(namespace: Namespace, interface: str) -> None:
    tun("other0")
    run("ip", "link", "set", "other0", "up")
    run("ip", "route", "add", "10.8.0.0/16", "dev", "other0")
    tun(interface)
    with pytest.raises(InterfaceError, match=r"route to 10\.8\.0\.0/16: another interface has it"):
        up(Interface(config(interface, "10.8.0.0/16")))


@pytest.mark.root
def test_an_interface_that_is_not_there_is_told(namespace: Namespace, interface: str) -> None:
    made = Interface(config(interface))
    with pytest.raises(InterfaceError, match="does not exist"):
        up(made)
    asyncio.run(made.down())


@pytest.mark.root
def test_ipv6_switched_off_is_told(namespace: Namespace, interface: str) -> None:
    tun(interface)
    Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").write_text("1")
    with pytest.raises(InterfaceError, match="fd77::1/64: refused; for an IPv6 address: IPv6 is disabled"):
        up(Interface(config(interface)))


@pytest.mark.root
def test_without_the_capability_it_says_so(namespace: Namespace, interface: str) -> None:
    tun(interface)
    code = (
        "import asyncio\n"
        "from qtunnel.engines.interface import Interface, InterfaceConfig\n"
        "from qtunnel.errors import InterfaceError\n"
        "try:\n"
        f"    asyncio.run(Interface(InterfaceConfig({interface!r})).up())\n"
        "except InterfaceError as error:\n"
        "    print(error)\n"
    )
    # Still root, so that it can read its own code wherever that is, but without the one capability.
    command = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "no permission; needs CAP_NET_ADMIN" in done.stdout
    assert done.stdout.count("\n") == 1
