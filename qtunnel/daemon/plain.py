"""Plain WireGuard peers: their keys, and what the status says of them. Nothing of qtunnel protects them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qtunnel.config import Config, PlainPeerConfig
from qtunnel.config.key_file import PSK_REMEDY, read_key
from qtunnel.config.plain import KEY_SIZE
from qtunnel.control.messages import PlainPeerStatus
from qtunnel.engines.base import PeerStats, format_endpoint
from qtunnel.secret import Secret

NO_EPOCH = 0
"""In the place of an epoch: the key of a plain peer never is of one."""
NO_PSK = bytes(KEY_SIZE)
"""WireGuard's word for none (whitepaper section 5.2: all zeros)."""
SILENCE = 200.0
"""Seconds without a handshake after which a peer may have moved: WireGuard ends a session after 180 s ..."""
DOUBT_EVERY = 60.0
"""... and seconds between two look-ups of its name: an idle peer makes no handshakes, and that is no fault."""


class PlainPeers:
    """Of one gateway. doubt: looks a peer's name up again."""

    def __init__(self, config: Config, doubt: Callable[[str], None]) -> None:
        self._doubt = doubt
        self._peers: dict[str, PlainPeerConfig] = {}
        self._psks: dict[str, Secret] = {}
        self._doubted: dict[str, float] = {}
        self.adopt(config, load_psks(config))

    def adopt(self, config: Config, psks: Mapping[str, Secret]) -> None:
        """Those of a configuration from now on; keys of others are wiped."""
        former, self._psks = self._psks, dict(psks)
        for psk in former.values():
            psk.wipe()
        self._peers = {peer.name: peer for peer in config.plain_peers}
        self._doubted = {name: at for name, at in self._doubted.items() if name in self._peers}

    def __contains__(self, name: object) -> bool:
        return name in self._peers

    @property
    def names(self) -> list[str]:
        return list(self._peers)

    def key_of(self, name: str) -> tuple[int, Secret] | None:
        """What the engine is to have, a copy; None where there is no such peer."""
        if name not in self._peers:
            return None
        psk = self._psks.get(name)
        return NO_EPOCH, Secret(NO_PSK) if psk is None else psk.copy()

    def look(self, stats: Mapping[str, PeerStats], now: float, unix_now: float) -> None:
        """See who is silent. now: monotonic seconds."""
        for name, peer in self._peers.items():
            its = stats.get(name)
            if peer.endpoint is None or its is None:
                continue
            silent = its.last_handshake is None or not 0 <= unix_now - its.last_handshake < SILENCE
            if silent and now - self._doubted.get(name, -DOUBT_EVERY) >= DOUBT_EVERY:
                self._doubted[name] = now
                self._doubt(name)

    def status(self, stats: Mapping[str, PeerStats], unix_now: float, only: str | None = None) -> list[PlainPeerStatus]:
        """A line for each, or for ``only``."""
        return [
            _status(peer, stats.get(name), name in self._psks, unix_now)
            for name, peer in self._peers.items()
            if only in (None, name)
        ]

    def wipe(self) -> None:
        for psk in self._psks.values():
            psk.wipe()


def load_psks(config: Config) -> dict[str, Secret]:
    """By the peer's name, of those that have one; raises ``ConfigError`` or ``FilePermissionError``."""
    files = {peer.name: peer.preshared_key for peer in config.plain_peers}
    return {name: read_key(path, PSK_REMEDY) for name, path in files.items() if path is not None}


def _status(peer: PlainPeerConfig, stats: PeerStats | None, psk: bool, unix_now: float) -> PlainPeerStatus:
    endpoint = age = None
    if stats is not None:
        endpoint = None if stats.endpoint is None else format_endpoint(stats.endpoint)
        age = None if stats.last_handshake is None else max(0.0, unix_now - stats.last_handshake)
    return PlainPeerStatus(
        name=peer.name,
        protection=peer.protection,
        preshared_key=psk,
        endpoint=endpoint,
        last_handshake_age_s=age,
        rx_bytes=0 if stats is None else stats.rx_bytes,
        tx_bytes=0 if stats is None else stats.tx_bytes,
    )
