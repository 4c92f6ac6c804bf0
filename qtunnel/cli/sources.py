"""``qtunnel sources``: how the key sources are, what they hold and how long that lasts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from qtunnel.cli import completion
from qtunnel.cli.selectors import daemon_options, open_client
from qtunnel.control.messages import KeySourceStatus, SourcePeerStatus
from qtunnel.control.words import duration
from qtunnel.errors import EXIT_FAILURE, EXIT_PROTECTED

COLOURS = {
    "well": "green", "not asked yet": "", "failing": "red", "resting": "red", "partly in quarantine": "red",
    "in quarantine": "red",
}  # fmt: skip
OLD = 60.0
"""Seconds from which on a QBER has its age: two of the usual 30 s between looks, as one that is late is no news."""
MOST_PEERS = 20
"""Peers with a line of their own for each source: a hub has a thousand; ``--json`` has all."""


@click.group(invoke_without_command=True)
@daemon_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def sources(
    context: click.Context, config: Path | None, socket_path: Path | None, node: str | None, as_json: bool
) -> None:
    """Show each key source: whether it delivers, its keys, rate, QBER, and how many days they last.

    Exits with 0 where all of them are well, 1 where one is not, and 3 where no daemon answers.
    """
    if context.invoked_subcommand is not None:
        if config or socket_path or node or as_json:
            raise click.UsageError(f"options go after the command: qtunnel sources {context.invoked_subcommand} ...")
        return
    found = open_client(config, socket_path, node).status().key_sources
    if as_json:
        click.echo(json.dumps({"version": 1, "key_sources": [its.model_dump(mode="json") for its in found]}, indent=2))
    else:
        Console().print(render(found))
    sys.exit(EXIT_PROTECTED if all(its.healthy for its in found) else EXIT_FAILURE)


@sources.command()
@click.argument("name", shell_complete=completion.sources)
@click.option(
    "--peer",
    shell_complete=completion.peers,
    help="Towards this peer alone; else the source's own, and towards all of them.",
)
@daemon_options
def clear(name: str, peer: str | None, config: Path | None, socket_path: Path | None, node: str | None) -> None:
    """End the quarantine of the key source NAME, once you know what its alarm was.

    No key is used before its next status, and an alarm that goes on puts it there again.
    """
    open_client(config, socket_path, node).clear_source(name, peer)
    towards = "" if peer is None else f" towards {peer}"
    click.echo(f"key source {name} is out of quarantine{towards}; its next status decides")


def render(found: list[KeySourceStatus]) -> RenderableType:
    """A table, and below it what is wrong."""
    if not found:
        return Text("no key sources are configured")
    table = Table(box=None, pad_edge=False)
    for heading in ("source", "state", "keys", "key rate", "used a day", "lasts", "QBER", "lost"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("source", "state") else "right")
    for its in found:
        table.add_row(
            Text(its.name), Text(its.state, style=COLOURS[its.state]), _keys(its), rate_words(its.key_rate),
            "-" if its.keys_used_per_day is None else f"{its.keys_used_per_day:,.0f}",
            lasts_words(its), qber_words(its), f"{its.keys_lost:,}",
        )  # fmt: skip
    details = [Text(f"{its.description}: {_words(its)}") for its in found if not its.healthy]
    details += [Text(line) for its in found for line in _towards(its)]
    return Group(table, *([Text(), *details] if details else []))


def _towards(its: KeySourceStatus) -> list[str]:
    """A line for each peer that there is something to say of."""
    told = its.doubted
    said = [(one.peer, state_words(one), one.alarm or one.problem) for one in told[:MOST_PEERS]]
    lines = [f"{its.name} towards {peer}: {state}" + (f": {why}" if why else "") for peer, state, why in said]
    more = len(told) - MOST_PEERS
    return [*lines, f"{its.name}: and {more} peers more"] if more > 0 else lines


def _words(its: KeySourceStatus) -> str:
    return its.alarm or its.last_error or its.detail or its.state


def _keys(its: KeySourceStatus) -> str:
    if its.stored_keys is None:
        return "-"
    return f"{its.stored_keys:,}" if its.max_keys is None else f"{its.stored_keys:,} of {its.max_keys:,}"


def rate_words(rate: float | None) -> str:
    """Secret bits per second, in words."""
    if rate is None:
        return "-"
    for size, unit in ((1e6, "Mbit/s"), (1e3, "kbit/s")):
        if rate >= size:
            return f"{rate / size:.3g} {unit}"
    return f"{rate:.3g} bit/s"


def lasts_words(its: KeySourceStatus) -> str:
    if its.lasts:
        return "on and on"
    if its.days_left is None:
        return "-"
    hours = its.days_left * 24
    return f"{its.days_left:.1f} days" if hours >= 48 else f"{hours:.1f} hours"


def qber_words(its: KeySourceStatus) -> str:
    if its.qber is None:
        return "-"
    limit = "" if its.qber_limit is None else f" of {its.qber_limit:.1%}"
    old = its.qber_age_s is not None and its.qber_age_s > OLD
    return f"{its.qber:.1%}{limit}" + (f", {duration(its.qber_age_s or 0.0)} ago" if old else "")


def state_words(its: SourcePeerStatus) -> str:
    """What is in force of a source's keys with one peer, and since when where that is no status."""
    silent = its.state == "status not known" and its.silent_s is not None
    return f"{its.state} for {duration(its.silent_s or 0.0)}" if silent else its.state
