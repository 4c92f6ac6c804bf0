"""Sans-IO devices joined by a network that the test controls, under one fake clock."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable

from qtunnel.secret import Secret
from qtunnel.wireguard.configuration import UapiConversation
from qtunnel.wireguard.device import Device
from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.limits import PADDING
from qtunnel.wireguard.noise import KeyPair
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.record_burst import ReceiveBuffer
from qtunnel.wireguard.record_format import TYPE_RECORD
from qtunnel.wireguard.record_plain import VNET_HEADER
from qtunnel.wireguard.timers import NEVER

EPOCH_NS = 1_700_000_000 * 10**9


def ip_packet(source: str, destination: str, payload: bytes = b"payload") -> bytes:
    """An IPv4 or IPv6 packet as far as WireGuard looks at it: version, length and addresses."""
    src, dst = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
    if len(src) == 4:
        total = 20 + len(payload)
        return bytes([0x45, 0]) + total.to_bytes(2, "big") + bytes(5) + b"\x11" + bytes(2) + src + dst + payload
    return b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + b"\x11\x40" + src + dst + payload


class World:
    """Clock, randomness and the datagrams under way."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.ends: dict[Endpoint, End] = {}
        self.wire: list[tuple[Endpoint, Endpoint, bytes]] = []
        self.history: list[tuple[Endpoint, Endpoint, bytes]] = []
        self.lose: Callable[[Endpoint, Endpoint, bytes], bool] = lambda source, destination, data: False

    def end(self, endpoint: Endpoint, inner: str) -> End:
        made = End(self, endpoint, inner)
        self.ends[endpoint] = made
        return made

    def collect(self) -> None:
        """Put what the devices want to send on the wire."""
        for end in self.ends.values():
            for destination, data in end.device.outbox:
                self.history.append((end.endpoint, destination, data))
                if not self.lose(end.endpoint, destination, data):
                    self.wire.append((end.endpoint, destination, data))
            end.device.outbox.clear()

    def settle(self) -> None:
        """Carry datagrams until none is under way."""
        self.collect()
        while self.wire:
            source, destination, data = self.wire.pop(0)
            receiver = self.ends.get(destination)
            if receiver is not None:
                receiver.receive(data, source)
            self.collect()

    def advance(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        until = self.now + seconds
        while True:
            deadline = min((end.device.next_deadline() for end in self.ends.values()), default=NEVER)
            if deadline > until:
                break
            self.now = max(self.now, deadline)
            for end in self.ends.values():
                end.device.tick(self.now)
            self.settle()
        self.now = until


class End:
    """One device, its inner address and what it delivered to its TUN."""

    def __init__(self, world: World, endpoint: Endpoint, inner: str) -> None:
        self.world = world
        self.endpoint = endpoint
        self.inner = inner
        self.delivered: list[bytes] = []
        self.binds: list[tuple[int, int]] = []
        self.bind_error: OSError | None = None
        self.sessions: set[int] = set()
        self.device = Device(self)
        self.private = world.random.randbytes(32)
        self.set(f"private_key={self.private.hex()}", f"listen_port={endpoint[1]}")
        self.device.link_up(world.now)
        self.public = KeyPair.of(Secret(self.private)).public

    # What a device asks of its host

    def random_bytes(self, size: int) -> bytes:
        return self.world.random.randbytes(size)

    def unix_ns(self) -> int:
        return EPOCH_NS + int(self.world.now * 10**9)

    def bind(self, port: int, fwmark: int) -> int:
        if self.bind_error is not None:
            raise self.bind_error
        self.binds.append((port, fwmark))
        return port or 40_000 + len(self.binds)

    def scope_index(self, name: str) -> int:
        return {"eth0": 2}[name]

    # What a test does with it

    def session_began(
        self, index: int, keys: tuple[Secret, Secret], suite: str, record_keys: tuple[Secret, Secret] | None
    ) -> None:
        assert len(keys[0].reveal()) == len(keys[1].reveal()) == 32
        assert bool(suite) == (record_keys is not None)
        self.sessions.add(index)

    def session_ended(self, index: int) -> None:
        self.sessions.remove(index)

    def uapi(self, request: str) -> str:
        conversation = UapiConversation(self.device)
        answers = [b"".join(pieces) for pieces in conversation.feed(request.encode(), self.world.now)]
        last = conversation.end(self.world.now)
        return (b"".join(answers) + (b"".join(last) if last else b"")).decode()

    def set(self, *lines: str) -> None:
        answer = self.uapi("\n".join(["set=1", *lines]) + "\n\n")
        assert answer == "errno=0\n\n", answer

    def get(self) -> str:
        return self.uapi("get=1\n\n")

    def set_peer(self, peer: bytes, *lines: str) -> None:
        self.set(f"public_key={peer.hex()}", *lines)

    def meet(self, other: End, *lines: str, endpoint: bool = True) -> None:
        """Make ``other`` a peer that may use its inner address."""
        host = f"[{other.endpoint[0]}]" if len(other.endpoint) == 4 else other.endpoint[0]
        where = [f"endpoint={host}:{other.endpoint[1]}"] if endpoint else []
        self.set_peer(other.public, *where, f"allowed_ip={other.inner}", *lines)

    def peer(self, other: End) -> Peer:
        return self.device.state.peers[other.public]

    def send(self, packet: bytes) -> None:
        """A packet from this end's TUN."""
        buffer = memoryview(bytearray(packet) + bytearray(PADDING))
        before = len(self.device.outbox)
        datagram = self.device.transport.seal(buffer, len(packet), self.world.now)
        if datagram is not None:  # it goes out before what it gave rise to
            self.device.outbox.insert(before, (datagram[0], bytes(datagram[1])))

    def send_to(self, other: End, payload: bytes = b"payload") -> bytes:
        packet = ip_packet(self.inner, other.inner, payload)
        self.send(packet)
        return packet

    def send_record(self, other: End, *packets: bytes) -> int:
        """Packets from this end's TUN in one record; its datagrams, 0 where records don't go there now."""
        peer = self.peer(other)
        plain = b"".join(bytes(VNET_HEADER) + packet for packet in packets)
        if not self.device.records.max_plain(peer, self.world.now):
            return 0
        datagrams, size = self.device.records.seal(peer, memoryview(plain), self.world.now)
        pieces = [bytes(datagrams[at : at + size]) for at in range(0, len(datagrams), size)]
        assert peer.endpoint is not None
        self.device.outbox.extend((peer.endpoint, piece) for piece in pieces)
        return len(pieces)

    def receive(self, data: bytes, source: Endpoint) -> None:
        if data[:1] == bytes((TYPE_RECORD,)):
            buffer = ReceiveBuffer(len(data))
            buffer.view[:] = data
            burst = self.device.records.open_burst(buffer, 0, len(data), len(data), source, self.world.now)
            self.delivered += [bytes(item[VNET_HEADER:]) for _, packets in burst for item in packets]
            return
        packet = self.device.receive(memoryview(data), source, self.world.now)
        if packet is not None:
            self.delivered.append(bytes(packet))

    @property
    def drops(self) -> dict[str, int]:
        return {str(reason): count for reason, count in self.device.drops.items() if count}


def pair(seed: int = 1, *lines: str) -> tuple[World, End, End]:
    """Two ends that know each other; ``lines`` go into both peer sections."""
    world = World(seed)
    alice = world.end(("10.99.0.1", 51820), "10.77.0.1")
    bob = world.end(("10.99.0.2", 51820), "10.77.0.2")
    alice.meet(bob, *lines)
    bob.meet(alice, *lines)
    return world, alice, bob


def connected(seed: int = 1, *lines: str) -> tuple[World, End, End]:
    """The same after a first packet from alice to bob."""
    world, alice, bob = pair(seed, *lines)
    packet = alice.send_to(bob)
    world.settle()
    assert bob.delivered == [packet]
    bob.delivered.clear()
    return world, alice, bob
