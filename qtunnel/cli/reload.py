"""``qtunnel reload``: have the daemon read its configuration again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from qtunnel.cli.selectors import daemon_options, open_client, running_on
from qtunnel.control.messages import ReloadOutcome
from qtunnel.errors import EXIT_FAILURE, EXIT_PROTECTED


@click.command()
@daemon_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def reload(config: Path | None, socket_path: Path | None, node: str | None, as_json: bool) -> None:
    """Have the daemon read its configuration file again, and say what that changed.

    Tunnels whose peer is the same in both files go on as they are. A file with an error, or with a change that takes a
    restart, changes nothing. SIGHUP does the same without an answer.

    Exits with 0 where the file is in use (also where it changed nothing), 1 where engine or kernel refused a part of
    it, which is tried again, 2 where the file was refused and nothing changed, and 3 where no daemon answers.
    """
    client = None
    if config is not None and socket_path is None and node is None:
        client = running_on(Path(os.path.abspath(config)))  # by its own word: the new file may name another socket
    outcome = (client or open_client(config, socket_path, node)).reload()
    click.echo(outcome.model_dump_json(indent=2) if as_json else describe(outcome))
    sys.exit(EXIT_FAILURE if outcome.trouble else EXIT_PROTECTED)


def describe(outcome: ReloadOutcome) -> str:
    """For people: a line for each change."""
    lines = [*outcome.changes, *(f"warning: {warning}" for warning in outcome.warnings)]
    if not outcome.changes:
        lines.insert(0, f"nothing has changed in {outcome.file}")
    lines += [f"not done yet, it is tried again: {trouble}" for trouble in outcome.trouble]
    return "\n".join(lines)
