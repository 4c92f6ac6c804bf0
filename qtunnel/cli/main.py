"""The command group. Subcommands load when they are called, so that ``qtunnel status`` does not import a KME."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import textwrap

import click
from click.shell_completion import CompletionItem

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
    "completion": "qtunnel.cli.completion:completion",
    "demo": "qtunnel.cli.demo:demo",
    "bench": "qtunnel.cli.bench:bench",
}
"""Name of each subcommand and where its click command is."""

SUMMARIES = {
    "identity": "Make and show the keys that a gateway is known by.",
    "check": "Check the configuration FILE and everything it names.",
    "run": "Run the gateway in the foreground until SIGTERM or SIGINT.",
    "doctor": "Check this host, and what it has for the configuration CONFIG.",
    "status": "Show what protects the traffic with PEER, or with every peer.",
    "sources": "Show each key source: whether it delivers, its keys, rate, QBER, and how many days they last.",
    "rekey": "Rekey with PEER now, and report the outcome.",
    "reload": "Have the daemon read its configuration file again, and say what that changed.",
    "audit": "What is on record: keys, protection, what operators did, alarms.",
    "fleet": "Any number of gateways, through an MQTT broker of your own (mqtt: in their configuration).",
    "kme": "Run a KME or a whole network with simulated keys (ETSI GS QKD 014), make certificates, "
    "probe a vendor's KME.",
    "pad": "Make and show pads: random files that both gateways have a copy of (key source driver 'file').",
    "wg": "Create the WireGuard INTERFACE and serve it, in the background once it answers to wg(8).",
    "steward": "Start the engine and set up its interface for the daemon that asks at SOCKET "
    "('qtunnel run --steward').",
    "install-service": "Put the service's units in place, with its user and its directories; again changes nothing.",
    "completion": "Print what SHELL reads to complete commands, options, and names of peers, sources and nodes.",
    "demo": "Two gateways and two KMEs on this machine, a tunnel, pings and a throughput test, "
    "a rekey every few seconds.",
    "bench": "Measure 'qtunnel wg' on this machine, in namespaces of its own that are gone afterwards.",
}
"""The first sentence of each one's help, so that a list of them, as at the Tab key, imports none."""


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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        room = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, textwrap.shorten(its, room, placeholder="...")) for name, its in SUMMARIES.items()]
            )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=its) for name, its in SUMMARIES.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


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
