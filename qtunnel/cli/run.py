"""``qtunnel run``: the daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from qtunnel.config import LogConfig, load_config
from qtunnel.daemon.gateway import Gateway
from qtunnel.daemon.reload import ConfigSource
from qtunnel.process import forbid_core_dumps
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
def run(path: Path, log_format: str | None, log_level: str | None) -> None:
    """Run the gateway in the foreground until SIGTERM or SIGINT."""
    forbid_core_dumps()

    def apply_log(wanted: LogConfig) -> None:
        log.configure("json" if (log_format or wanted.format) == "json" else "text", log_level or wanted.level)

    config = load_config(path)
    apply_log(config.log)
    source = ConfigSource(path.absolute(), lambda: load_config(path.absolute()), apply_log)
    asyncio.run(Gateway(config, source).run())
