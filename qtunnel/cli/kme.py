"""``qtunnel kme``: the embedded KME and its PKI."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from qtunnel.kme.pki import DEFAULT_KMES, DEFAULT_SAES, KmeName, create_pki
from qtunnel.process import forbid_core_dumps

if TYPE_CHECKING:
    from qtunnel.kme.config import KmeConfig


@click.group()
def kme() -> None:
    """Run a KME with simulated keys (ETSI GS QKD 014), and make its certificates."""


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
def pki(directory: Path, kmes: tuple[str, ...], saes: tuple[str, ...], add: bool) -> None:
    """Make a CA and certificates for KMEs and SAEs in DIRECTORY.

    Writes ca.pem, ca.key and NAME.pem, NAME.key for each name. Overwrites nothing.
    """
    if add and not kmes and not saes:
        raise click.UsageError("--add needs at least one --kme or --sae")
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
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def serve(config: Path, log_format: Literal["text", "json"]) -> None:
    """Run the KME that the file CONFIG describes, until SIGTERM or Ctrl-C."""
    from qtunnel.kme.config import load_config
    from qtunnel.telemetry.log import configure

    forbid_core_dumps()
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
