"""From the configuration's peers to the settings of the rekeying core."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from qtunnel.config import Config, PeerConfig
from qtunnel.errors import ConfigError
from qtunnel.files import read_secret_file
from qtunnel.handshake.suites import find_suite
from qtunnel.identity import PublicIdentity
from qtunnel.rekey.model import PeerSettings
from qtunnel.secret import Secret
from qtunnel.terms import QkdPolicy

PAIRING_SIZE = 32


def load_public(config: Config) -> dict[str, PublicIdentity]:
    """Every peer's public identity, by the peer's name."""
    return {peer.name: PublicIdentity.load(peer.public) for peer in config.peers}


def load_pairing(path: Path) -> Secret:
    """A pairing secret: a secret file with 32 bytes in base64; raises ``ConfigError``."""
    with read_secret_file(path) as content:
        try:
            secret = Secret(base64.b64decode(bytes(content.reveal()).strip(), validate=True))
        except (binascii.Error, ValueError):
            raise ConfigError(f"{path}: a pairing secret is one line of base64") from None
    if len(secret) != PAIRING_SIZE:
        raise ConfigError(f"{path}: a pairing secret has {PAIRING_SIZE} bytes, this one {len(secret)}")
    return secret


def settings_of(peer: PeerConfig, public: PublicIdentity) -> PeerSettings:
    """What the rekeying core needs to know of a peer."""
    qkd = peer.qkd
    return PeerSettings(
        name=peer.name,
        public=public,
        suite=find_suite(peer.kem, peer.cipher),
        policy=peer.policy,
        interval=peer.rekey.interval,
        jitter=peer.rekey.jitter,
        max_age=qkd.max_age,
        pqc_on_expiry=qkd.on_expiry == "pqc-only" and peer.policy.qkd is QkdPolicy.REQUIRED,
        has_endpoint=peer.endpoint is not None,
        sources=tuple(qkd.sources),
        pairing=None if peer.pairing_secret is None else load_pairing(peer.pairing_secret),
    )
