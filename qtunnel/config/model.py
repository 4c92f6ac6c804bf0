"""The configuration of a gateway: what each key means, its default and its bounds."""

from __future__ import annotations

import functools
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    InstanceOf,
    StrictInt,
    model_validator,
)

from qtunnel.config.accounts import AuditConfig, MetricsConfig, MqttConfig, PageConfig
from qtunnel.config.document import Problem
from qtunnel.config.kems import Kems
from qtunnel.config.key_sources import KeySourceConfig as KeySourceConfig
from qtunnel.config.key_sources import ReservoirConfig, key_source, peer_sources
from qtunnel.config.manage import NeverTheOwners, OursToSay, owners_keys
from qtunnel.config.plain import PlainPeerConfig, PublicKey
from qtunnel.config.rekey import RekeyConfig as RekeyConfig
from qtunnel.config.types import (
    AllowedNetwork,
    ConfigPath,
    Duration,
    FileKind,
    Host,
    InterfaceAddress,
    InterfaceName,
    Keepalive,
    ListenAddress,
    Name,
    Port,
    Section,
    SocketAddress,
    at_least,
)
from qtunnel.config.words import ProblemsError, listing
from qtunnel.constants import DEFAULT_HANDSHAKE_PORT, DEFAULT_MTU, DEFAULT_WIREGUARD_PORT, MAX_PROCESSES
from qtunnel.errors import ConfigError
from qtunnel.terms import ChainPolicy, Policy, QkdPolicy

DEFAULT_LISTEN: tuple[SocketAddress, ...] = tuple(
    SocketAddress(address, DEFAULT_HANDSHAKE_PORT) for address in (IPv4Address(0), IPv6Address(0))
)

IdentityFile = Annotated[ConfigPath, FileKind("secret", "make one with: qtunnel identity new FILE")]
PublicFile = Annotated[ConfigPath, FileKind("readable", "get it from the peer, by: qtunnel identity show FILE")]
PairingFile = Annotated[
    ConfigPath,
    FileKind("secret", "make one with: (umask 077; openssl rand -base64 32 > FILE)"),
]


class NodeConfig(Section):
    """This gateway. Where state_dir and control_socket are left out, ``load_config`` puts the defaults in."""

    name: Name = Field(examples=["alice"])
    identity: IdentityFile = Field(examples=["alice.identity"])
    listen: tuple[ListenAddress, ...] = Field(default=DEFAULT_LISTEN, min_length=1)
    wireguard_port: Port = DEFAULT_WIREGUARD_PORT
    state_dir: ConfigPath = Path()
    control_socket: ConfigPath = Path()


class LogConfig(Section):
    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class TunnelConfig(Section):
    """The interface. MTU in bytes. record_mode: ``auto`` is any AEAD that this machine is fast with.

    processes: of the engine, for packets. manage: ``psk`` where the interface is somebody else's.
    """

    interface: InterfaceName = Field(examples=["qt0"])
    manage: Literal["all", "psk"] = "all"
    addresses: Annotated[tuple[InterfaceAddress, ...], Field(min_length=1), OursToSay] = Field(
        default=(), validate_default=True, examples=[["10.77.0.1/24"]]
    )
    mtu: Annotated[StrictInt, Field(ge=1280, le=65535)] = DEFAULT_MTU
    engine: Literal["qtunnel", "kernel", "wireguard-go", "boringtun-cli"] = "qtunnel"
    routes: Literal["auto", "off"] = "auto"
    record_mode: Literal["auto", "aes-256-gcm", "chacha20-poly1305", "off"] = "auto"
    processes: Annotated[StrictInt, Field(ge=1, le=MAX_PROCESSES)] = 1

    @model_validator(mode="before")
    @classmethod
    def _own_engine(cls, value: Any) -> Any:
        if isinstance(value, dict) and (owners := owners_keys(value)):
            raise ProblemsError(owners)
        if isinstance(value, dict) and value.get("engine", "qtunnel") != "qtunnel":
            asked = value.get("record_mode", "auto")
            problems = []
            if asked not in ("auto", "off"):
                words = f"needs engine: qtunnel; {value['engine']} has no record mode: off would be right"
                problems.append(Problem(("record_mode",), words))
            if value.get("processes", 1) != 1:
                words = f"needs engine: qtunnel; {value['engine']} uses all cores by itself: leave it out"
                problems.append(Problem(("processes",), words))
            if problems:
                raise ProblemsError(problems)
        return value


class QkdConfig(Section):
    """What QKD has to contribute. mix: how many sources go into each key, the first in the file that deliver, ``None``
    for all. max_age in seconds, of the key in force."""

    policy: Literal["required", "preferred", "off"] = "required"
    sources: Annotated[dict[str, InstanceOf[BaseModel]], BeforeValidator(peer_sources)] = Field(default_factory=dict)
    min_sources: Annotated[StrictInt, Field(ge=1)] = 1
    mix: Annotated[StrictInt, Field(ge=1)] | None = None
    max_age: Annotated[Duration, at_least(1, "which no schedule can keep; the usual is 10m")] = 600.0
    reservoir: ReservoirConfig = ReservoirConfig()
    on_expiry: Literal["block", "pqc-only"] = "block"
    chain: Literal["reset-allowed", "required"] = "reset-allowed"

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return {"policy": value} if isinstance(value, str) else value


class PeerConfig(Section):
    """One peer. persistent_keepalive in seconds, ``None`` for off. wireguard_key: where it is not the public file's."""

    name: Name = Field(examples=["bob"])
    public: PublicFile = Field(examples=["bob.public"])
    wireguard_key: PublicKey | None = None
    endpoint: Host | None = None
    wireguard_port: Annotated[Port, NeverTheOwners] = DEFAULT_WIREGUARD_PORT
    handshake_port: Port = DEFAULT_HANDSHAKE_PORT
    allowed_ips: Annotated[tuple[AllowedNetwork, ...], Field(min_length=1), OursToSay] = Field(
        default=(), validate_default=True, examples=[["10.77.0.2/32"]]
    )
    persistent_keepalive: Annotated[Keepalive, NeverTheOwners] = None
    rekey: RekeyConfig = RekeyConfig()
    kem: Kems = ("ml-kem-1024",)
    cipher: Literal["chacha20-poly1305", "aes-256-gcm"] = "chacha20-poly1305"
    combiner: Literal["hkdf", "catkdf"] = "hkdf"
    pairing_secret: PairingFile | None = None
    qkd: QkdConfig = QkdConfig()

    @property
    def policy(self) -> Policy:
        """What this end demands of an epoch, in the handshake's terms."""
        return _policy(self.qkd.policy, self.qkd.min_sources, self.qkd.chain)


@functools.lru_cache
def _policy(qkd: str, min_sources: int, chain: str) -> Policy:
    return Policy(QkdPolicy[qkd.upper()], min_sources, ChainPolicy[chain.upper().replace("-", "_")])


_EXAMPLE_TUNNEL = {"interface": "qt0", "addresses": ["10.77.0.1/24"]}
_EXAMPLE_PEER = {"name": "bob", "public": "bob.public", "allowed_ips": ["10.77.0.2/32"]}


class Config(Section):
    """A gateway's whole configuration file."""

    node: NodeConfig
    log: LogConfig = LogConfig()
    tunnel: TunnelConfig = Field(examples=[_EXAMPLE_TUNNEL])
    key_sources: dict[Name, Annotated[KeySourceConfig, BeforeValidator(key_source)]] = Field(default_factory=dict)
    peers: tuple[PeerConfig, ...] = Field(min_length=1, examples=[[_EXAMPLE_PEER]])
    plain_peers: Annotated[tuple[PlainPeerConfig, ...], NeverTheOwners] = ()
    audit: AuditConfig | None = None
    metrics: MetricsConfig | None = None
    page: PageConfig | None = None
    mqtt: MqttConfig | None = None

    def peer(self, name: str) -> PeerConfig:
        """The peer of that name; raises ``ConfigError`` naming the peers there are."""
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise ConfigError(f"no peer {name!r}; peers: {listing(peer.name for peer in self.peers)}")
