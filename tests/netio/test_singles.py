"""Packets that came one by one: a real socket receives, in order, what sealing each alone would give."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from qtunnel.netio.routes import Routes
from qtunnel.netio.singles import Singles
from qtunnel.netio.udp import MAX_SEGMENTS, UdpPort, bind_pair
from qtunnel.wireguard.peer import Peer
from tests.wireguard.world import End, connected, ip_packet


class Way:
    """From alice's ``Singles`` through real sockets to bob's device."""

    def __init__(self, segments: bool) -> None:
        self.world, self.alice, self.bob = connected()
        self.routes = Routes()
        self.udp = UdpPort(self.routes, segments=segments)
        self.udp.replace(bind_pair(0, 0, bursts=False))
        self.to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.to.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.to.bind(("127.0.0.1", 0))
        self.to.setblocking(False)
        self.peer = self.alice.peer(self.bob)
        self.peer.endpoint = self.to.getsockname()
        self.singles = Singles(self.alice.device, self.send)

    def send(self, peer: Peer, datagrams: memoryview, size: int) -> None:
        assert peer.endpoint is not None
        self.udp.send_burst(datagrams, size, peer.endpoint)

    def add(self, packet: bytes) -> None:
        keypair = self.peer.keypairs.current
        assert keypair is not None
        self.singles.add(self.peer, keypair, memoryview(packet), len(packet), self.world.now)

    def datagrams(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.to.recv(70000))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.udp.close()
        self.to.close()
        self.routes.close()


@pytest.fixture(params=[True, False], ids=["segments", "no segments"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    made = Way(request.param)
    yield made
    made.close()


def packets(source: random.Random, alice: End, bob: End) -> list[bytes]:
    """Stretches of one size, of sizes that pad to the same, and of any size."""
    made = []
    for _ in range(30):
        size = source.choice((0, 3, 64, 500, 1392, 1400))
        for _ in range(source.choice((1, 1, 2, 5, MAX_SEGMENTS + 3))):
            step = source.choice((0, 0, 0, -1, 1, 40))
            made.append(ip_packet(alice.inner, bob.inner, source.randbytes(max(0, size + step))))
    return made


@pytest.mark.parametrize("seed", range(4))
def test_datagrams_are_those_of_packets_sealed_alone(way: Way, seed: int) -> None:
    source = random.Random(seed)
    world, alice, bob = connected()  # the same ends again, byte by byte: what is random comes from a seed
    expected, came = [], []
    for packet in packets(source, way.alice, way.bob):
        room = memoryview(bytearray(packet) + bytearray(16))
        datagram = alice.device.transport.seal(room, len(packet), world.now)
        assert datagram is not None
        expected.append(bytes(datagram[1]))
        way.add(packet)
        if source.random() < 0.05:
            way.singles.flush()
            came += way.datagrams()
            alone = packets(source, way.alice, way.bob)[0]
            room = memoryview(bytearray(alone) + bytearray(16))
            datagram = alice.device.transport.seal(room, len(alone), world.now)
            assert datagram is not None
            expected.append(bytes(datagram[1]))
            keypair = way.peer.keypairs.current
            assert keypair is not None
            room[len(alone) :] = b"x" * 16
            way.singles.send(way.peer, keypair, room, len(alone), way.world.now)
    way.singles.flush()
    way.singles.flush()
    came += way.datagrams()
    assert came == expected
    assert way.peer.tx_bytes == alice.peer(bob).tx_bytes


def test_packets_of_two_sessions_do_not_mix(way: Way) -> None:
    packet = ip_packet(way.alice.inner, way.bob.inner, bytes(100))
    way.add(packet)
    old, here = way.peer.keypairs.current, way.peer.endpoint
    way.peer.endpoint = way.bob.endpoint
    psk = f"preshared_key={'33' * 32}"
    way.world.advance(1)
    way.bob.set_peer(way.alice.public, psk)
    way.alice.set_peer(way.bob.public, psk, "handshake=now")
    way.world.settle()
    way.peer.endpoint = here
    assert way.peer.keypairs.current is not old
    way.add(packet)
    way.singles.flush()
    first, second = way.datagrams()
    assert first[4:8] != second[4:8]  # the receiver's index
    for datagram in (first, second):
        way.bob.receive(datagram, way.alice.endpoint)
    assert way.bob.delivered == [packet] * 2
