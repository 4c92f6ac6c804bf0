"""The configuration of a gateway: what each key means, its default and its bounds."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    InstanceOf,
    StrictInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from qtunnel.config.document import Location, Node, Problem
from qtunnel.config.manage import NeverTheOwners, OursToSay, owners_keys
from qtunnel.config.plain import PlainPeerConfig, PublicKey
from qtunnel.config.rekey import RekeyConfig as RekeyConfig
from qtunnel.config.types import (
    AllowedNetwork,
    ConfigPath,
    Duration,
    FileKind,
    Host,
    InPlace,
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
from qtunnel.config.words import ProblemsError, key_names, listing, nearest, problems_of, unknown
from qtunnel.constants import DEFAULT_HANDSHAKE_PORT, DEFAULT_MTU, DEFAULT_WIREGUARD_PORT, MAX_PROCESSES
from qtunnel.drivers import registry
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


class KeySourceConfig(Section):
    """One key source: its driver's name and an instance of that driver's ``options`` model."""

    driver: str
    options: Annotated[InstanceOf[BaseModel], InPlace()]


def _foreign(model: type[BaseModel], raw: dict[str, Any], context: Any, where: str) -> BaseModel:
    """Validate options with a driver's model; an unknown key is an error whatever that model says of it."""
    tree = _bare(raw)
    problems: list[Problem] = []
    result: BaseModel | None = None
    try:
        result = model.model_validate(raw, context=context)
    except ValidationError as failure:
        problems = problems_of(failure, model, tree)
    except ConfigError as error:
        problems = [Problem((), str(error))]
    if model.model_config.get("extra") != "forbid":
        known = key_names(model)
        problems += [Problem((n,), unknown(f"{where} key", n, known), at_key=True) for n in raw if n not in known]
    if problems or result is None:
        raise ProblemsError(problems)
    return result


def _bare(value: Any, path: Location = ()) -> Node:
    """A tree without positions, to find places in."""
    node = Node(path, 0, 0, 0, 0, value)
    if isinstance(value, dict):
        node.value = {name: _bare(item, (*path, name)) for name, item in value.items()}
    elif isinstance(value, list):
        node.value = [_bare(item, (*path, index)) for index, item in enumerate(value)]
    return node


def _key_source(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, KeySourceConfig) or not isinstance(value, dict):
        return value
    raw = dict(value)
    name = raw.pop("driver", None)
    installed = registry.names()
    if name is None:
        raise ProblemsError([Problem(("driver",), f"is missing; installed drivers: {listing(installed)}")])
    try:
        driver = _driver(name, installed)
    except ProblemsError as failure:
        raise ProblemsError([*failure.found, *_further(name, raw, installed, info.context)]) from None
    return KeySourceConfig(driver=driver.name, options=_foreign(driver.options, raw, info.context, "driver"))


def _further(name: Any, raw: dict[str, Any], installed: list[str], context: Any) -> list[Problem]:
    """What else is wrong, by the driver that was probably meant: of a similar name, or with most of the given keys;
    among several of these, the one that has more of the others, misspelt."""

    def known(driver: registry.Driver) -> tuple[int, int]:
        names = key_names(driver.options)
        return len(raw.keys() & set(names)), sum(nearest(str(key), names) is not None for key in raw)

    guess = nearest(name, installed) if isinstance(name, str) else None
    drivers = []
    for candidate in [guess] if guess else installed:
        with contextlib.suppress(ConfigError):
            drivers.append(registry.find(candidate))
    meant = max(drivers, key=known, default=None)
    if meant is None or 2 * known(meant)[0] < len(raw):
        return []
    try:
        _foreign(meant.options, raw, context, "driver")
    except ProblemsError as failure:
        return failure.found
    return []


def _driver(name: Any, installed: list[str]) -> registry.Driver:
    if not isinstance(name, str):
        raise ProblemsError([Problem(("driver",), f"must be the name of a driver: {listing(installed)}")])
    if name not in installed:
        guess = nearest(name, installed)
        hint = f"; did you mean '{guess}'?" if guess else f"; installed: {listing(installed)}"
        raise ProblemsError([Problem(("driver",), f"no driver of that name{hint}")])
    try:
        return registry.find(name)
    except ConfigError as error:
        raise ProblemsError([Problem(("driver",), str(error))]) from None


class _Undeclared(Section):
    """Stands for the options of a source whose driver is not known; never leaves ``load_config``."""


def _peer_sources(value: Any, info: ValidationInfo) -> Any:
    """Each source's options by its driver's ``peer_options``, found through the document's ``key_sources``."""
    if not isinstance(value, dict):
        return value
    document = info.context.get("document", {}) if isinstance(info.context, dict) else {}
    declared = document.get("key_sources") if isinstance(document, dict) else None
    declared = declared if isinstance(declared, dict) else {}
    result: dict[str, BaseModel] = {}
    problems: list[Problem] = []
    for name, raw in value.items():
        if isinstance(raw, BaseModel):
            result[name] = raw
            continue
        if name not in declared:
            problems.append(Problem((name,), unknown("key source", name, declared), at_key=True))
            continue
        if not isinstance(raw, dict | None):
            problems.append(Problem((name,), "must be a mapping with the driver's options for this peer"))
            continue
        try:
            own = declared[name]
            driver = _driver(own.get("driver") if isinstance(own, dict) else None, registry.names())
        except ProblemsError:
            result[name] = _Undeclared()  # reported where the source is declared; it still counts as one
            continue
        try:
            result[name] = _foreign(driver.peer_options, raw or {}, info.context, "driver")
        except ProblemsError as failure:
            problems += [replace(item, where=(name, *item.where)) for item in failure.found]
    if problems:
        raise ProblemsError(problems)
    return result


class QkdConfig(Section):
    """What QKD has to contribute. max_age in seconds, of the key in force."""

    policy: Literal["required", "preferred", "off"] = "required"
    sources: Annotated[dict[str, InstanceOf[BaseModel]], BeforeValidator(_peer_sources)] = Field(default_factory=dict)
    min_sources: Annotated[StrictInt, Field(ge=1)] = 1
    max_age: Annotated[Duration, at_least(1, "which no schedule can keep; the usual is 10m")] = 600.0
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
    kem: Literal["ml-kem-1024", "ml-kem-768"] = "ml-kem-1024"
    cipher: Literal["chacha20-poly1305", "aes-256-gcm"] = "chacha20-poly1305"
    pairing_secret: PairingFile | None = None
    qkd: QkdConfig = QkdConfig()

    @property
    def policy(self) -> Policy:
        """What this end demands of an epoch, in the handshake's terms."""
        return Policy(
            QkdPolicy[self.qkd.policy.upper()],
            self.qkd.min_sources,
            ChainPolicy[self.qkd.chain.upper().replace("-", "_")],
        )


_EXAMPLE_TUNNEL = {"interface": "qt0", "addresses": ["10.77.0.1/24"]}
_EXAMPLE_PEER = {"name": "bob", "public": "bob.public", "allowed_ips": ["10.77.0.2/32"]}


class Config(Section):
    """A gateway's whole configuration file."""

    node: NodeConfig
    log: LogConfig = LogConfig()
    tunnel: TunnelConfig = Field(examples=[_EXAMPLE_TUNNEL])
    key_sources: dict[Name, Annotated[KeySourceConfig, BeforeValidator(_key_source)]] = Field(default_factory=dict)
    peers: tuple[PeerConfig, ...] = Field(min_length=1, examples=[[_EXAMPLE_PEER]])
    plain_peers: Annotated[tuple[PlainPeerConfig, ...], NeverTheOwners] = ()

    def peer(self, name: str) -> PeerConfig:
        """The peer of that name; raises ``ConfigError`` naming the peers there are."""
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise ConfigError(f"no peer {name!r}; peers: {listing(peer.name for peer in self.peers)}")
