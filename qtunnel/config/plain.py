"""Plain WireGuard peers on the same interface: others' programs at the other end, without qtunnel's protection."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from qtunnel.config.document import Location, Problem
from qtunnel.config.types import AllowedNetwork, ConfigPath, FileKind, Host, Keepalive, Name, Port, Section
from qtunnel.constants import DEFAULT_WIREGUARD_PORT

KEY_SIZE = 32


def parse_public_key(value: object) -> bytes:
    """The 32 bytes of ``wg pubkey``'s base64; raises ``ValueError``. Never repeats it: it may be a private key."""
    if isinstance(value, bytes) and len(value) == KEY_SIZE:
        return value
    try:
        key = base64.b64decode(value.strip(), validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_SIZE:
        raise ValueError(f"not a WireGuard public key: {KEY_SIZE} bytes in base64, as wg pubkey prints it")
    return key


PublicKey = Annotated[bytes, BeforeValidator(parse_public_key)]
PskFile = Annotated[ConfigPath, FileKind("secret", "make one with: (umask 077; wg genpsk > FILE)")]


class PlainPeerConfig(Section):
    """A peer that runs WireGuard alone. persistent_keepalive in seconds, ``None`` for off.

    protection has no default: nobody gets such a peer without having written the word. preshared_key: a file in the
    form of ``wg genpsk``; its key stays what it is until somebody changes the file.
    """

    name: Name = Field(examples=["phone"])
    protection: Literal["wireguard-only"] = Field(examples=["wireguard-only"])
    public_key: PublicKey = Field(examples=["xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="])
    preshared_key: PskFile | None = None
    endpoint: Host | None = None
    wireguard_port: Port = DEFAULT_WIREGUARD_PORT
    allowed_ips: tuple[AllowedNetwork, ...] = Field(min_length=1, examples=[["10.77.0.9/32"]])
    persistent_keepalive: Keepalive = None


def check_public_keys(
    peers: Iterable[PlainPeerConfig], own: bytes | None, others: dict[bytes, tuple[str, Location]]
) -> Iterator[Problem]:
    """Keys given twice. own: this gateway's WireGuard key; others: of the qtunnel peers, with their names and
    places."""
    seen: dict[bytes, Location] = {}
    for index, peer in enumerate(peers):
        where: Location = ("plain_peers", index, "public_key")
        if peer.public_key == own:
            yield Problem(where, "is this node's own WireGuard key; put the peer's here (on the peer: wg pubkey)")
        if peer.public_key in others:
            name, place = others[peer.public_key]
            what = f"is the WireGuard key of {name}, which is a qtunnel peer; remove one of the two"
            yield Problem(where, what, (place,))
        first = seen.setdefault(peer.public_key, where)
        if first is not where:
            yield Problem(where, f"plain_peers[{first[1]}] has the same key; every peer needs its own", (first,))
