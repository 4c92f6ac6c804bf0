"""``qtunnel status``: what protects the traffic now, in words."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import click
from rich.console import Console

from qtunnel.cli import completion
from qtunnel.cli.selectors import daemon_options, open_client
from qtunnel.cli.status_view import render
from qtunnel.control.client import ControlClient
from qtunnel.control.messages import Status
from qtunnel.errors import EXIT_FAILURE, EXIT_PROTECTED

REFRESH = 1.0
"""Seconds between two looks of ``--watch``; ages are shown in seconds."""
FASTEST, SLOWEST = 0.2, 3600.0


@click.command()
@click.argument("peer", required=False, shell_complete=completion.peers)
@daemon_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch one a line.")
@click.option("--watch", is_flag=True, help="A live view until Ctrl-C, also over a restart of the daemon.")
@click.option(
    "--interval",
    type=click.FloatRange(FASTEST, SLOWEST),
    metavar="SECONDS",
    help=f"Between two looks of --watch; by default {REFRESH:g}.",
)
def status(
    peer: str | None,
    config: Path | None,
    socket_path: Path | None,
    node: str | None,
    as_json: bool,
    watch: bool,
    interval: float | None,
) -> None:
    """Show what protects the traffic with PEER, or with every peer.

    With --watch on a terminal: the age of each epoch as a line over the last minutes, how full reservoirs are, sources
    with their QBER. Into a file or a pipe, or where NO_COLOR is set, one status follows the other; with --json it ends
    when the daemon does.

    Exits with 0 where all peers shown are protected as their policy asks, 1 where not, 2 for wrong usage and 3 where
    no daemon answers.
    """
    if interval is not None and not watch:
        raise click.UsageError("--interval is for --watch")
    if interval is not None and math.isnan(interval):
        raise click.UsageError("--interval is no number")
    client = open_client(config, socket_path, node)
    if watch:
        from qtunnel.cli.watch import watch as keep_watching

        sys.exit(keep_watching(client, peer, interval or REFRESH, as_json=as_json))
    report = _once(client, peer, as_json)
    sys.exit(EXIT_PROTECTED if report.protected else EXIT_FAILURE)


def _once(client: ControlClient, peer: str | None, as_json: bool) -> Status:
    report = client.status(peer)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        Console().print(render(report))
    return report
