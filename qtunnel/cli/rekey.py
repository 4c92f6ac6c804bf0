"""``qtunnel rekey``: agree on a new epoch now."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from qtunnel.cli import completion
from qtunnel.cli.selectors import daemon_options, open_client
from qtunnel.control.messages import MAX_REKEY_TIMEOUT, REKEY_TIMEOUT, RekeyOutcome
from qtunnel.control.words import PROTECTION_WORDS
from qtunnel.errors import EXIT_FAILURE, EXIT_PROTECTED


@click.command()
@click.argument("peer", shell_complete=completion.peers)
@daemon_options
@click.option(
    "--timeout",
    type=click.FloatRange(0, MAX_REKEY_TIMEOUT, min_open=True),
    default=REKEY_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the outcome.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def rekey(
    peer: str, config: Path | None, socket_path: Path | None, node: str | None, timeout: float, as_json: bool
) -> None:
    """Rekey with PEER now, and report the outcome.

    Exits with 0 where a new epoch was agreed that protects as policy asks, 1 where not, 2 for wrong usage and 3 where
    no daemon answers.
    """
    outcome = open_client(config, socket_path, node).rekey(peer, timeout)
    click.echo(outcome.model_dump_json(indent=2) if as_json else describe(outcome))
    sys.exit(EXIT_PROTECTED if outcome.ok and outcome.protected else EXIT_FAILURE)


def describe(outcome: RekeyOutcome) -> str:
    """One line for people."""
    if not outcome.ok:
        reason = outcome.error or "no reason told"
        return (
            f"{outcome.peer}: rekey failed after {outcome.duration_ms:.0f} ms: {reason}; "
            f"now {PROTECTION_WORDS[outcome.protection]}"
        )
    keys = "".join(f"; {key.source} key_ID {key.key_id}" for key in outcome.key_ids)
    verdict = "" if outcome.protected else "; NOT protected as policy asks"
    return (
        f"{outcome.peer}: epoch {outcome.epoch} agreed in {outcome.duration_ms:.0f} ms from "
        f"{', '.join(outcome.sources)}{keys}{verdict}"
    )
