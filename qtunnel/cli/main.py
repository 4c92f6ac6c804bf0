"""The command group. Subcommands load when they are called, so that ``qtunnel status`` does not import a KME."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys

import click

from qtunnel import __version__
from qtunnel.errors import EXIT_FAILURE, ConfigError, QtunnelError, printable

COMMANDS = {
    "identity": "qtunnel.cli.identity:identity",
    "check": "qtunnel.cli.check:check",
    "run": "qtunnel.cli.run:run",
    "doctor": "qtunnel.cli.doctor:doctor",
    "status": "qtunnel.cli.status:status",
    "sources": "qtunnel.cli.sources:sources",
    "rekey": "qtunnel.cli.rekey:rekey",
    "reload": "qtunnel.cli.reload:reload",
    "audit": "qtunnel.cli.audit:audit",
    "fleet": "qtunnel.cli.fleet:fleet",
    "kme": "qtunnel.cli.kme:kme",
    "pad": "qtunnel.cli.pad:pad",
    "wg": "qtunnel.cli.wg:wg",
    "steward": "qtunnel.cli.steward:steward",
    "install-service": "qtunnel.cli.install_service:install_service",
    "demo": "qtunnel.cli.demo:demo",
    "bench": "qtunnel.cli.bench:bench",
}
"""Name of each subcommand and where its click command is."""


WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What a write to a full or broken disk says, without the name of a file."""


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
        try:
            command(prog_name=name)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a full disk still has words and an exit code
    except QtunnelError as error:
        tell(error)
        sys.exit(error.exit_code)
    except OSError as error:
        _drop_output()
        if not isinstance(error, BrokenPipeError):  # nobody reads any more, as in "qtunnel status | head -1"
            nameless = "output cannot be written" if error.errno in WRITE_ERRORS else "cannot go on"
            place = f"{error.filename or nameless}: "
            with contextlib.suppress(OSError):
                click.echo(f"qtunnel: {place}{(error.strerror or str(error)).lower()}", err=True)
        sys.exit(EXIT_FAILURE)


def tell(error: QtunnelError) -> None:
    """An error on stderr: one line; of a file with several errors each with its place, and their number."""
    lines = [printable(line) for line in str(error).splitlines()]
    if len(lines) > 1:
        file = f" in {error.file}" if isinstance(error, ConfigError) and error.file is not None else ""
        click.echo("\n".join([*lines, f"qtunnel: {len(lines)} errors{file}"]), err=True)
    else:
        click.echo(f"qtunnel: {''.join(lines)}", err=True)


def _drop_output() -> None:
    """What could not be written must not be tried again when the interpreter ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError, ValueError):
            stream.flush()
            continue
        with contextlib.suppress(OSError, AttributeError, ValueError):
            os.dup2(null, stream.fileno())
    os.close(null)
