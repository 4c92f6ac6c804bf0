"""The kernel takes what splitting and coalescing make: transfers through two TUN devices, content checked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtunnel.offload import vnet
from tests.offload import udp_bursts
from tests.offload.bridge import Bridge, bridged
from tests.support.netns import Namespace, namespaces
from tests.wireguard import tcp_transfer

pytestmark = pytest.mark.root

TRANSFER = 20_000_000


@pytest.fixture(params=[0, 7], ids=["whole", "in chunks"])
def bridge(request: pytest.FixtureRequest, pair: list[Namespace]) -> Iterator[Bridge]:
    with bridged(pair, request.param) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[list[Namespace]]:
    with namespaces(2) as made:
        yield made


def transfer(pair: list[Namespace], program: Path, address: str, size: int) -> None:
    left, right = pair
    receiver = right.start(sys.executable, str(program), "receive", address, str(size))
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n"
    left.run(sys.executable, str(program), "send", address, str(size))
    assert receiver.stdout.readline() == "complete\n"


def tcp_errors(host: Namespace) -> int:
    """Segments that TCP found bad: InErrs and InCsumErrors."""
    lines = [line.split() for line in host.run("cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Tcp:")]
    counters = dict(zip(*lines, strict=True))
    return int(counters["InErrs"]) + int(counters["InCsumErrors"])


@pytest.mark.parametrize("address, gso_type", [("10.98.0.2", vnet.GSO_TCPV4), ("fd98::2", vnet.GSO_TCPV6)])
def test_tcp(pair: list[Namespace], bridge: Bridge, address: str, gso_type: int) -> None:
    transfer(pair, Path(tcp_transfer.__file__), address, TRANSFER)
    assert [tcp_errors(host) for host in pair] == [0, 0]
    assert bridge.seen[f"read {gso_type}"] > 100
    assert bridge.seen[f"written {gso_type}"] > 100
    assert bool(bridge.chunks) == bool(bridge.seen["chunked"])


@pytest.mark.parametrize("address", ["10.98.0.2", "fd98::2"])
def test_udp(pair: list[Namespace], bridge: Bridge, address: str) -> None:
    if not bridge.uso:
        pytest.skip("this kernel's TUN takes no UDP super-packets (Linux 6.2 does)")
    for size in (1200, 333):
        transfer(pair, Path(udp_bursts.__file__), address, size)
    assert bridge.seen[f"read {vnet.GSO_UDP_L4}"] >= udp_bursts.BURSTS
    assert bridge.seen[f"written {vnet.GSO_UDP_L4}"] >= udp_bursts.BURSTS
