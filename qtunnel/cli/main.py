"""The command group. Subcommands load when they are called, so that ``qtunnel status`` does not import a KME."""

from __future__ import annotations

import importlib
import sys

import click

from qtunnel import __version__
from qtunnel.errors import QtunnelError

COMMANDS = {
    "identity": "qtunnel.cli.identity:identity",
    "check": "qtunnel.cli.check:check",
    "run": "qtunnel.cli.run:run",
    "status": "qtunnel.cli.status:status",
    "rekey": "qtunnel.cli.rekey:rekey",
    "kme": "qtunnel.cli.kme:kme",
    "wg": "qtunnel.cli.wg:wg",
    "demo": "qtunnel.cli.demo:demo",
    "bench": "qtunnel.cli.bench:bench",
}
"""Name of each subcommand and where its click command is."""


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, attribute = target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qtunnel")
def cli() -> None:
    """WireGuard tunnels keyed by ML-KEM, X25519 and QKD together."""


def main() -> None:
    """Entry point ``qtunnel``."""
    _run(cli, "qtunnel")


def wg_main() -> None:
    """Entry point ``qtunnel-wg``: ``qtunnel wg`` as a program of its own.

    wg-quick(8) starts what WG_QUICK_USERSPACE_IMPLEMENTATION names with the interface as the only argument.
    """
    command = cli.get_command(click.Context(cli), "wg")
    assert command is not None
    _run(command, "qtunnel-wg")


def _run(command: click.Command, name: str) -> None:
    """Run the command; every expected error is one line on stderr and an exit code."""
    try:
        command(prog_name=name)
    except QtunnelError as error:
        click.echo(f"qtunnel: {error}", err=True)
        sys.exit(error.exit_code)
