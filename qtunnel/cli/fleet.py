"""``qtunnel fleet``: all gateways that report to an MQTT broker, in one view."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from yarl import URL

from qtunnel.config.urls import parse_mqtt_url
from qtunnel.control.words import duration
from qtunnel.errors import EXIT_FAILURE, BrokerError

_PATH = click.Path(readable=False, path_type=Path)


@click.group()
def fleet() -> None:
    """Any number of gateways, through an MQTT broker of your own (mqtt: in their configuration)."""


@fleet.command()
@click.option("--broker", "url", required=True, metavar="URL", help="mqtts://HOST:PORT, or mqtt://127.0.0.1:PORT.")
@click.option("--ca", type=_PATH, help="Certificate of who signs the broker's.")
@click.option("--certificate", type=_PATH, help="Ours, where the broker wants one.")
@click.option("--private-key", type=_PATH, help="Of that certificate (mode 0600).")
@click.option("--username", help="Ours at the broker.")
@click.option("--password-file", type=_PATH, help="With its password (mode 0600).")
@click.option("--prefix", default="qtunnel", show_default=True, help="What stands before the gateways' topics.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(
    url: str, ca: Path | None, certificate: Path | None, private_key: Path | None, username: str | None,
    password_file: Path | None, prefix: str, as_json: bool,
) -> None:  # fmt: skip
    """Show every gateway: whether it is there, its tunnels, its key sources.

    Exits with 0 where all of them are there and protected as their policies ask, 1 where one is not, and 3 where the
    broker does not answer.
    """
    try:
        place = URL(parse_mqtt_url(url))
    except ValueError as error:
        raise click.UsageError(f"--broker {error}") from None
    if (place.scheme == "mqtts") != (ca is not None):
        raise click.UsageError("mqtts:// needs --ca, and mqtt:// takes none")
    if (certificate is None) != (private_key is None) or (username is None) != (password_file is None):
        raise click.UsageError("--certificate belongs to --private-key, --username to --password-file; give both")
    try:
        from qtunnel.fleet.broker import Broker
        from qtunnel.fleet.view import read_fleet
    except ModuleNotFoundError as error:
        raise BrokerError(f"qtunnel fleet needs {error.name}: pip install 'qtunnel[mqtt]'") from None
    broker = Broker.at(str(place), ca, certificate, private_key, username, password_file)
    members = asyncio.run(read_fleet(broker, prefix, f"qtunnel-fleet-{os.urandom(4).hex()}"))
    if as_json:
        click.echo(json.dumps({"version": 1, "gateways": [_document(its) for its in members]}, indent=2))
    else:
        Console().print(render(members, time.time()))
    sys.exit(0 if members and all(its.well for its in members) else EXIT_FAILURE)


def _document(member: Any) -> dict[str, Any]:
    return {
        "name": member.name,
        "online": member.online,
        "well": member.well,
        "node": member.node.model_dump(),
        "peers": {name: its.model_dump() for name, its in sorted(member.peers.items())},
        "sources": {name: its.model_dump() for name, its in sorted(member.sources.items())},
    }


def render(members: list[Any], unix_now: float) -> RenderableType:
    """A table, a line for each gateway. unix_now: Unix seconds."""
    if not members:
        return Text("no gateway reports to this broker under this prefix")
    table = Table(box=None, pad_edge=False)
    for heading in ("gateway", "state", "tunnels", "not as policy asks", "oldest key", "sources", "reported"):
        table.add_column(heading, justify="left")
    for member in members:
        table.add_row(*(Text(_clean(cell), style="" if member.well else "red") for cell in _cells(member, unix_now)))
    return table


def _cells(member: Any, unix_now: float) -> list[str]:
    peers, sources = member.peers, member.sources
    short = [f"{name} ({its.protection})" for name, its in sorted(peers.items()) if not its.protected]
    ages = [its.age_s for its in peers.values() if its.age_s is not None]
    ill = [f"{name} ({its.state})" for name, its in sorted(sources.items()) if its.healthy is False]
    ago = max(0.0, unix_now - member.node.time) if member.node.time else None
    return [
        member.name,
        member.node.state if member.online else "offline",
        f"{sum(its.protected for its in peers.values())} of {len(peers)}",
        ", ".join(short) or "-",
        duration(max(ages)) if ages else "-",
        ", ".join(ill) or f"{len(sources)} well",
        "-" if ago is None else f"{duration(ago)} ago",
    ]


def _clean(text: str) -> str:
    """What others wrote, without what a terminal obeys."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]
