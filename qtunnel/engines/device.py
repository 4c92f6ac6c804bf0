"""What a WireGuard device is told and tells, whatever carries it: a UAPI socket or netlink.

What it is told are the lines of https://www.wireguard.com/xplatform/, key and value. What it tells holds no secret: of
a preshared key only a mark, by which one can see whether it is still the one that was put there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Protocol

from qtunnel.engines.base import KEY_SIZE, Endpoint, Left, PeerSpec, format_endpoint
from qtunnel.secret import Secret

Line = tuple[str, "str | int | Secret"]
"""A key and its value; a ``Secret`` goes out in the form that the carrier needs, everything else as text."""

MARK_SIZE = 16
_MARK_KEY = os.urandom(32)
"""Of this process alone, so that a mark tells nobody else anything."""


def mark_of_psk(psk: bytes | bytearray | memoryview) -> bytes:
    """16 bytes that stand for a preshared key within this process (BLAKE2b with a random key, RFC 7693)."""
    return hashlib.blake2b(psk, key=_MARK_KEY, digest_size=MARK_SIZE).digest()


NO_PSK = mark_of_psk(bytes(KEY_SIZE))
"""Where there is none, which WireGuard treats as a key of zeros (white paper, section 5.2)."""


@dataclass(slots=True)
class DevicePeer:
    """One peer of a device. values: what has no field of its own, such as our engine's ``epoch``; psk_mark: as of
    ``mark_of_psk``, empty where it was not told."""

    public_key: bytes
    endpoint: Endpoint | None = None
    last_handshake: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    packets: int = 0
    persistent_keepalive: int = 0
    allowed_ips: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    psk_mark: bytes = b""


@dataclass(slots=True)
class Device:
    """A device, without its secrets; listen_port and fwmark are 0 and public_key empty where none was told."""

    listen_port: int = 0
    peers: dict[bytes, DevicePeer] = field(default_factory=dict)
    public_key: bytes = b""
    fwmark: int = 0


class Client(Protocol):
    """Talks to one device. Every failure is an ``EngineError`` that names the interface."""

    async def get(self, *, always: bool = True) -> Device:
        """always: as in ``set``."""
        ...

    async def set(self, lines: Iterable[Line], *, always: bool = False) -> None:
        """One operation. Lines before a refused one may have been applied. always: it is sent also where the device has
        not answered what was sent before."""
        ...


def usable(endpoint: Endpoint | None) -> bool:
    """Whether it could be configured: an engine may have heard its peer from port 0, where nobody can be answered."""
    return endpoint is not None and endpoint[1] > 0


def existing(public_key: bytes) -> list[Line]:
    """Names a peer, and keeps the engine from making one that is not there: it would be one without a key."""
    return [("public_key", public_key.hex()), ("update_only", "true")]


def removed(public_key: bytes) -> list[Line]:
    """Takes a peer away, and its sessions with it."""
    return [("public_key", public_key.hex()), ("remove", "true")]


def added(peer: PeerSpec, psk: Secret) -> list[Line]:
    """A new peer; the key stands before anything that could make the engine speak to it."""
    return [("public_key", peer.public_key.hex()), ("preshared_key", psk), *peer_lines(peer)]


def peer_lines(peer: PeerSpec) -> list[Line]:
    """Endpoint, keepalive and allowed IPs, which take the place of those that were there."""
    lines: list[Line] = []
    if peer.endpoint is not None:
        lines.append(("endpoint", format_endpoint(peer.endpoint)))
    lines.append(("persistent_keepalive_interval", peer.persistent_keepalive or 0))
    lines.append(("replace_allowed_ips", "true"))
    return lines + [("allowed_ip", str(network)) for network in peer.allowed_ips]


def spec_of(peer: DevicePeer) -> PeerSpec:
    """A peer as it was configured, with the endpoint where it was heard; raises ``ValueError`` for what none can be."""
    return PeerSpec(
        peer.public_key,
        peer.endpoint if usable(peer.endpoint) else None,
        tuple(ip_network(network) for network in peer.allowed_ips),
        peer.persistent_keepalive or None,
    )


def left_of(peer: DevicePeer) -> Left:
    """What our own engine has of a peer that a former daemon gave it; raises ``ValueError`` for what it cannot have."""
    ended = peer.values.get("ended_epoch")
    return Left(
        spec_of(peer),
        _epoch(peer, "installed_epoch", "installed_note"),
        _epoch(peer, "epoch", "epoch_note"),
        None if ended is None else int(ended),
    )


def _epoch(peer: DevicePeer, number: str, note: str) -> tuple[int, str] | None:
    text = peer.values.get(number)
    return None if text is None else (int(text), peer.values.get(note, ""))
