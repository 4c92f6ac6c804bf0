"""WireGuard's messages into the engine's core, from nobody and from a peer whose keys are known; runs of data
messages."""

from __future__ import annotations

import struct
from collections.abc import Callable

from qtunnel.crypto import dh
from qtunnel.netio.receive import _parse_control, _parse_name
from qtunnel.secret import Secret
from qtunnel.wireguard.cookie import CookieChecker, _mac, mac1_key
from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.handshakes import CONSTRUCTION, IDENTIFIER
from qtunnel.wireguard.messages import (
    DATA_HEADER,
    MIN_DATA_SIZE,
    TYPE_DATA,
    CookieReply,
    Initiation,
    MessageError,
    Response,
)
from qtunnel.wireguard.noise import INITIATION_TOKENS, RESPONSE_TOKENS, KeyPair, NoiseHandshake
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.replay import ReplayWindow
from qtunnel.wireguard.rows import MAX_RUN
from qtunnel.wireguard.runs import RunOpener
from tests.fuzz.draw import Draw, spoiled
from tests.fuzz.target import Target
from tests.wireguard.world import End, connected, ip_packet, pair

MALLORY: Endpoint = ("10.99.0.66", 666)
_nonce = struct.Struct("<4xQ").pack


def messages(data: bytes) -> None:
    """What reads as a message is written as the same bytes."""
    for kind in (Initiation, Response, CookieReply):
        try:
            assert kind.unpack(data).pack() == data
        except MessageError:
            continue


def with_macs(message: bytes, to: bytes, mac2: bytes = bytes(16)) -> bytes:
    """A handshake message with a right mac1."""
    body = message[:-32]
    return body + _mac(mac1_key(to), body) + mac2


def _session(end: End, other: End) -> tuple[Callable[..., bytes], int]:
    """What seals towards ``end`` in ``other``'s name under the newest session of the two, and its index."""
    held = other.peer(end).keypairs.held
    keypair = held[0]

    def seal(nonce: bytes, plain: bytes) -> bytes:
        target = bytearray(len(plain) + 16)
        keypair.seal(nonce, plain, None, target)
        return bytes(target)

    return seal, keypair.remote_index


class Siege:
    """Alice and bob, and an input that says what reaches bob. Alice is her true self, but says what the input wants."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        lines = ("record_mode=aes-256-gcm",) if draw.flag(4) else ()
        self.world, self.alice, self.bob = (pair if draw.flag() else connected)(1, *lines)
        self.counter = 1
        self.genuine: list[bytes] = []
        self.sealed = 0

    def run(self) -> None:
        steps = (self.time, self.raw, self.truth, self.initiation, self.response, self.cookie, self.data, self.replay,
                 self.load)  # fmt: skip
        for _ in range(24):
            if not self.draw.left:
                break
            self.draw.choice(steps)()
            self.look()

    def to_bob(self, datagram: bytes, most: int = 2) -> None:
        self.genuine = [*self.genuine[-7:], datagram]
        if self.draw.flag(4):
            datagram = spoiled(self.draw, datagram, most)
        source = self.draw.choice((self.alice.endpoint, MALLORY, ("10.99.0.1", 0), ("fe80::1", 9, 0, 2)))
        if datagram:
            self.bob.receive(datagram, source)

    def time(self) -> None:
        self.world.advance(self.draw.choice((0.01, 1.0, 5.2, 30.0, 125.0, 200.0)))

    def raw(self) -> None:
        body = bytes([self.draw.number(0, 6), 0, 0, 0]) + self.draw.piece(180)
        self.to_bob(with_macs(body.ljust(36, b"\0"), self.bob.public) if self.draw.flag() else body)

    def truth(self) -> None:
        """What the two have to say to each other."""
        (self.alice if self.draw.flag() else self.bob).send_to(self.bob if self.draw.flag() else self.alice)
        self.world.settle()

    def _noise(self, *, initiator: bool) -> NoiseHandshake:
        static = KeyPair.of(Secret(self.alice.private))
        ephemeral = KeyPair.of(Secret(self.world.random.randbytes(dh.KEY_SIZE)))
        return NoiseHandshake(
            CONSTRUCTION, IDENTIFIER, initiator=initiator, static=static, ephemeral=lambda: ephemeral,
            remote_static=self.bob.public if initiator else None,
        )  # fmt: skip

    def initiation(self) -> None:
        """By alice's key, with any timestamp, index and mac2."""
        draw, noise = self.draw, self._noise(initiator=True)
        ephemeral, static = noise.write(INITIATION_TOKENS)
        times = (bytes(12), b"\xff" * 12, draw.take(12), b"\x40" + draw.take(11))
        message = Initiation(draw.number(0, 2**32 - 1), ephemeral, static, noise.write_payload(draw.choice(times)))
        self.to_bob(with_macs(message.pack(), self.bob.public, draw.choice((bytes(16), draw.take(16)))))

    def response(self) -> None:
        """By alice's key, to what bob has under way, with a right PSK or another one."""
        draw, pending = self.draw, self.bob.peer(self.alice).pending
        if pending is None:
            self.bob.device.handshakes.initiate(self.bob.peer(self.alice), self.world.now)
            pending = self.bob.peer(self.alice).pending
        self.world.collect()
        sent = [data for source, _, data in self.world.history if source == self.bob.endpoint and data[0] == 1]
        if pending is None or not sent:
            return
        message, noise = Initiation.unpack(sent[-1]), self._noise(initiator=False)
        noise.read(INITIATION_TOKENS, (message.ephemeral, message.static))
        noise.read_payload(message.timestamp)
        (ephemeral,) = noise.write(RESPONSE_TOKENS)
        noise.mix_psk(Secret(draw.choice((bytes(32), b"\x01" * 32))))
        index = draw.choice((pending.local_index, draw.number(0, 2**32 - 1)))
        reply = Response(draw.number(0, 2**32 - 1), index, ephemeral, noise.write_payload(b""))
        self.to_bob(with_macs(reply.pack(), self.bob.public))

    def cookie(self) -> None:
        """A cookie of alice's for a message of bob's, or for none."""
        sent = [data for _, _, data in self.world.history if data[0] in (1, 2)] + [bytes(148)]
        checker = CookieChecker(self.alice.public, self.world.random.randbytes)
        pending = self.bob.peer(self.alice).pending
        index = self.draw.choice((pending.local_index if pending else 1, self.draw.number(0, 2**32 - 1)))
        self.to_bob(checker.reply(self.draw.choice(sent), index, self.bob.endpoint, self.world.now).pack())

    def data(self) -> None:
        """Sealed by alice under a session that there is, whatever is in it."""
        draw = self.draw
        if not self.alice.peer(self.bob).keypairs.held:
            return
        seal, index = _session(self.bob, self.alice)
        packet = ip_packet(draw.choice(("10.77.0.1", "10.77.0.9", "::1")), "10.77.0.2", bytes(draw.number(0, 40)))
        plain = draw.choice((packet, packet + bytes(16), spoiled(draw, packet), draw.piece(64), b""))
        self.counter += draw.choice((1, 1, 0, -1, 64, 9000, 2**40, 2**63))
        counter = self.counter = self.counter % 2**64
        self.to_bob(DATA_HEADER.pack(TYPE_DATA, index, counter) + seal(_nonce(counter), plain))

    def replay(self) -> None:
        if self.genuine:
            self.to_bob(self.draw.choice(self.genuine))

    def load(self) -> None:
        """So many initiations that cookies are asked for."""
        noise = self._noise(initiator=True)
        ephemeral, static = noise.write(INITIATION_TOKENS)
        message = Initiation(7, ephemeral, static, noise.write_payload(b"\x40" + bytes(11)))
        datagram = with_macs(message.pack(), self.bob.public)
        for _ in range(self.draw.choice((3, 60))):
            self.bob.receive(datagram, MALLORY)

    def look(self) -> None:
        """What holds of bob whatever came."""
        state = self.bob.device.state
        assert set(state.sessions) == self.bob.sessions
        assert len(state.sessions) <= 4
        assert len(state.pending) <= 1
        assert len(state.outbox) <= 100
        assert not {index for index in state.pending if index in state.sessions}
        for packet in self.bob.delivered:
            assert packet[0] >> 4 == 4
            assert packet[12:16] == bytes((10, 77, 0, 1)), "a source that is not alice's"
        self.bob.delivered.clear()
        assert self.bob.get().endswith("errno=0\n\n")
        self.world.collect()
        self.world.wire.clear()


def device(data: bytes) -> None:
    """Bob is as he was, or has what alice's key allows: sessions and memory are bounded, only packets from alice's
    addresses come out."""
    Siege(Draw(data)).run()


def kernel(data: bytes) -> None:
    """Control messages that the kernel puts beside a datagram: all are read, in bounded time, and the address too."""
    found, size = _parse_control(data[1:])
    assert len(found) <= len(data) // 8
    assert size >= 0
    name = data[1:].ljust(28, b"\0")
    host, _, *_ = _parse_name(name[:16] if data[:1] < b"\x80" else name[:28])
    assert host


WORLDS = connected(), connected()
"""Made once, as two handshakes take most of the time otherwise."""


def _forget(end: End, peer: Peer) -> None:
    """What came under the session so far."""
    for keypair in peer.keypairs.held:
        keypair.window = ReplayWindow()
    peer.rx_bytes = 0
    end.device.drops.clear()
    end.device.outbox.clear()
    end.delivered.clear()


def runs(data: bytes) -> None:
    """Data messages side by side, of which some are forged, doubled or nonsense inside: opened in one go they give what
    they give one by one."""
    draw = Draw(data)
    (world, alice, bob), (_, _, twin) = WORLDS
    for end in (bob, twin):
        _forget(end, end.peer(alice))
    seal, index = _session(bob, alice)
    size = MIN_DATA_SIZE + draw.choice((16, 48, 64, 256))
    room = size - MIN_DATA_SIZE
    made, counter = [], 1
    for _ in range(draw.number(1, MAX_RUN + 8)):
        packet = ip_packet("10.77.0.1", "10.77.0.2", bytes(max(0, room - 20 - draw.choice((0, 0, 3)))))
        if draw.flag(6):
            packet = spoiled(draw, packet, 2)
        counter = draw.choice((counter + 1, counter + 1, counter + 1, counter, draw.number(0, 2**64 - 1))) % 2**64
        plain = packet[:room].ljust(room, b"\0")
        message = DATA_HEADER.pack(TYPE_DATA, index, counter) + seal(_nonce(counter), plain)
        if draw.flag(8):
            message = spoiled(draw, message, 2)[:size].ljust(size, b"\0")
        made.append(message)
        if not draw.left:
            break
    if draw.flag():
        made[-1] = made[-1][: draw.number(1, size)]
    if not made[-1]:
        made.pop()
    stream = b"".join(made)
    for at in range(0, len(stream), size):
        packet_ = twin.device.receive(memoryview(stream[at : at + size]), alice.endpoint, world.now)
        if packet_ is not None:
            twin.delivered.append(bytes(packet_))
    opener = RunOpener(bob.device.state, bob.device.transport, bytearray(stream))
    for run in opener.open(0, len(stream), size, alice.endpoint, world.now):
        for row, length in enumerate(run.lengths):
            if length:
                bob.delivered.append(bytes(opener.buffer[row * run.stride : row * run.stride + length]))
    assert bob.delivered == twin.delivered
    assert bob.drops == twin.drops
    assert bob.peer(alice).rx_bytes == twin.peer(alice).rx_bytes


TARGETS = {
    "messages": Target(messages, (), 160),
    "device": Target(device, (), 400),
    "kernel": Target(kernel, (), 200),
    "runs": Target(runs, (), 400),
}
