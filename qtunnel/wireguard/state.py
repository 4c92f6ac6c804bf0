"""What the parts of a device share, and what a device asks of the world around it."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Protocol

from qtunnel.secret import Secret
from qtunnel.wireguard.allowed_ips import AllowedIps
from qtunnel.wireguard.cookie import CookieChecker
from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.load import RateLimiter, gauge
from qtunnel.wireguard.noise import KeyPair
from qtunnel.wireguard.peer import PSK_SIZE, LabelledPsk, Peer
from qtunnel.wireguard.record_join import JoinBuffers
from qtunnel.wireguard.session import Keypair
from qtunnel.wireguard.timers import PeerTimers, Schedule, jitter_from


class Drop(StrEnum):
    """Why something was dropped; the words are those of logs and metrics."""

    MALFORMED = "malformed"
    BAD_SOURCE = "source-port-0"
    LINK_DOWN = "link-down"
    NO_PRIVATE_KEY = "no-private-key"
    BAD_MAC1 = "bad-mac1"
    COOKIE_REQUIRED = "cookie-required"
    RATE_LIMITED = "rate-limited"
    BAD_COOKIE = "bad-cookie-reply"
    BAD_HANDSHAKE = "bad-handshake"
    UNKNOWN_PEER = "unknown-peer"
    REPLAYED_HANDSHAKE = "replayed-handshake"
    FLOOD = "handshake-flood"
    UNKNOWN_INDEX = "unknown-index"
    EXPIRED = "expired-session"
    BAD_TAG = "bad-tag"
    REPLAYED = "replayed-packet"
    BAD_PACKET = "bad-inner-packet"
    WRONG_SOURCE = "inner-source-not-allowed"
    NO_ROUTE = "no-peer-for-destination"
    NO_ENDPOINT = "no-endpoint"
    ROUTING_LOOP = "endpoint-behind-itself"
    WORKER_LOST = "worker-lost"
    TOO_MANY_TUNNELS = "too-many-tunnels-in-tunnels"
    STAGING_FULL = "staging-queue-full"
    GIVEN_UP = "handshake-given-up"
    DEFECT = "defect"


class Host(Protocol):
    """The world outside: clock, randomness and sockets."""

    def random_bytes(self, size: int) -> bytes: ...

    def unix_ns(self) -> int:
        """Unix time in nanoseconds."""
        ...

    def bind(self, port: int, fwmark: int) -> int:
        """Open UDP sockets on the port, 0 for any; the port they have. Raises ``OSError`` and keeps the old ones."""
        ...

    def scope_index(self, name: str) -> int:
        """The index of an interface; raises ``OSError``."""
        ...

    def session_began(
        self, index: int, keys: tuple[Secret, Secret], suite: str, record_keys: tuple[Secret, Secret] | None
    ) -> None:
        """A session of that local index has these keys for sending and receiving, and these for records of ``suite``.

        They are wiped when this returns.
        """
        ...

    def session_ended(self, index: int) -> None: ...


class DeviceState:
    """Keys, peers, sessions and counters of one interface."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.static: KeyPair | None = None
        self.checker: CookieChecker | None = None
        self.peers: dict[bytes, Peer] = {}
        self.allowed_ips: AllowedIps[Peer] = AllowedIps()
        self.sessions: dict[int, Keypair] = {}
        self.pending: dict[int, Peer] = {}
        self.schedule = Schedule()
        self.gauge = gauge()
        self.limiter = RateLimiter()
        self.drops: Counter[Drop] = Counter()
        self.join_buffers = JoinBuffers()
        self.outbox: list[tuple[Endpoint, bytes]] = []
        self.listen_port = 0
        self.fwmark = 0
        self.mtu = 1420
        self.up = False
        self._jitter = jitter_from(host.random_bytes)

    def new_index(self) -> int:
        """A random 32-bit receiver index that is not in use."""
        while True:
            index = int.from_bytes(self.host.random_bytes(4), "little")
            if index not in self.sessions and index not in self.pending:
                return index

    def add_peer(self, public_key: bytes) -> Peer:
        """A new peer, with a preshared key that nobody has until its operator gave it one, or none."""
        peer = Peer(public_key, Secret.random(self.host.random_bytes, PSK_SIZE))
        peer.timers = PeerTimers(peer, self.schedule, self._jitter)
        self.peers[public_key] = peer
        return peer

    def remove_peer(self, peer: Peer) -> None:
        self.wipe_sessions(peer)
        peer.timers.stop()
        peer.wipe_psks()
        self.allowed_ips.drop(peer.allowed_ips)
        del self.peers[peer.public_key]

    def wipe_sessions(self, peer: Peer) -> None:
        """Forget every key pair and handshake of the peer, its staged packets and their timers."""
        self.forget(peer.keypairs.clear())
        self.drop_pending(peer)
        peer.staged.clear()
        peer.timers.session_ended()
        peer.handshake_attempts = 0
        peer.sent_last_minute_handshake = False
        peer.last_initiation_sent = float("-inf")

    def block(self, peer: Peer) -> None:
        """No traffic with the peer until it gets another preshared key: nobody knows the one it has now."""
        peer.set_psk(LabelledPsk(Secret.random(self.host.random_bytes, PSK_SIZE)), None)
        self.wipe_sessions(peer)

    def drop_pending(self, peer: Peer) -> None:
        if peer.pending is not None:
            del self.pending[peer.pending.local_index]
            peer.pending.handshake.wipe()
            peer.pending = None

    def receiving(self, index: int, messages: int, now: float) -> Keypair | None:
        """The session that messages with that receiver index are of; None, and counted, where it may not receive."""
        keypair = self.sessions.get(index)
        if keypair is None:
            self.drops[Drop.UNKNOWN_INDEX] += messages
            return None
        if keypair.expired(now):
            self.drops[Drop.EXPIRED] += messages
            return None
        return keypair

    def forget(self, keypairs: list[Keypair]) -> None:
        for keypair in keypairs:
            keypair.peer.past_packets += keypair.packets
            del self.sessions[keypair.local_index]
            self.host.session_ended(keypair.local_index)

    def set_static(self, private: Secret | None) -> None:
        """The private key, clamped already; None for none. All sessions end, since they were of another identity."""
        if self.static is not None:
            self.static.private.wipe()
        self.static = None if private is None else KeyPair.of(private)
        self.checker = None if self.static is None else CookieChecker(self.static.public, self.host.random_bytes)
        for peer in list(self.peers.values()):
            staged = list(peer.staged)
            self.wipe_sessions(peer)
            peer.staged.extend(staged)
            if self.static is not None and peer.public_key == self.static.public:
                self.remove_peer(peer)
