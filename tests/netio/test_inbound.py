"""What goes to a TUN that cannot do all: of a kernel before 6.2, or one that refuses super-packets of some sizes or
altogether, of which there is none here."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qtunnel.netio import inbound as inbound_module
from qtunnel.netio.inbound import Inbound
from qtunnel.netio.receive import Burst
from qtunnel.netio.refusals import JUDGED, TOO_MANY
from qtunnel.netio.routes import Routes
from qtunnel.netio.udp import UdpPort
from qtunnel.offload import vnet
from qtunnel.offload.chunk import chunk
from qtunnel.wireguard.messages import TYPE_DATA
from qtunnel.wireguard.runs import OpenedRun
from qtunnel.workers.messages import Kind, Task
from tests.netio import refused_by_tun
from tests.offload import reference
from tests.offload.reference import TCP, UDP, Packet
from tests.offload.strategies import content
from tests.support.netns import namespaces
from tests.wireguard.world import End, connected

ROOT = Path(__file__).parents[2]


@dataclass
class PipeTun:
    """What is written can be read at the other end, packet by packet."""

    fd: int
    segments: bool = True
    udp_segments: bool = False


@dataclass
class Kernel:
    """A TUN whose kernel refuses what ``refuses`` says, by vnet header and length; what it took, and how often it
    refused."""

    monkeypatch: pytest.MonkeyPatch
    udp_segments: bool = True
    farm: Any = None
    refuses: Callable[[vnet.VnetHeader, int], bool] = lambda header, length: bool(header.gso_type)
    refused: int = 0
    taken: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sockets = ours, theirs
        theirs.setblocking(False)
        really = os.writev

        def writev(descriptor: int, buffers: Sequence[Any]) -> int:
            whole = b"".join(buffers)
            if descriptor == ours.fileno() and self.refuses(vnet.parse(whole, 0, len(whole)), len(whole) - vnet.SIZE):
                self.refused += 1
                raise OSError(errno.EINVAL, "Invalid argument")
            written = really(descriptor, buffers)
            self.taken.append(theirs.recv(70_000))
            return written

        self.monkeypatch.setattr(os, "writev", writev)
        _, self.alice, self.bob = connected()
        tun: Any = PipeTun(ours.fileno(), udp_segments=self.udp_segments)
        self.inbound = Inbound(tun, self.bob.device, UdpPort(Routes(), segments=False), self.farm)

    def close(self) -> None:
        for end in self.sockets:
            end.close()

    def burst(self, packets: list[bytes]) -> None:
        """Packets of alice's that came in one burst."""
        stride = max(map(len, packets)) + 15 & ~15
        for row, packet in enumerate(packets):
            self.inbound._opener.buffer[row * stride : row * stride + len(packet)] = packet
        self.inbound._write_run(OpenedRun(self.bob.peer(self.alice), stride, list(map(len, packets))))

    def record(self, *items: bytes) -> None:
        """Items of alice's that came in one record."""
        self.inbound._deliver(self.bob.peer(self.alice), [memoryview(bytearray(item)) for item in items])

    @property
    def packets(self) -> list[bytes]:
        """What was taken, cut and with checksums finished, as the kernel does it."""
        return [packet for written in self.taken for packet in finished(written)]

    def bulk(self, number: int, segments: int, protocol: int = TCP, size: int = 1368, tail: int = 0) -> Packet:
        """A flow of its own, so that nothing goes together with what was before."""
        return Packet(
            version=4,
            protocol=protocol,
            payload=content(segments * size + tail, number),
            flags=0x10,
            ports=(number, 80),
            source=_packed(self.alice),
            destination=_packed(self.bob),
        )


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel(monkeypatch)
    yield made
    made.close()


def finished(written: bytes) -> list[bytes]:
    """The packets of one write."""
    header = vnet.parse(written, 0, len(written))
    body = written[vnet.SIZE :]
    if not header.flags & vnet.NEEDS_CSUM:
        return [body]
    pieces = [body]
    if header.gso_type:
        copy = bytearray(written)
        pieces = [bytes(piece[vnet.SIZE :]) for piece in chunk(copy, 0, len(copy), 1, bytearray(1 << 18))]
    at = header.csum_start + header.csum_offset
    done = []
    for piece in pieces:
        check = reference.internet_checksum(piece[header.csum_start :])
        if header.csum_offset == 6:
            check = check or 0xFFFF
        done.append(piece[:at] + check.to_bytes(2, "big") + piece[at + 2 :])
    return done


def test_a_udp_super_packet_in_a_record_is_cut_where_the_kernel_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, udp_segments=False)
    packet = kernel.bulk(1, 2, UDP, size=1000, tail=500)
    kernel.record(packet.super_packet(1000, 0))
    assert [vnet.parse(written, 0, len(written)).gso_type for written in kernel.taken] == [vnet.GSO_NONE] * 3
    assert kernel.packets == reference.split(packet, 1000)
    assert kernel.refused == 0
    kernel.close()


def test_a_kernel_that_refuses_all_super_packets_gets_packets(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    """All arrive, in their order; and what is refused again and again is not tried for ever."""
    expected = []
    with caplog.at_level(logging.WARNING, inbound_module.__name__):
        for number in range(TOO_MANY + 5):
            packets = reference.split(kernel.bulk(number, 9), 1368)
            kernel.burst(packets)
            expected += packets
    assert kernel.packets == expected
    assert kernel.refused == TOO_MANY
    assert [record.getMessage().count("all packets go one by one") for record in caplog.records] == [1]
    assert not kernel.inbound.errors
    assert not kernel.bob.device.drops


def test_records_to_such_a_kernel(kernel: Kernel) -> None:
    """Pieces of a super-packet are joined again, until the kernel has refused that too often; then nothing goes there
    that it would refuse."""
    expected = []
    for number in range(TOO_MANY + 5):
        packet = kernel.bulk(number, 9)
        whole = bytearray(packet.super_packet(1368, 0))
        kernel.record(*map(bytes, chunk(whole, 0, len(whole), 3, bytearray(1 << 17))))
        expected += reference.split(packet, 1368)
    assert kernel.packets == expected
    assert kernel.refused == TOO_MANY
    assert not kernel.inbound.errors


def test_a_kernel_that_refuses_some_sizes_goes_on_getting_super_packets(kernel: Kernel) -> None:
    """As Linux 6.6.44, where what is left over a multiple of the segment is no longer than the headers."""
    kernel.refuses = lambda header, length: bool(header.gso_type) and length % header.gso_size <= 40
    expected = []
    for number in range(8 * JUDGED):
        packets = reference.split(kernel.bulk(number, 4, size=200, tail=0 if number % 4 == 0 else 100), 200)
        kernel.burst(packets)
        expected += packets
    assert kernel.packets == expected
    assert kernel.refused == 2 * JUDGED
    assert len(kernel.taken) == 2 * JUDGED * 4 + 6 * JUDGED


def test_of_udp_alone_is_given_up_first(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    kernel.refuses = lambda header, length: header.gso_type == vnet.GSO_UDP_L4
    expected = []
    with caplog.at_level(logging.WARNING, inbound_module.__name__):
        for number in range(TOO_MANY + 5):
            for protocol in (UDP, TCP):
                packets = reference.split(kernel.bulk(number, 5, protocol), 1368)
                kernel.burst(packets)
                expected += packets
        udp = kernel.bulk(1, 5, UDP)
        kernel.record(udp.super_packet(1368, 0))
        expected += reference.split(udp, 1368)
    assert kernel.packets == expected
    assert kernel.refused == TOO_MANY
    assert len(kernel.taken) == (TOO_MANY + 5) * (5 + 1) + 5
    assert [record.getMessage().count("UDP packets go one by one") for record in caplog.records] == [1]


def test_what_a_peer_makes_up_is_cut_and_says_nothing_of_the_kernel(kernel: Kernel) -> None:
    """Also one of a single segment, which is no smaller when it is cut."""
    single, several = kernel.bulk(1, 1), kernel.bulk(2, 3)
    refused = (single, several)
    kernel.refuses = lambda header, length: bool(header.gso_type) and length in map(len, (p.pack() for p in refused))
    expected = []
    for _ in range(JUDGED):
        for packet in refused:
            kernel.record(packet.super_packet(1368, 0))
            expected += reference.split(packet, 1368)
    assert kernel.packets == expected
    assert kernel.refused == 2 * JUDGED
    good = reference.split(kernel.bulk(3, 20), 1368)
    kernel.burst(good)
    assert len(kernel.taken) == 4 * JUDGED + 1, "in one piece"
    assert kernel.packets == expected + good


class Slow:
    """In the place of workers: takes every task, and is done with it when the test says so."""

    has_room = True

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def submit(self, task: Task, data: memoryview) -> Any:
        self.jobs.append(SimpleNamespace(result=None))
        return self.jobs[-1]

    def release(self, job: Any) -> None:
        self.jobs.remove(job)


def test_what_waits_for_a_worker_keeps_its_order_when_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Slow()
    kernel = Kernel(monkeypatch, farm=farm)
    order = kernel.inbound._order
    assert order is not None
    assert order.hand_out(Task(Kind.OPEN_RUN), memoryview(b""), lambda job, now: None)
    packets = [reference.split(kernel.bulk(number, 3), 1368) for number in range(4)]
    for burst in packets:
        kernel.burst(burst)
    assert kernel.taken == []
    farm.jobs[0].result = True
    kernel.inbound.go_on(0)
    assert kernel.packets == [packet for burst in packets for packet in burst]
    assert kernel.refused == 4
    kernel.close()


def test_workers_put_nothing_together_for_a_kernel_that_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Slow()
    kernel = Kernel(monkeypatch, farm=farm)
    (index,) = kernel.bob.device.state.sessions
    message = bytes((TYPE_DATA, 0, 0, 0)) + index.to_bytes(4, "little") + bytes(1392)
    kernel.inbound._receiver.buffer.view[: 20 * 1400] = message * 20
    burst = Burst(0, 20 * 1400, 1400, kernel.alice.endpoint)
    now = kernel.alice.world.now
    kernel.inbound._take(burst, now)
    assert len(farm.jobs) == 1
    assert kernel.inbound._order is not None
    kernel.inbound._order._waiting.clear()
    for number in range(TOO_MANY):
        kernel.burst(reference.split(kernel.bulk(number, 2), 1368))
    kernel.inbound._take(burst, now)
    assert len(farm.jobs) == 1, "nothing more"
    kernel.close()


def test_a_refusal_of_a_packet_is_counted(kernel: Kernel) -> None:
    kernel.refuses = lambda header, length: True
    kernel.burst(reference.split(kernel.bulk(1, 3), 1368))
    assert kernel.inbound.errors == {"tun-EINVAL": 3}


@pytest.mark.root
def test_a_real_kernel_that_refuses_a_peers_super_packet_gets_its_packets() -> None:
    with namespaces(1) as (host,):
        told = host.run(sys.executable, "-m", refused_by_tun.__name__, cwd=ROOT).stdout
    assert told.splitlines() == ["the kernel: EINVAL", f"arrived: {refused_by_tun.SEGMENTS} True", "lost: {} {}"]


def _packed(end: End) -> bytes:
    return socket.inet_aton(end.inner)
