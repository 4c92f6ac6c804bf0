"""IPv4 and IPv6 outside, at the usual MTU and on jumbo links, with ourselves and with wireguard-go."""

from __future__ import annotations

import json

import pytest

from tests.conformance.observe import counted
from tests.support.netns import Namespace, wait_until
from tests.wireguard.gateways import Gateway, tcp

pytestmark = pytest.mark.root

OVERHEAD = 80
"""IPv6 and UDP headers and those of a data message; what wg-quick leaves free."""


def udp(sender: Gateway, receiver: Gateway, version: int, size: int) -> None:
    """Datagrams of ``size`` bytes at a rate that no loss is excused by; all arrive."""
    server = receiver.host.start("iperf3", "-s", "-1", "--forceflush")
    assert server.stdout is not None
    for line in server.stdout:
        if "listening" in line:
            break
    command = ("iperf3", "-J", "-u", "-c", receiver.inner(version), "-l", str(size), "-n", str(100 * size), "-b", "2M")
    report = json.loads(sender.host.run(*command).stdout)
    assert report["end"]["sum"]["lost_packets"] == 0
    assert report["end"]["sum"]["packets"] == 100


@pytest.mark.parametrize(
    ("program", "outer", "mtu"),
    [
        ("qtunnel", 4, 1500),
        ("qtunnel", 6, 1500),
        ("qtunnel", 4, 9000),
        ("qtunnel", 6, 9000),
        ("qtunnel", 4, 65000),
        ("wireguard-go", 4, 1500),
        ("wireguard-go", 6, 9000),
    ],
)
def test_traffic(hosts: tuple[Namespace, Namespace], program: str, outer: int, mtu: int) -> None:
    for host in hosts:
        host.ip("link", "set", "eth0", "mtu", str(mtu))
    ours, theirs = Gateway(hosts[0], 0), Gateway(hosts[1], 1, program=program)
    try:
        for gateway in (ours, theirs):
            gateway.host.ip("link", "set", gateway.interface, "mtu", str(mtu - OVERHEAD))
        theirs.meet(ours, outer=outer)
        ours.meet(theirs, outer=outer)
        largest = mtu - OVERHEAD - 20 - 8
        ours.host.run("ping", "-c", "2", "-i", "0.1", "-W", "5", "-M", "do", "-s", str(largest), theirs.inner(4))
        theirs.host.run("ping", "-c", "2", "-i", "0.1", "-W", "5", "-M", "do", "-s", str(largest), ours.inner(4))
        tcp(ours, theirs, 4, 3_000_000)
        tcp(theirs, ours, 6, 3_000_000)
        udp(ours, theirs, 6, 1000)

        def nothing_lost_outside() -> bool:
            (sent, received), (their_sent, their_received) = counted(ours), counted(theirs)
            # wireguard-go's receive buffer is small
            return received == their_sent and (sent == their_received or program == "wireguard-go")

        wait_until(nothing_lost_outside, "the counters agree, once the last connection is closed")
    finally:
        ours.close()
        theirs.close()


def test_a_large_packet_over_a_small_link_is_fragmented_outside(gateways: tuple[Gateway, Gateway]) -> None:
    """An inner MTU too large for the link costs fragments, not the connection."""
    left, right = gateways
    for gateway in gateways:
        gateway.host.ip("link", "set", gateway.interface, "mtu", "1500")
    right.meet(left)
    left.meet(right)
    left.host.run("ping", "-c", "2", "-i", "0.1", "-W", "5", "-M", "do", "-s", "1472", right.inner(4))
    tcp(left, right, 4, 1_000_000)


@pytest.mark.parametrize("program", ["qtunnel", "wireguard-go"])
def test_exact_transfer_counters(hosts: tuple[Namespace, Namespace], program: str) -> None:
    """Ten pings: an initiation of 148 bytes, a response of 92, packets of 84 padded to 96 and 32 around each.

    The initiator may send a keepalive of 32 to confirm the session, where its first packet does not.
    """
    ours, theirs = Gateway(hosts[0], 0), Gateway(hosts[1], 1, program=program)
    try:
        for initiator, responder in ((ours, theirs), (theirs, ours)):
            for gateway in (ours, theirs):
                gateway.set("replace_peers=true")
                gateway.host.ip("addr", "flush", "dev", gateway.interface)
                gateway.host.ip("link", "set", gateway.interface, "down")
            responder.meet(initiator)
            initiator.meet(responder)
            initiator.ping(responder, count=10)
            sent, received = counted(initiator)
            assert sent in (148 + 10 * 128, 148 + 10 * 128 + 32)
            assert received == 92 + 10 * 128
            assert counted(responder) == (received, sent)
    finally:
        ours.close()
        theirs.close()
