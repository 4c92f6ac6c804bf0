"""What is asked of the kernel, and what its errors become; on real sockets."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2 import AsyncIPRoute

from qtunnel.engines.bypass import _containing
from qtunnel.engines.netlink import link, netlink_for, routes
from qtunnel.errors import InterfaceError
from tests.engines.namespaces import Namespace, run

HERE = Path(__file__).parents[2]
MANY = 300


@pytest.fixture
def host(namespace: Namespace, tmp_path: Path) -> None:
    """A host with many routes by ``va`` and one by ``vb``, of each IP version."""
    run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
    for device in ("va", "vb"):
        run("ip", "link", "set", device, "addrgenmode", "none", "up")
    lines = io.StringIO()
    for number in range(MANY):
        lines.write(f"route add 20.{number >> 8}.{number & 255}.0/24 dev va\n")
        lines.write(f"route add 2001:db8:{number:x}::/48 dev va\n")
    batch = tmp_path / "routes"
    batch.write_text(lines.getvalue())
    run("ip", "-batch", str(batch))
    for prefix in ("10.8.0.0/16", "fd08::/32"):
        run("ip", "route", "add", prefix, "dev", "vb")


def counted(netlink: AsyncIPRoute) -> list[Any]:
    """A list that every message goes into that the kernel sends."""
    seen: list[Any] = []
    parse = netlink.marshal.parse

    def spy(*arguments: Any, **options: Any) -> Iterator[Any]:
        for message in parse(*arguments, **options):
            seen.append(message)
            yield message

    netlink.marshal.parse = spy
    return seen


@pytest.mark.root
@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(("version", "prefix"), [(4, "10.8.0.0/16"), (6, "fd08::/32")])
def test_the_kernel_sends_only_the_routes_that_are_wanted(version: int, prefix: str) -> None:
    async def ask() -> None:
        async with netlink_for("qg0") as netlink:
            index = (await netlink.link_lookup(ifname="vb"))[0]
            seen = counted(netlink)
            found = await routes(netlink, version, oif=index)
            assert [route.network for route in found] == [ip_network(prefix)]
            assert 0 < len(seen) < MANY / 10
            assert len(await routes(netlink, version)) == MANY + 1

    asyncio.run(ask())


@pytest.mark.root
@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("version", [4, 6])
def test_a_table_or_an_interface_that_is_not_there_has_no_routes(version: int) -> None:
    async def ask() -> None:
        async with netlink_for("qg0") as netlink:
            assert await routes(netlink, version, table=77_777) == []
            assert await routes(netlink, version, oif=99_999) == []

    asyncio.run(ask())


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
def test_what_netlink_refuses_is_told_in_a_line_of_ours() -> None:
    async def ask() -> None:
        async with netlink_for("qg0") as netlink:
            await netlink.link("get", index=99_999)

    with pytest.raises(InterfaceError, match=r"interface qg0: netlink: the interface is gone"):
        asyncio.run(ask())


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
def test_a_link_that_is_gone_is_none() -> None:
    async def ask() -> None:
        async with netlink_for("qg0") as netlink:
            assert await link(netlink, "qg0", 99_999) is None
            found = await link(netlink, "qg0", 1)
            assert found is not None
            assert found.get("ifname") == "lo"

    asyncio.run(ask())


networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda t: IPv4Network(t, strict=False))


@given(st.lists(networks, max_size=6), networks, st.booleans())
def test_a_route_contains_a_prefix_as_ipaddress_says(
    prefixes: list[IPv4Network], route: IPv4Network, wide: bool
) -> None:
    if wide and prefixes:
        route = prefixes[0].supernet(new_prefix=min(route.prefixlen, prefixes[0].prefixlen))
    expected = any(prefix.subnet_of(route) for prefix in prefixes)
    assert _containing(prefixes)(int(route.network_address), route.prefixlen) == expected


SHORT = """
import asyncio, resource
from qtunnel.engines.netlink import link, netlink_for
from qtunnel.errors import InterfaceError

async def ask():
    async with netlink_for("qg0") as netlink:
        await link(netlink, "lo", 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    try:
        async with netlink_for("qg0") as netlink:
            await link(netlink, "lo", 1)
    except InterfaceError as error:
        print(error)

asyncio.run(ask())
"""


def test_without_a_descriptor_there_is_a_line_of_ours_too() -> None:
    """pyroute2 has no socket before something is asked."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT], cwd=HERE, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "interface qg0: netlink: too many open files\n"
