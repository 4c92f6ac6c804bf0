"""From the configuration's peers to the settings of the rekeying core."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qtunnel.config import Config, PeerConfig, TunnelConfig
from qtunnel.config.kems import suite_of
from qtunnel.config.key_file import read_key
from qtunnel.identity import PublicIdentity
from qtunnel.rekey.model import PeerSettings
from qtunnel.terms import RECORD_SUITES, RESERVOIR, WITHDRAWALS, QkdPolicy

CPUINFO = Path("/proc/cpuinfo")


def load_public(config: Config) -> dict[str, PublicIdentity]:
    """Every peer's public identity, by the peer's name."""
    return {peer.name: PublicIdentity.load(peer.public) for peer in config.peers}


def capabilities_of(tunnel: TunnelConfig, *, fast_aes: bool) -> int:
    """What the engine can do, as bits for offers and answers."""
    if tunnel.manage == "psk" or tunnel.engine != "qtunnel" or tunnel.record_mode == "off":
        return 0
    if tunnel.record_mode == "auto":
        names = [name for name in RECORD_SUITES if fast_aes or not name.startswith("aes")]
    else:
        names = [tunnel.record_mode]
    return sum(RECORD_SUITES[name] for name in names)


def has_fast_aes(cpuinfo: str) -> bool:
    """Whether the processor has instructions for AES, by the text of /proc/cpuinfo. Without, ChaCha20 is faster."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    return any(name.strip() in ("flags", "Features") and "aes" in value.split() for name, _, value in lines)


def all_settings(config: Config, public: Mapping[str, PublicIdentity]) -> list[PeerSettings]:
    """What the rekeying core needs to know of every peer."""
    try:
        cpuinfo = CPUINFO.read_text()
    except OSError:
        cpuinfo = ""
    capabilities = capabilities_of(config.tunnel, fast_aes=has_fast_aes(cpuinfo))
    return [settings_of(peer, public[peer.name], capabilities) for peer in config.peers]


def settings_of(peer: PeerConfig, public: PublicIdentity, capabilities: int = 0) -> PeerSettings:
    """What the rekeying core needs to know of a peer. capabilities: see ``capabilities_of``."""
    qkd = peer.qkd
    return PeerSettings(
        name=peer.name,
        public=public,
        suite=suite_of(peer),
        policy=peer.policy,
        interval=peer.rekey.interval,
        jitter=peer.rekey.jitter,
        max_age=qkd.max_age,
        pqc_on_expiry=qkd.on_expiry == "pqc-only" and peer.policy.qkd is QkdPolicy.REQUIRED,
        has_endpoint=peer.endpoint is not None,
        sources=tuple(qkd.sources),
        mix=qkd.mix,
        capabilities=capabilities | (RESERVOIR | WITHDRAWALS if qkd.reservoir.depth else 0),
        reservoir=qkd.reservoir.depth,
        reservoir_low=qkd.reservoir.low,
        reservoir_age=qkd.reservoir.max_age,
        store_key=None if qkd.reservoir.store is None else read_key(qkd.reservoir.store),
        min_interval=peer.rekey.min_interval,
        max_interval=peer.rekey.max_interval,
        max_bytes=peer.rekey.bytes,
        max_packets=peer.rekey.packets,
        pairing=None if peer.pairing_secret is None else read_key(peer.pairing_secret),
    )
