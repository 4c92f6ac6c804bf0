"""Data packets: sealed and sent, opened and delivered (white paper section 5.4.6)."""

from __future__ import annotations

import struct
from typing import Final

from cryptography.exceptions import InvalidTag

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.handshakes import Handshakes
from qtunnel.wireguard.limits import (
    PADDING,
    RECEIVING_REKEY_AGE,
    REJECT_AFTER_MESSAGES,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
)
from qtunnel.wireguard.messages import DATA_HEADER, MIN_DATA_SIZE, TAG_SIZE, TYPE_DATA
from qtunnel.wireguard.packets import IPV4_HEADER, IPV6_HEADER, ip_length
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.routing_loops import MAY_COME_BACK, comes_back, hops_left, may_be_nested, udp_header
from qtunnel.wireguard.session import Keypair
from qtunnel.wireguard.state import DeviceState, Drop

MAX_DATAGRAM: Final = 65536
"""Bytes of every buffer here: more than the largest UDP payload."""

_HEADER: Final = DATA_HEADER.size
DATA_OVERHEAD: Final = MIN_DATA_SIZE
"""Bytes that a data message has besides the padded packet."""

_nonce = struct.Struct("<4xQ").pack
_pack_header = DATA_HEADER.pack_into
_unpack_header = DATA_HEADER.unpack_from


class Transport:
    """The data path. Returned views are of buffers that the next call overwrites."""

    def __init__(self, state: DeviceState, handshakes: Handshakes) -> None:
        self._state = state
        self._handshakes = handshakes
        self._sealed = memoryview(bytearray(MAX_DATAGRAM + MIN_DATA_SIZE + PADDING))
        self._opened = memoryview(bytearray(MAX_DATAGRAM))
        self._lookup = state.allowed_ips.lookup
        self.hops = 0
        """Hop limit for the datagrams of the packet that ``peer_for`` looked at last; 0: the host's default."""

    def seal(self, buffer: memoryview, length: int, now: float) -> tuple[Endpoint, memoryview] | None:
        """The datagram for the IP packet ``buffer[:length]``, or None where it was staged or dropped.

        The buffer must have PADDING bytes of room behind the packet; they are overwritten.
        """
        peer = self.peer_for(buffer, 0, length)
        if peer is None:
            return None
        keypair = self.session(peer, now)
        if keypair is None:
            self.stage(peer, bytes(buffer[:length]), now)
            return None
        size = self.seal_into(peer, keypair, buffer, length, now, self._sealed)
        assert peer.endpoint is not None
        return peer.endpoint, self._sealed[:size]

    def peer_for(self, buffer: memoryview, offset: int, length: int, count: int = 1) -> Peer | None:
        """Whom the IP packet ``buffer[offset : offset + length]`` goes to; None, and counted, where it goes nowhere.

        count: of the packets that it stands for.
        """
        self.hops = 0
        version = buffer[offset] >> 4 if length else 0
        if version == 4 and length >= IPV4_HEADER:
            peer = self._lookup(bytes(buffer[offset + 16 : offset + 20]))
            protocol = buffer[offset + 9]
        elif version == 6 and length >= IPV6_HEADER:
            peer = self._lookup(bytes(buffer[offset + 24 : offset + 40]))
            protocol = buffer[offset + 6]
        else:
            self._state.drops[Drop.BAD_PACKET] += count
            return None
        if peer is None:
            self._state.drops[Drop.NO_ROUTE] += count
        elif peer.endpoint is None:
            self._state.drops[Drop.NO_ENDPOINT] += count
            return None
        elif protocol in MAY_COME_BACK and may_be_nested(buffer, offset, length):
            loop = self._loop(buffer[offset : offset + length], peer, peer.endpoint)
            if loop is not None:
                self._state.drops[loop] += count
                return None
        return peer

    def _loop(self, packet: memoryview, peer: Peer, endpoint: Endpoint) -> Drop | None:
        """Why a packet may not go around once more, if it does."""
        at = udp_header(packet)
        if not at:
            return None
        if comes_back(packet, at, self._state.listen_port, endpoint, peer.keypairs):
            return Drop.ROUTING_LOOP
        hops = hops_left(packet, at)
        if hops is not None:
            if hops <= 0:
                return Drop.TOO_MANY_TUNNELS
            self.hops = hops
        return None

    def session(self, peer: Peer, now: float) -> Keypair | None:
        """The session that packets to the peer may go out under now."""
        keypair = peer.keypairs.current
        return keypair if keypair is not None and keypair.may_send(now) else None

    def stage(self, peer: Peer, packet: bytes, now: float) -> None:
        """Keep a packet until there is a session, and ask for one."""
        if len(peer.staged) == peer.staged.maxlen:
            self._state.drops[Drop.STAGING_FULL] += 1  # the oldest falls out
        peer.staged.append(packet)
        self.send_staged(peer, now)

    def send_staged(self, peer: Peer, now: float) -> None:
        """Send what waits for a session, or start a handshake for it."""
        while peer.staged:
            keypair = peer.keypairs.current
            if keypair is None or not keypair.may_send(now):
                self._handshakes.initiate(peer, now)
                return
            self._post(peer, keypair, peer.staged.popleft(), now)

    def send_keepalive(self, peer: Peer, now: float) -> None:
        """An empty data packet, or what is staged; a handshake where there is no session."""
        if peer.staged:
            self.send_staged(peer, now)
            return
        keypair = peer.keypairs.current
        if keypair is None or not keypair.may_send(now):
            self._handshakes.initiate(peer, now)
        elif peer.endpoint is not None:
            self._post(peer, keypair, b"", now)

    def _post(self, peer: Peer, keypair: Keypair, packet: bytes, now: float) -> None:
        room = memoryview(bytearray(packet) + bytearray(PADDING))
        size = self.seal_into(peer, keypair, room, len(packet), now, self._sealed)
        assert peer.endpoint is not None
        self._state.outbox.append((peer.endpoint, bytes(self._sealed[:size])))

    def padded(self, length: int) -> int:
        """Bytes of a packet of ``length`` bytes with its padding: to a multiple of 16, but not beyond the MTU."""
        padded = length + -length % PADDING
        return padded if padded <= self._state.mtu else max(length, self._state.mtu)

    def seal_into(
        self, peer: Peer, keypair: Keypair, buffer: memoryview, length: int, now: float, target: memoryview
    ) -> int:
        """The message for the packet ``buffer[:length]``, which PADDING bytes of room follow; its bytes in target."""
        padded = self.padded(length)
        if padded > length:
            buffer[length:padded] = bytes(padded - length)
        counter = keypair.send_counter
        keypair.send_counter = counter + 1
        end = _HEADER + padded + TAG_SIZE
        _pack_header(target, 0, TYPE_DATA, keypair.remote_index, counter)
        keypair.seal(_nonce(counter), buffer[:padded], None, target[_HEADER:end])
        self.sent(peer, keypair, end, now, data=length > 0)
        return end

    def sent(self, peer: Peer, keypair: Keypair, size: int, now: float, *, data: bool) -> None:
        """Account for datagrams of ``size`` bytes in all, with packets or without, that go out under the session."""
        peer.tx_bytes += size
        timers = peer.timers
        if data:
            timers.data_sent(now)
        timers.authenticated_sent(now)
        old = keypair.initiator and now - keypair.created >= REKEY_AFTER_TIME
        if old or keypair.send_counter > REKEY_AFTER_MESSAGES:
            self._handshakes.initiate(peer, now)

    def open(self, data: memoryview, endpoint: Endpoint, now: float) -> memoryview | None:
        """The IP packet in a data message; None for a keepalive and for what was dropped."""
        drops = self._state.drops
        size = len(data)
        if size < MIN_DATA_SIZE:
            drops[Drop.MALFORMED] += 1
            return None
        kind, index, counter = _unpack_header(data)
        if kind != TYPE_DATA:
            drops[Drop.MALFORMED] += 1
            return None
        keypair = self._state.receiving(index, 1, now)
        if keypair is None:
            return None
        if counter >= REJECT_AFTER_MESSAGES:
            drops[Drop.EXPIRED] += 1
            return None
        plain = self._opened[: size - MIN_DATA_SIZE]
        try:
            keypair.unseal(_nonce(counter), data[_HEADER:], None, plain)
        except InvalidTag:
            drops[Drop.BAD_TAG] += 1
            return None
        if not keypair.window.accept(counter):
            drops[Drop.REPLAYED] += 1
            return None
        peer = keypair.peer
        self.authenticated(peer, keypair, endpoint, now)
        peer.rx_bytes += size
        if size == MIN_DATA_SIZE:
            return None
        peer.timers.data_received(now)
        length = self.inner_length(peer, plain, 0, size - MIN_DATA_SIZE)
        return plain[:length] if length else None

    def authenticated(self, peer: Peer, keypair: Keypair, endpoint: Endpoint, now: float) -> None:
        """A datagram of the session came from ``endpoint`` and was authentic."""
        peer.endpoint = endpoint
        peer.timers.authenticated_received(now)
        keypairs = peer.keypairs
        if keypair is keypairs.next:
            self._state.forget(keypairs.confirm())
            self._handshakes.complete(peer, now)
            self.send_staged(peer, now)
        elif (
            keypair.initiator
            and now - keypair.created >= RECEIVING_REKEY_AGE
            and keypair is keypairs.current
            and not peer.sent_last_minute_handshake
        ):
            peer.sent_last_minute_handshake = True
            self._handshakes.initiate(peer, now)

    def inner_length(self, peer: Peer, plain: memoryview, offset: int, size: int) -> int:
        """Bytes of the packet at ``plain[offset : offset + size]`` without padding, if its source is the peer's to use;
        else 0, and counted."""
        length = ip_length(plain, offset, size)
        if not length:
            self._state.drops[Drop.BAD_PACKET] += 1
            return 0
        if plain[offset] >> 4 == 4:
            source = bytes(plain[offset + 12 : offset + 16])
        else:
            source = bytes(plain[offset + 8 : offset + 24])
        if self._lookup(source) is not peer:
            self._state.drops[Drop.WRONG_SOURCE] += 1
            return 0
        return length
