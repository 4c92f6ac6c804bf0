"""``qtunnel run``: the daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from qtunnel.config import LogConfig, load_config
from qtunnel.daemon.gateway import Gateway
from qtunnel.daemon.reload import ConfigSource
from qtunnel.engines.steward_client import StewardClient, return_to
from qtunnel.process import guard_memory
from qtunnel.telemetry import log


@click.command()
@click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(readable=False, path_type=Path),
    required=True,
    help="the gateway's YAML file",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="instead of log.format")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="instead of log.level")
@click.option(
    "--steward",
    type=click.Path(readable=False, path_type=Path),
    help="Socket of 'qtunnel steward', which has the engine and changes the network for a daemon without capabilities.",
)
def run(path: Path, log_format: str | None, log_level: str | None, steward: Path | None) -> None:
    """Run the gateway in the foreground until SIGTERM or SIGINT."""
    guard_memory()
    if steward is not None:
        return_to(steward)

    def apply_log(wanted: LogConfig) -> None:
        log.configure("json" if (log_format or wanted.format) == "json" else "text", log_level or wanted.level)

    config = load_config(path)
    apply_log(config.log)
    source = ConfigSource(path.absolute(), lambda: load_config(path.absolute()), apply_log)
    asyncio.run(Gateway(config, source, None if steward is None else StewardClient(steward)).run())
