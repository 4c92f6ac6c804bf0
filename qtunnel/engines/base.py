"""What the daemon asks of a data plane: the protocol ``Engine`` and the values that cross it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Protocol

from qtunnel.secret import Secret

IPNetwork = IPv4Network | IPv6Network

Endpoint = tuple[str, int]
"""Where a peer's WireGuard listens: a numeric address (never a name) and a UDP port."""

KEY_SIZE = 32
"""Bytes of a WireGuard public key, private key and preshared key."""

MAX_PORT = 65535
MAX_KEEPALIVE = 65535


def format_endpoint(endpoint: Endpoint) -> str:
    """``address:port``, with brackets around an IPv6 address; raises ``ValueError`` for a name or a bad port."""
    host, port = endpoint
    address = ip_address(host)
    if not 0 < port <= MAX_PORT:
        raise ValueError(f"a UDP port is 1 to {MAX_PORT}, not {port}")
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """One peer as the engine sees it.

    public_key: 32 bytes. endpoint: ``None`` where the peer speaks first. persistent_keepalive: seconds, ``None`` off.
    """

    public_key: bytes
    endpoint: Endpoint | None = None
    allowed_ips: tuple[IPNetwork, ...] = ()
    persistent_keepalive: int | None = None

    def __post_init__(self) -> None:
        if len(self.public_key) != KEY_SIZE:
            raise ValueError(f"a WireGuard public key has {KEY_SIZE} bytes, not {len(self.public_key)}")
        if self.persistent_keepalive is not None and not 0 < self.persistent_keepalive <= MAX_KEEPALIVE:
            raise ValueError(f"a persistent keepalive is 1 to {MAX_KEEPALIVE} s, not {self.persistent_keepalive}")
        if self.endpoint is not None:
            format_endpoint(self.endpoint)


@dataclass(frozen=True, slots=True)
class PeerStats:
    """What an engine tells of one peer.

    last_handshake: Unix seconds, ``None`` for never. rx_bytes, tx_bytes: UDP payload, handshakes included.
    epoch_in_force: of the session that sends now; ``None`` where there is no session or its key is no epoch (blocked).
    record_mode: AEAD of the records that are sent now, empty where packets go out one by one; record_mode_reason: why
    they do although record mode was asked for. newest_epoch: where the engine cannot tell the epoch, that in force is
    the oldest that the session can be of, and this the newest; ``None`` where it is certain. packets: sealed and
    opened, in both directions, a record counting as one; ``None`` where the engine does not count them.
    """

    endpoint: Endpoint | None
    last_handshake: float | None
    rx_bytes: int
    tx_bytes: int
    epoch_in_force: int | None
    record_mode: str = ""
    record_mode_reason: str = ""
    newest_epoch: int | None = None
    packets: int | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Until when a key lives if nobody renews it, and what is to be known of it by whoever takes the engine over.

    ends: seconds of CLOCK_BOOTTIME (clock_gettime(2)), so that nothing that takes time on the way puts it off. note:
    printable ASCII, 900 bytes at most. before: epochs before it, as far as they are known, and when each ends, as
    ``ends``: sessions of them may still be there.
    """

    ends: float
    note: str = ""
    before: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Left:
    """What an engine that outlived its daemon has of a peer.

    spec: with the endpoint where the peer was heard last. installed, in_force: epoch and note of the key in place and
    of the session that sends, where there is one. ended: the epoch whose lease was over.
    """

    spec: PeerSpec
    installed: tuple[int, str] | None = None
    in_force: tuple[int, str] | None = None
    ended: int | None = None


class Engine(Protocol):
    """A WireGuard data plane for one interface.

    Every method raises ``qtunnel.errors.EngineError`` and nothing else; its text is one line.
    """

    @property
    def name(self) -> str:
        """The engine's name as in the configuration, e.g. ``qtunnel``."""
        ...

    @property
    def interface(self) -> str: ...

    @property
    def pid(self) -> int | None:
        """Of the engine's process, ``None`` where none runs."""
        ...

    @property
    def index(self) -> int | None:
        """The number of the interface that ``start`` made, found or took over, ``None`` before: one of the same name
        with another number is somebody else's."""
        ...

    @property
    def replaced(self) -> str | None:
        """Why ``adopt`` ended the engine that it found, in words; ``None`` where it found none, or took it over."""
        ...

    async def start(self) -> None:
        """Make the interface, which stays down and without keys. Never touches an interface that exists."""
        ...

    async def adopt(self, public_key: bytes, listen_port: int, mark: int = 0) -> dict[bytes, Left] | None:
        """In place of ``start`` and ``configure_device``: take over what a daemon that was killed has left, with its
        peers by public key; ``None`` where there is nothing that can be. public_key: of this gateway. One that is ours
        and is not as it should be is ended."""
        ...

    async def configure_device(self, private_key: Secret, listen_port: int, mark: int = 0) -> None:
        """Give the interface its static key (32 bytes), its UDP port, where 0 lets the system choose one, and the mark
        (SO_MARK, 32 bits) of all that it sends there, where 0 is none."""
        ...

    async def set_peer(self, peer: PeerSpec) -> None:
        """Add the peer, or change endpoint, allowed IPs and keepalive of one that is there.

        A new peer gets a random preshared key at once, so that nothing passes before an epoch is installed; the key
        and the sessions of a known one stay.
        """
        ...

    async def remove_peer(self, public_key: bytes) -> None: ...

    async def set_endpoint(self, public_key: bytes, endpoint: Endpoint) -> None: ...

    async def set_psk(
        self,
        public_key: bytes,
        psk: Secret,
        epoch: int,
        previous: Secret | None = None,
        previous_epoch: int = 0,
        handshake_now: bool = False,
        record_suite: str = "",
        lease: Lease | None = None,
    ) -> None:
        """Install the preshared key of ``epoch``; sessions go on. Where the engine can, a handshake under way also
        tries ``previous``, ``handshake_now`` starts one at once, and the sessions to come have record mode with
        ``record_suite``; else the next handshake uses the key. When the ``lease`` is over the engine blocks the peer
        by itself, where it can; where it cannot, it ends with the daemon."""
        ...

    async def renew(self, public_key: bytes, lease: Lease) -> None:
        """The key in place ends as the lease says; sessions of the epochs before it end no later than it says."""
        ...

    async def block(self, public_key: bytes, psk: Secret) -> None:
        """Install ``psk`` (32 random bytes that nobody else has) and drop the peer's sessions at once."""
        ...

    async def drop_sessions(self, public_key: bytes) -> None:
        """End the peer's sessions at once and begin the next one with the key in place. Only for an engine that was
        taken over: of others, whoever asks has the key, and a ``block`` goes before it is set again."""
        ...

    async def stats(self) -> dict[bytes, PeerStats]:
        """Of every peer, by public key."""
        ...

    async def wait_dead(self) -> str:
        """Return, with the reason in words, once the engine stopped working."""
        ...

    async def stop(self) -> None:
        """Take the interface away and wait until it is gone. Idempotent."""
        ...
