"""``qtunnel kme``: the embedded KME and its PKI, and a probe of any KME."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qtunnel.cli.kme_network import ctl, plan, run, show_map
from qtunnel.errors import EXIT_FAILURE, EXIT_PROTECTED
from qtunnel.kme.pki import DEFAULT_KMES, DEFAULT_SAES, KmeName, create_pki
from qtunnel.process import guard_memory

if TYPE_CHECKING:
    from qtunnel.kme.config import KmeConfig
    from qtunnel.probe.target import Target


@click.group()
def kme() -> None:
    """Run a KME or a whole network with simulated keys (ETSI GS QKD 014), make certificates, probe a vendor's KME."""


for _command in (run, ctl, show_map, plan):
    kme.add_command(_command)


@kme.command()
@click.argument("directory", type=click.Path(readable=False, path_type=Path))
@click.option(
    "--kme",
    "kmes",
    multiple=True,
    metavar="NAME[=ADDRESS,...]",
    help="A KME, and how it is reached besides localhost. Default: kme-a and kme-b.",
)
@click.option("--sae", "saes", multiple=True, metavar="NAME", help="An SAE. Default: sae-alice and sae-bob.")
@click.option("--add", is_flag=True, help="Sign further names with the CA that DIRECTORY holds.")
@click.option(
    "--topology", type=click.Path(readable=False, path_type=Path), help="All KMEs and SAEs of a simulated network."
)
def pki(directory: Path, kmes: tuple[str, ...], saes: tuple[str, ...], add: bool, topology: Path | None) -> None:
    """Make a CA and certificates for KMEs and SAEs in DIRECTORY.

    Writes ca.pem, ca.key and NAME.pem, NAME.key for each name. Overwrites nothing.
    """
    if add and not kmes and not saes:
        raise click.UsageError("--add needs at least one --kme or --sae")
    if topology is not None:
        if kmes or saes or add:
            raise click.UsageError("--topology names all KMEs and SAEs; leave --kme, --sae and --add out")
        from qtunnel.simulator.pki import make_pki
        from qtunnel.simulator.topology_file import load_topology

        for path in make_pki(load_topology(topology), datetime.now(UTC), directory):
            click.echo(path)
        return
    made = create_pki(
        directory,
        now=datetime.now(UTC),
        kmes=[KmeName.parse(text) for text in kmes] if kmes or add else DEFAULT_KMES,
        saes=saes if saes or add else DEFAULT_SAES,
        add=add,
    )
    for path in made:
        click.echo(path)


@kme.command()
@click.argument("config", type=click.Path(readable=False, path_type=Path))
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="The form of the log."
)
def serve(config: Path, log_format: Literal["text", "json"]) -> None:
    """Run the KME that the file CONFIG describes, until SIGTERM or Ctrl-C."""
    from qtunnel.kme.config import load_config
    from qtunnel.telemetry.log import configure

    guard_memory()
    loaded = load_config(config)
    configure(log_format, "info", sys.stderr)
    asyncio.run(_serve(loaded))


async def _serve(config: KmeConfig) -> None:
    from qtunnel.kme.server import running

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config):
        await stop.wait()


@kme.command()
@click.argument("config", type=click.Path(readable=False, path_type=Path))
@click.option("--source", metavar="NAME", help="The key source, where CONFIG has several with driver: etsi014.")
@click.option("--peer", metavar="NAME", help="The peer towards whose SAE keys are asked for, where there are several.")
@click.option(
    "--peer-config",
    type=click.Path(readable=False, path_type=Path),
    help="The other gateway's configuration, with its certificates: fetches the keys there as well.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object; needs --yes.")
@click.option("--yes", is_flag=True, help="Take the keys without asking.")
def probe(
    config: Path, source: str | None, peer: str | None, peer_config: Path | None, as_json: bool, yes: bool
) -> None:
    """Say where the KME of the gateway's configuration CONFIG differs from ETSI GS QKD 014, and what copes with it.

    Says beforehand how many keys it takes at most. Exits with 0 where nothing deviates, 1 where something does, 2 where
    it was called wrongly, and 3 where the KME does not answer.
    """
    from qtunnel.probe import report
    from qtunnel.probe.run import probe as probe_kme
    from qtunnel.probe.target import find_target

    guard_memory()
    target = find_target(config, source, peer, peer_config)
    found = asyncio.run(probe_kme(target, lambda keys: _agree(target, keys, as_json, yes), os.urandom))
    click.echo(report.as_json(target, found) if as_json else report.as_text(target, found))
    sys.exit(EXIT_PROTECTED if found.conforms else EXIT_FAILURE)


def _agree(target: Target, keys: int, as_json: bool, yes: bool) -> bool:
    from qtunnel.probe.report import announcement

    said = announcement(target, keys)
    if yes:
        click.echo(said, err=True)
        return True
    if as_json or not sys.stdin.isatty():
        raise click.UsageError(f"{said}; this needs --yes where nobody can be asked")
    return click.confirm(f"{said}; go on?", err=True)
