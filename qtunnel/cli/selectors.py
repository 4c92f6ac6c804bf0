"""Which daemon a command talks to: ``--config``, ``--socket``, ``--node``, or the only one that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qtunnel import constants
from qtunnel.cli import completion
from qtunnel.control.client import ControlClient
from qtunnel.errors import NoDaemonError, QtunnelError

START_HINT = "start one with: qtunnel run --config FILE"


def daemon_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that select a daemon."""
    for option in (
        click.option("--node", metavar="NAME", help="The daemon of that node name.", shell_complete=completion.nodes),
        click.option(
            "--socket",
            "socket_path",
            type=click.Path(readable=False, path_type=Path),
            metavar="PATH",
            help="Its control socket.",
        ),
        click.option(
            "--config", type=click.Path(readable=False, path_type=Path), metavar="FILE", help="The daemon of that file."
        ),
    ):
        command = option(command)
    return command


def open_client(config: Path | None, socket_path: Path | None, node: str | None) -> ControlClient:
    """The client for the selected daemon; raises ``NoDaemonError`` or a usage error that names the choices."""
    given = [name for name, value in (("--config", config), ("--socket", socket_path), ("--node", node)) if value]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} select a daemon twice; give one of them")
    if socket_path is not None:
        return ControlClient(socket_path)
    if config is not None:
        from qtunnel.config import load_config

        return ControlClient(load_config(config, check_files=False).node.control_socket)
    directory = Path(constants.DEFAULT_RUNTIME_DIRECTORY)
    if node is not None:
        if "/" in node or node in {".", ".."}:
            raise click.UsageError(f"--node {node!r} is no node name; for a path there is --socket")
        return ControlClient(directory / f"{node}.sock")
    return ControlClient(_only_socket(directory))


def running_on(config: Path) -> ControlClient | None:
    """The client for the daemon that says it reads this file, among those in the usual place."""
    directory = Path(constants.DEFAULT_RUNTIME_DIRECTORY)
    for path in sorted(directory.glob("*.sock")) if directory.is_dir() else []:
        client = ControlClient(path, timeout=2.0)
        try:
            if client.ping().config == str(config):
                return ControlClient(path)
        except QtunnelError:
            continue
    return None


def _only_socket(directory: Path) -> Path:
    found = sorted(directory.glob("*.sock")) if directory.is_dir() else []
    if not found:
        raise NoDaemonError(f"no daemon: no control socket in {directory}; {START_HINT}, or select one with --socket")
    if len(found) == 1:
        return found[0]
    alive = [path for path in found if _answers(path)]
    if len(alive) == 1:
        return alive[0]
    if not alive:
        raise NoDaemonError(f"no daemon answers at {', '.join(map(str, found))}; {START_HINT}")
    names = ", ".join(path.stem for path in alive)
    raise click.UsageError(f"several daemons run here ({names}); select one with --node NAME")


def _answers(path: Path) -> bool:
    try:
        ControlClient(path, timeout=2.0).ping()
    except NoDaemonError:
        return False
    except QtunnelError:
        return True  # somebody is there, even if not one to understand
    return True
