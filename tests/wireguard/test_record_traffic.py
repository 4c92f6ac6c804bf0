"""Record mode and segmentation offload with real interfaces: links that keep bursts, cut them, and lose datagrams."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtunnel.bench import stream
from qtunnel.wireguard.record_format import TYPE_RECORD
from qtunnel.wireguard.record_plain import Report
from tests.support.netns import Namespace, run, wait_until
from tests.wireguard.gateways import PORT, QTUNNEL, Gateway, active, meet_in_records, tcp

pytestmark = pytest.mark.root

SUITES = ["aes-256-gcm", "chacha20-poly1305"]
SIZE = 3_000_000


def nft(host: Namespace, command: str) -> str:
    return host.run("nft", *command.split(" ")).stdout


def lose(host: Namespace, percent: float) -> None:
    """Of the datagrams that arrive, some are lost at random."""
    share = round(percent * 1000)
    for rule in (
        "add table inet loss",
        "add chain inet loss input { type filter hook input priority 0; }",
        f"add rule inet loss input udp dport {PORT} numgen random mod 100000 < {share} drop",
    ):
        nft(host, rule)


@contextlib.contextmanager
def counted(host: Namespace) -> Iterator[dict[int, int]]:
    """Datagrams that left for WireGuard's port meanwhile, by the type of their message."""
    types = {4: 0, TYPE_RECORD: 0}
    nft(host, "add table inet count")
    nft(host, "add chain inet count output { type filter hook output priority 0; }")
    for kind in types:
        nft(host, f"add rule inet count output udp dport {PORT} @th,64,8 {kind} counter")
    yield types
    lines = [line for line in nft(host, "list table inet count").splitlines() if "packets" in line]
    for kind, line in zip(types, lines, strict=True):
        types[kind] = int(line.partition("packets ")[2].partition(" ")[0])
    nft(host, "delete table inet count")


def cut_bursts(*gateways: Gateway) -> None:
    for gateway in gateways:
        run("ip", "netns", "exec", gateway.host.name, "ethtool", "-K", "eth0", "tx-udp-segmentation", "off")


@pytest.mark.parametrize("link", ["bursts", "datagrams"])
@pytest.mark.parametrize("suite", SUITES)
def test_everything_goes_in_records(gateways: tuple[Gateway, Gateway], suite: str, link: str) -> None:
    left, right = gateways
    if link == "datagrams":
        cut_bursts(left, right)
    meet_in_records(left, right, suite)
    with counted(left.host) as types:
        for version in (4, 6):
            left.ping(right, version)
            tcp(left, right, version, SIZE)
            tcp(right, left, version, SIZE)
    assert types[4] == 0
    assert types[TYPE_RECORD] > 10
    drops = left.close()
    assert "bad-tag" not in drops


@pytest.mark.parametrize("loss", [0.1, 5])
def test_a_link_that_loses_datagrams(gateways: tuple[Gateway, Gateway], loss: float) -> None:
    left, right = gateways
    cut_bursts(left, right)
    meet_in_records(left, right, SUITES[0])
    lose(right.host, loss)
    tcp(left, right, 4, SIZE)
    tcp(right, left, 6, SIZE)
    assert left.get("record_mode_state")[0] in ("active", "resting")


def lost(sender: Gateway, receiver: Gateway, rate: int, seconds: float) -> float:
    """Percent of a stream of numbered packets through the tunnel that never arrive, without what the TUN's queue drops
    where the engine gets too little of the processor."""
    dropped = -queue_drops(sender)
    start = time.monotonic() + 0.5
    arguments = map(str, (receiver.inner(4), 5300, 1300, start, start + seconds, rate))
    command = [sys.executable, "-I", "-S", stream.__file__]
    receive, send = [*command, "receive", *(words := list(arguments))], [*command, "send", *words]
    counting = receiver.host.start(*receive)
    assert counting.stdout is not None
    assert counting.stdout.readline() == "ready\n"
    sent: int = json.loads(sender.host.run(*send).stdout)["sent"]
    received: int = json.loads(counting.communicate(timeout=30)[0])["received"]
    dropped += queue_drops(sender)
    assert sent - dropped > rate * seconds / 2
    return 100 * (1 - received / (sent - dropped))


def queue_drops(gateway: Gateway) -> int:
    told = gateway.host.run("ip", "-json", "-stats", "link", "show", "dev", gateway.interface).stdout
    return int(json.loads(told)[0]["stats64"]["tx"]["dropped"])


@pytest.mark.parametrize("rate", [700, 1800])
def test_with_parity_packets_get_lost_less_often_than_datagrams(gateways: tuple[Gateway, Gateway], rate: int) -> None:
    """Packets one by one, as often as they may go twice, too; 1 % of the datagrams are lost."""
    left, right = gateways
    cut_bursts(left, right)
    meet_in_records(left, right, SUITES[0])
    lose(right.host, 1)
    lost(left, right, rate, 2.5)  # by now the loss is known
    with_parity = lost(left, right, rate, 5)
    assert active(left)
    for end, other in ((left, right), (right, left)):
        end.set(f"public_key={other.public.hex()}", "record_mode=off")
    standard = lost(left, right, rate, 5)
    assert 0.4 < standard < 2
    assert with_parity < 0.4


def test_packets_go_on_where_records_stop_getting_through(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    meet_in_records(left, right, SUITES[0])
    left.ping(right, 4, 20)
    nft(right.host, "add table inet deaf")
    nft(right.host, "add chain inet deaf input { type filter hook input priority 0; }")
    nft(right.host, f"add rule inet deaf input udp dport {PORT} @th,64,8 {TYPE_RECORD} drop")
    flood = left.host.start("ping", "-n", "-q", "-i", "0.05", "-c", "100", right.inner(4))
    wait_until(lambda: left.get("record_mode_state") == ["probing"], "the fallback")
    assert "no report of the peer" in left.get("record_mode_reason")[0]
    left.ping(right)
    nft(right.host, "delete table inet deaf")
    wait_until(lambda: active(left), "record mode again")
    flood.wait(timeout=30)
    assert "record mode falls back to standard: no report" in left.close()


def test_never_towards_a_peer_without_it(hosts: tuple[Namespace, Namespace]) -> None:
    ours, theirs = Gateway(hosts[0], 0), Gateway(hosts[1], 1, program="wireguard-go")
    theirs.meet(ours)
    ours.meet(theirs)
    ours.set(f"public_key={theirs.public.hex()}", "record_mode=aes-256-gcm", "drop_sessions=true")
    with counted(ours.host) as types:
        ours.ping(theirs)
        tcp(ours, theirs, 4, SIZE)
        tcp(theirs, ours, 6, SIZE)
    assert types[TYPE_RECORD] <= 10  # questions
    assert types[4] > 20  # a burst counts once
    assert ours.get("record_mode_state") == ["probing"]
    ours.close()
    theirs.close()


def test_switched_off_at_run_time(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    meet_in_records(left, right, SUITES[1])
    for end, other in ((left, right), (right, left)):
        end.set(f"public_key={other.public.hex()}", "record_mode=off")
    with counted(left.host) as types:
        tcp(left, right, 4, SIZE)
    assert types[TYPE_RECORD] == 0


def test_without_offload(hosts: tuple[Namespace, Namespace]) -> None:
    """No super-packets, no bursts; both modes work, also towards an end that has them."""
    plain, other = Gateway(hosts[0], 0, options=("--offload", "off")), Gateway(hosts[1], 1)
    other.meet(plain)
    plain.meet(other)
    plain.ping(other)
    for version in (4, 6):
        tcp(plain, other, version, SIZE // 4)
        tcp(other, plain, version, SIZE // 4)
    for end, peer in ((plain, other), (other, plain)):
        end.set(f"public_key={peer.public.hex()}", "record_mode=aes-256-gcm", "drop_sessions=true")
    plain.ping(other)
    wait_until(lambda: active(plain) and active(other), "record mode")
    tcp(plain, other, 4, SIZE // 4)
    tcp(other, plain, 6, SIZE // 4)
    assert "segmentation offload" not in plain.close()
    other.close()


@pytest.mark.parametrize("mtu", [1280, 1000, 8920])
def test_other_mtus(gateways: tuple[Gateway, Gateway], mtu: int) -> None:
    """Below 1,008 datagrams are too small for records; jumbo frames have large ones."""
    left, right = gateways
    for gateway in gateways:
        gateway.host.ip("link", "set", "eth0", "mtu", "9000")
        gateway.host.ip("link", "set", gateway.interface, "mtu", str(mtu))
    right.meet(left, versions=(4,))
    left.meet(right, versions=(4,))
    for end, other in ((left, right), (right, left)):
        end.set(f"public_key={other.public.hex()}", "record_mode=aes-256-gcm", "drop_sessions=true")
    left.ping(right)
    if mtu > 1008:
        wait_until(lambda: active(left) and active(right), "record mode")
    tcp(left, right, 4, SIZE)
    tcp(right, left, 4, SIZE)
    assert active(left) == (mtu > 1008)


def test_the_option_is_known() -> None:
    assert "--offload" in run(*QTUNNEL, "wg", "--help").stdout


INJECT = """
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
link.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 0x86DD))
"""


@pytest.mark.parametrize("claimed", [0, 2000])
def test_a_packet_whose_length_is_not_its_own_gets_into_no_record(
    gateways: tuple[Gateway, Gateway], claimed: int
) -> None:
    """What a packet claims to be longer or shorter would be taken for items of the engine's, or from other packets."""
    left, right = gateways
    meet_in_records(left, right, "aes-256-gcm")
    addresses = [ipaddress.ip_address(end.inner(6)).packed for end in (left, right)]
    report = Report(1 << 20, 1 << 20, 1, 1).pack()
    packet = b"\x60\0\0\0" + claimed.to_bytes(2, "big") + b"\0\x40" + b"".join(addresses) + report
    left.host.run(sys.executable, "-c", INJECT, left.interface, packet.hex())
    left.ping(right)
    assert active(left)
    assert active(right)
    assert "bad-inner-packet=1" in left.close()
    assert "bad-inner-packet" not in right.close()


def test_a_tunnel_inside_the_tunnel(gateways: tuple[Gateway, Gateway]) -> None:
    """The kernel leaves the checksum of TCP inside VXLAN to the TUN, which the outer headers know nothing of."""
    left, right = gateways
    meet_in_records(left, right, SUITES[0])
    for end, other in ((left, right), (right, left)):
        link = f"vxlan id 7 dstport 4789 local {end.inner(4)} remote {other.inner(4)} dev {end.interface}"
        end.host.run("ip", "link", "add", "overlay", "type", *link.split(" "))
        end.host.run("ip", "address", "add", f"10.78.0.{end.number}/24", "dev", "overlay")
        end.host.run("ip", "link", "set", "overlay", "up")
    script = str(Path(__file__).with_name("tcp_transfer.py"))
    server = right.host.start(sys.executable, script, "receive", "10.78.0.2", str(SIZE))
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    left.host.run(sys.executable, script, "send", "10.78.0.2", str(SIZE))
    assert server.communicate(timeout=30)[0] == "complete\n"
    assert active(left)
    assert "bad-inner-packet" not in right.close()


BROKEN = """
import sys
from qtunnel.cli.main import main
from qtunnel.wireguard.records import Records
Records.open_burst = lambda *_: [][1]
sys.argv = ["qtunnel", *sys.argv[1:]]
main()
"""


def test_a_defect_costs_what_met_it_and_no_tunnel(hosts: tuple[Namespace, Namespace]) -> None:
    left, right = (Gateway(host, index, wait=False, code=BROKEN) for index, host in enumerate(hosts))
    try:
        left.ready()
        right.ready()
        right.meet(left)
        left.meet(right)
        left.set(f"public_key={right.public.hex()}", "record_mode=aes-256-gcm", "drop_sessions=true")
        right.set(f"public_key={left.public.hex()}", "record_mode=aes-256-gcm", "drop_sessions=true")
        left.ping(right)  # questions come in records all the while
        tcp(left, right, 4, SIZE)
    finally:
        said = left.close()
        right.close()
    assert said.count("a defect of qtunnel: IndexError at") == 1
    assert "Traceback" not in said
    assert "defect=" in said
