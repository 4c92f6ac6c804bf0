"""What engine and interface have to be by a configuration: qtunnel peers and plain ones alike."""

from __future__ import annotations

from collections.abc import Mapping

from qtunnel.config import Config, PeerConfig, PlainPeerConfig
from qtunnel.engines.base import PeerSpec
from qtunnel.engines.bypass import mark_of
from qtunnel.engines.interface import InterfaceConfig, guard_metric_of
from qtunnel.identity import PublicIdentity

AnyPeer = PeerConfig | PlainPeerConfig


def all_peers(config: Config) -> dict[str, AnyPeer]:
    """By name; a name is given once."""
    everybody: list[AnyPeer] = [*config.peers, *config.plain_peers]
    return {peer.name: peer for peer in everybody}


def specs_of(config: Config, public: Mapping[str, PublicIdentity]) -> dict[str, PeerSpec]:
    """Every peer as the engine sees it, without an endpoint. public: of the qtunnel peers, by name."""
    return {name: _spec(peer, public) for name, peer in all_peers(config).items()}


def _spec(peer: AnyPeer, public: Mapping[str, PublicIdentity]) -> PeerSpec:

    key = peer.public_key if isinstance(peer, PlainPeerConfig) else peer.wireguard_key or public[peer.name].wireguard
    keepalive = peer.persistent_keepalive
    return PeerSpec(key, None, peer.allowed_ips, None if keepalive is None else max(1, round(keepalive)))


def mark_for(config: Config) -> int:
    """The mark of all datagrams that carry the tunnel; 0 where it makes no routes that could lead them into itself."""
    return mark_of(config.node.wireguard_port) if _has_routes(config) else 0


def _has_routes(config: Config) -> bool:
    return config.tunnel.routes == "auto" and config.tunnel.manage == "all"


def interface_of(config: Config) -> InterfaceConfig:
    """The interface with everybody's allowed IPs."""
    tunnel = config.tunnel
    return InterfaceConfig(
        tunnel.interface,
        tunnel.addresses,
        tunnel.mtu,
        tuple(network for peer in all_peers(config).values() for network in peer.allowed_ips),
        _has_routes(config),
        mark=mark_for(config),
        guard_metric=guard_metric_of(config.node.wireguard_port),
    )
