"""What a worker sealed goes out only while its session lasts."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from qtunnel.netio.outbound import Outbound
from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.limits import REJECT_AFTER_TIME
from qtunnel.wireguard.record_format import HEADER_SIZE, TAG_SIZE
from qtunnel.wireguard.record_plain import VNET_HEADER
from qtunnel.wireguard.state import Drop
from qtunnel.workers.messages import Kind, Task
from tests.wireguard.test_record_mode import agreed
from tests.wireguard.world import connected, ip_packet


class Sent:
    """In the place of the UDP port."""

    hops = 0

    def __init__(self) -> None:
        self.bursts: list[bytes] = []
        self.sizes: list[int] = []

    def send_burst(self, datagrams: memoryview, size: int, endpoint: Endpoint) -> None:
        self.bursts.append(bytes(datagrams))
        self.sizes.append(size)


class Taken:
    """In the place of workers: takes every task, and does nothing."""

    has_room = True

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def submit(self, task: Task, data: memoryview) -> Any:
        self.tasks.append(task)
        return SimpleNamespace(result=None)


@pytest.mark.parametrize("ends", [None, 60.0])
def test_a_session_that_has_ended_meanwhile_sends_nothing(ends: float | None) -> None:
    """By its age, or by the end of its key; no timer was looked at since."""
    world, alice, bob = connected()
    udp: Any = Sent()
    outbound = Outbound(SimpleNamespace(fd=-1), alice.device, udp)  # type: ignore[arg-type]  # nothing is read
    peer = alice.peer(bob)
    keypair = peer.keypairs.current
    assert keypair is not None
    if ends is not None:
        keypair.label.ends = world.now + ends
    over = world.now + (REJECT_AFTER_TIME if ends is None else ends)
    job: Any = SimpleNamespace(output=memoryview(bytes(250)), size=100)
    outbound._send_sealed(0, peer, keypair, job, over - 0.1)
    assert udp.bursts == [bytes(250)]
    before = peer.tx_bytes
    outbound._send_sealed(0, peer, keypair, job, over)
    assert udp.bursts == [bytes(250)]
    assert (peer.tx_bytes, alice.device.drops[Drop.EXPIRED]) == (before, 3)


def test_a_record_of_one_fragment_goes_out_twice_and_to_no_worker() -> None:
    """With parity and an MTU of that size, both datagrams are as large as the record, not as the MTU."""
    world, alice, bob = agreed()
    for end in (alice, bob):
        end.device.state.mtu = 34_736
    udp, farm = Sent(), Taken()
    outbound = Outbound(SimpleNamespace(fd=-1), alice.device, udp, farm)  # type: ignore[arg-type]
    peer = alice.peer(bob)
    peer.records.sizer.believe(0.01)
    for size in (20_000, 40_000):
        inner = ip_packet(alice.inner, bob.inner, bytes(size))
        item = bytes(VNET_HEADER) + inner
        outbound._arena[: len(item)] = item
        outbound._peer, outbound._start, outbound._end = peer, 0, len(item)
        outbound._flush(world.now)
    once = len(ip_packet(alice.inner, bob.inner, bytes(20_000))) + VNET_HEADER + TAG_SIZE + HEADER_SIZE
    assert udp.sizes == [once]
    assert [len(burst) for burst in udp.bursts] == [2 * once]
    for at in (0, once):  # the first of them is enough, and so is the second
        bob.receive(udp.bursts[0][at : at + once], alice.endpoint)
    assert bob.delivered == [ip_packet(alice.inner, bob.inner, bytes(20_000))]
    assert [task.kind for task in farm.tasks] == [Kind.SEAL_RECORD], "that of two fragments"


def test_what_was_read_before_a_packet_that_cannot_be_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    world, alice, bob = agreed()
    udp: Any = Sent()
    outbound = Outbound(SimpleNamespace(fd=-1), alice.device, udp)  # type: ignore[arg-type]
    packets = [ip_packet(alice.inner, bob.inner, bytes([number]) * 100) for number in range(3)]
    waiting = list(packets)

    def readv(descriptor: int, buffers: tuple[memoryview, ...]) -> int:
        if not waiting:
            raise OSError(errno.EINVAL, "Invalid argument")
        item = bytes(VNET_HEADER) + waiting.pop(0)
        buffers[0][: len(item)] = item
        return len(item)

    monkeypatch.setattr(os, "readv", readv)
    with pytest.raises(OSError, match="Invalid argument"):
        outbound.read(world.now)
    for burst, size in zip(udp.bursts, udp.sizes, strict=True):
        for at in range(0, len(burst), size):
            bob.receive(burst[at : at + size], alice.endpoint)
    assert bob.delivered == packets
