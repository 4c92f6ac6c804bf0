"""The lines of UAPI ``set`` operations that several of them share, and what a ``get`` says of a peer in our terms."""

from __future__ import annotations

from ipaddress import ip_network

from qtunnel.engines.base import Endpoint, Left, PeerSpec, format_endpoint
from qtunnel.engines.uapi_client import Line, UapiPeer
from qtunnel.secret import Secret


def usable(endpoint: Endpoint | None) -> bool:
    """Whether it could be configured: an engine may have heard its peer from port 0, where nobody can be answered."""
    return endpoint is not None and endpoint[1] > 0


def existing(public_key: bytes) -> list[Line]:
    """Names a peer, and keeps the engine from making one that is not there: it would be one without a key."""
    return [("public_key", public_key.hex()), ("update_only", "true")]


def added(peer: PeerSpec, psk: Secret) -> list[Line]:
    """A new peer; the key stands before anything that could make the engine speak to it."""
    return [("public_key", peer.public_key.hex()), ("preshared_key", psk), *peer_lines(peer)]


def peer_lines(peer: PeerSpec) -> list[Line]:
    lines: list[Line] = []
    if peer.endpoint is not None:
        lines.append(("endpoint", format_endpoint(peer.endpoint)))
    lines.append(("persistent_keepalive_interval", peer.persistent_keepalive or 0))
    lines.append(("replace_allowed_ips", "true"))
    return lines + [("allowed_ip", str(network)) for network in peer.allowed_ips]


def left_of(peer: UapiPeer) -> Left:
    """What our own engine has of a peer that a former daemon gave it; raises ``ValueError`` for what it cannot have."""
    spec = PeerSpec(
        peer.public_key,
        peer.endpoint if usable(peer.endpoint) else None,
        tuple(ip_network(text) for text in peer.allowed_ips),
        peer.persistent_keepalive or None,
    )
    ended = peer.values.get("ended_epoch")
    return Left(
        spec,
        _epoch(peer, "installed_epoch", "installed_note"),
        _epoch(peer, "epoch", "epoch_note"),
        None if ended is None else int(ended),
    )


def _epoch(peer: UapiPeer, number: str, note: str) -> tuple[int, str] | None:
    text = peer.values.get(number)
    return None if text is None else (int(text), peer.values.get(note, ""))
