"""``qtunnel completion``: what a shell needs to complete, and names of what runs here to complete with."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import ShellComplete, get_completion_class

from qtunnel import constants
from qtunnel.errors import QtunnelError

if TYPE_CHECKING:
    from qtunnel.control.client import ControlClient

ANSWER_BOUND = 1.0
"""Seconds that a person at the Tab key waits for a daemon."""

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what SHELL reads to complete commands, options, and names of peers, sources and nodes.

    Packages and make install put it where shells look. Otherwise, for bash: eval "$(qtunnel completion bash)" in
    ~/.bashrc; for zsh the same in ~/.zshrc, behind compinit; for fish: qtunnel completion fish | source.
    """
    from qtunnel.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(script(found(cli, {}, "qtunnel", "_QTUNNEL_COMPLETE")))


def script(shell: ShellComplete) -> str:
    """As click has it, which by itself would first see how old the bash of this machine is; without what a program says
    that is interrupted while it completes."""
    text = shell.source_template % shell.source_vars()
    return re.sub(r"(_complete (?:COMP_\w+=\([^)]*\) )*(?:\$1|qtunnel))\)", r"\1 2>/dev/null)", text)


def peers(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Those of the daemon that the line selects, without plain peers, which have no epochs."""
    with contextlib.suppress(QtunnelError, click.UsageError, OSError):
        return _those([its.name for its in _client(context).status().peers], incomplete)
    return []


def sources(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Its key sources; those in quarantine alone, where there are any: nothing else can be cleared."""
    with contextlib.suppress(QtunnelError, click.UsageError, OSError):
        found = _client(context).status().key_sources
        held = [its.name for its in found if its.state == "in quarantine"]
        return _those(held or [its.name for its in found], incomplete)
    return []


def nodes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Daemons with a socket in the usual place, without asking them."""
    directory = Path(constants.DEFAULT_RUNTIME_DIRECTORY)
    with contextlib.suppress(OSError):
        return _those([path.stem for path in sorted(directory.glob("*.sock"))], incomplete)
    return []


def _client(context: click.Context) -> ControlClient:
    from qtunnel.cli.selectors import open_client
    from qtunnel.control.client import ControlClient as Client

    said = context.params
    config, socket_path = (Path(said[name]) if said.get(name) else None for name in ("config", "socket_path"))
    return Client(open_client(config, socket_path, said.get("node")).path, timeout=ANSWER_BOUND)


def _those(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
