"""A gateway's configuration: ``load_config(path) -> Config``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from qtunnel.config.accounts import AuditConfig, MetricsConfig, MqttConfig, PageConfig
from qtunnel.config.checks import SETTINGS, check_contents, warnings
from qtunnel.config.document import Problem
from qtunnel.config.loader import load
from qtunnel.config.model import (
    Config,
    KeySourceConfig,
    LogConfig,
    NodeConfig,
    PeerConfig,
    QkdConfig,
    RekeyConfig,
    TunnelConfig,
)
from qtunnel.config.plain import PlainPeerConfig
from qtunnel.config.types import SocketAddress
from qtunnel.constants import DEFAULT_RUNTIME_DIRECTORY, DEFAULT_STATE_DIRECTORY

__all__ = [
    "AuditConfig",
    "Config",
    "KeySourceConfig",
    "LogConfig",
    "MetricsConfig",
    "MqttConfig",
    "NodeConfig",
    "PageConfig",
    "PeerConfig",
    "PlainPeerConfig",
    "QkdConfig",
    "RekeyConfig",
    "SocketAddress",
    "TunnelConfig",
    "load_config",
    "warnings",
]


def with_defaults(config: Config, environ: Mapping[str, str]) -> Config:
    """The configuration with the paths that follow from the node's name or from systemd's environment."""
    node = config.node
    changes: dict[str, Path] = {}
    if "state_dir" not in node.model_fields_set:
        # systemd.exec(5): $STATE_DIRECTORY may list several, separated by colons; the first is ours.
        given = environ.get("STATE_DIRECTORY", "").split(":")[0]
        changes["state_dir"] = Path(given) if given else Path(DEFAULT_STATE_DIRECTORY, node.name)
    if "control_socket" not in node.model_fields_set:
        changes["control_socket"] = Path(DEFAULT_RUNTIME_DIRECTORY, f"{node.name}.sock")
    return config.model_copy(update={"node": node.model_copy(update=changes)}) if changes else config


def load_config(
    path: Path | str,
    *,
    check_files: bool = True,
    checks: Iterable[Callable[[Config], Iterable[Problem]]] = (),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The gateway's configuration file; raises ``ConfigError`` with one line for everything that is wrong.

    check_files: also open the identity, the public files and whatever else the file names; leave it off where only
    settings are wanted, as for finding the control socket. checks: more of them, on the
    configuration with its defaults.
    """
    environment = os.environ if environ is None else environ

    def settings(config: Config) -> Iterable[Problem]:
        completed = with_defaults(config, environment)
        for check in SETTINGS:
            yield from check(completed)

    def given(config: Config) -> Iterable[Problem]:
        completed = with_defaults(config, environment)
        for check in checks:
            yield from check(completed)

    own = [settings, check_contents] if check_files else [settings]
    context = {"environ": environment, "check_files": check_files}
    config = load(path, Config, checks=[*own, given], check_files=check_files, context=context)
    return with_defaults(config, environment)
