"""What daemon and steward say to each other: JSON lines over a UNIX socket, and an interface's set-up in them."""

from __future__ import annotations

import json
from ipaddress import ip_interface, ip_network
from typing import Any

from qtunnel.engines.bypass import mark_of
from qtunnel.engines.interface import InterfaceConfig, guard_metric_of
from qtunnel.errors import EngineError
from qtunnel.interface_names import name_problem

VERSION = 1
"""Of this language. A steward goes on through upgrades of the package, with the code that it was started with; one of
another version is asked to end, and comes back as what is installed."""

MAX_LINE = 64 << 20
"""Bytes. The allowed IPs of 1,000 peers are 100 kB; as for UAPI, this is only against what is no message at all."""

SOCKETS = ".sockets"
"""What a steward's path has behind it where it takes sockets to be marked."""

PROGRAMS = ("qtunnel", "wireguard-go", "boringtun-cli")
"""The engines that a steward starts: those that the daemon drives over UAPI, without a capability of its own."""

MAX_TXQUEUELEN = 10_000
"""Packets. The kernel holds 8 bytes for each as long as the interface is there, whether packets wait or not."""


def encode(message: dict[str, Any]) -> bytes:
    """One line; the text has no line break in it."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message; raises ``EngineError`` for what is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise EngineError("the steward's socket: a line that is no message")
    return message


def config_to_plain(config: InterfaceConfig) -> dict[str, Any]:
    """An interface's set-up as JSON holds it."""
    return {
        "name": config.name,
        "addresses": [str(address) for address in config.addresses],
        "mtu": config.mtu,
        "allowed_ips": [str(network) for network in config.allowed_ips],
        "routes": config.routes,
        "txqueuelen": config.txqueuelen,
        "mark": config.mark,
        "guard_metric": config.guard_metric,
    }


def config_from_plain(plain: Any) -> InterfaceConfig:
    """The same back; raises ``EngineError`` for anything else."""
    try:
        return InterfaceConfig(
            str(plain["name"]),
            tuple(ip_interface(str(text)) for text in plain["addresses"]),
            int(plain["mtu"]),
            tuple(ip_network(str(text)) for text in plain["allowed_ips"]),
            bool(plain["routes"]),
            int(plain["txqueuelen"]),
            int(plain["mark"]),
            int(plain["guard_metric"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise EngineError("the steward was sent an interface that is none") from None


def is_interface_name(name: object) -> bool:
    """Whether it is one that a gateway's interface can have, as the configuration's."""
    return isinstance(name, str) and name_problem(name) is None


def own_config_from_plain(plain: Any) -> InterfaceConfig:
    """As ``config_from_plain``, of one gateway's own interface alone; raises ``EngineError`` for anything else.

    Mark and metric say which routing table, which rules and which unreachable routes are cleared as this gateway's:
    with the number of the main table, or of somebody else's, they would be the host's.
    """
    config = config_from_plain(plain)
    ports = range(1 << 16)
    port = guard_metric_of(0) - config.guard_metric
    if not is_interface_name(config.name) or port not in ports or config.mark not in (0, mark_of(port)):
        raise EngineError("the steward was sent an interface that can be no gateway's own")
    if not 0 < config.txqueuelen <= MAX_TXQUEUELEN:
        raise EngineError(f"interface {config.name}: a queue of {config.txqueuelen} packets is out of all bounds")
    return config
