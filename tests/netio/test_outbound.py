"""What a worker sealed goes out only while its session lasts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qtunnel.netio.outbound import Outbound
from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.limits import REJECT_AFTER_TIME
from qtunnel.wireguard.state import Drop
from tests.wireguard.world import connected


class Sent:
    """In the place of the UDP port."""

    hops = 0

    def __init__(self) -> None:
        self.bursts: list[bytes] = []

    def send_burst(self, datagrams: memoryview, size: int, endpoint: Endpoint) -> None:
        self.bursts.append(bytes(datagrams))


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
