"""A whole capture decoded: what two gateways said to each other, with the secrets that a test disclosed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag

from tests.decoder.contents import MalformedError
from tests.decoder.handshake import Exchange, Handshakes
from tests.decoder.pcap import Datagram, read_capture
from tests.decoder.primitives import Disclosed, Identity
from tests.decoder.wireguard import Session, WireGuard

HANDSHAKE_PORT, WIREGUARD_PORT = 51821, 51820


@dataclass
class Decoded:
    """All that was in a capture. ``problems``: what is not as docs/protocol.md has it, each with its datagram's number.
    unopened: responses of WireGuard under a PSK of no epoch. incomplete: records of which something is missing."""

    exchanges: list[Exchange]
    sessions: list[Session]
    cookies: int
    unopened: int
    incomplete: int
    problems: list[str]


def decode(capture: Path, disclosed: Disclosed) -> Decoded:
    return decode_datagrams(read_capture(capture), disclosed)


def decode_datagrams(datagrams: Iterable[Datagram], disclosed: Disclosed) -> Decoded:
    handshakes = Handshakes(disclosed)

    def psks() -> list[tuple[int, bytes]]:
        return [(one.offer.epoch, one.psk) for one in reversed(handshakes.exchanges) if one.psk]

    tunnel = WireGuard(disclosed, psks)
    problems = []
    for number, datagram in enumerate(datagrams, 1):
        ports = (datagram.source[1], datagram.target[1])
        try:
            if HANDSHAKE_PORT in ports:
                handshakes.feed(datagram)
            elif WIREGUARD_PORT in ports:
                tunnel.feed(datagram)
        except (MalformedError, InvalidTag, LookupError) as problem:
            words = f"{problem}" or "does not open"
            problems.append(f"datagram {number} ({datagram.source[0]} to {datagram.target[0]}): {words}")
    return Decoded(
        handshakes.exchanges, tunnel.sessions, handshakes.cookies, tunnel.unopened, tunnel.incomplete, problems
    )


def read_disclosed(path: Path) -> Disclosed:
    """A file of JSON: identities by name, drawn, qkd_keys as [source, key_ID, key], pairing; bytes are base64."""
    content: dict[str, Any] = json.loads(path.read_text())
    return Disclosed(
        [Identity(name, base64.b64decode(seed)) for name, seed in content["identities"].items()],
        [base64.b64decode(one) for one in content["drawn"]],
        {(source, key_id): base64.b64decode(key) for source, key_id, key in content["qkd_keys"]},
        base64.b64decode(content["pairing"]) if content.get("pairing") else None,
    )
