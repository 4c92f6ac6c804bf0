"""``qtunnel status``: what protects the traffic now, in words."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from qtunnel.cli.selectors import daemon_options, open_client
from qtunnel.cli.status_view import render
from qtunnel.control.client import ControlClient
from qtunnel.control.messages import Status
from qtunnel.errors import EXIT_FAILURE, EXIT_PROTECTED

REFRESH = 1.0
"""Seconds between two looks of ``--watch``; ages are shown in seconds."""


@click.command()
@click.argument("peer", required=False)
@daemon_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch one a line.")
@click.option("--watch", is_flag=True, help="Refresh every second until Ctrl-C.")
def status(
    peer: str | None, config: Path | None, socket_path: Path | None, node: str | None, as_json: bool, watch: bool
) -> None:
    """Show what protects the traffic with PEER, or with every peer.

    Exits with 0 where all peers shown are protected as their policy asks, 1 where not, 2 for wrong usage and 3 where
    no daemon answers.
    """
    client = open_client(config, socket_path, node)
    report = _watch(client, peer, as_json) if watch else _once(client, peer, as_json)
    sys.exit(EXIT_PROTECTED if report.protected else EXIT_FAILURE)


def _once(client: ControlClient, peer: str | None, as_json: bool) -> Status:
    report = client.status(peer)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        Console().print(render(report))
    return report


def _watch(client: ControlClient, peer: str | None, as_json: bool) -> Status:
    report = client.status(peer)
    try:
        if as_json:
            while True:
                click.echo(report.model_dump_json())
                time.sleep(REFRESH)
                report = client.status(peer)
        console = Console()
        if not console.is_terminal:  # nothing can be redrawn: one status after the other
            while True:
                console.print(render(report), Text())
                time.sleep(REFRESH)
                report = client.status(peer)
        with Live(render(report), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH)
                report = client.status(peer)
                live.update(render(report), refresh=True)
    except KeyboardInterrupt:
        return report
