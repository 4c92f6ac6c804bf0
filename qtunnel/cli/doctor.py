"""``qtunnel doctor``: whether a host has what a gateway needs, and what to do where it has not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import click

from qtunnel.cli.machine import check_machine
from qtunnel.config import Config, load_config
from qtunnel.doctor.model import Check, Finding, Host, Result, good, is_well, wrong
from qtunnel.doctor.run import as_json, as_text, examine
from qtunnel.errors import EXIT_FAILURE, ConfigError

LOOK_BOUND = 1.0
"""Seconds to see whether a daemon listens at its control socket; the kernel tells at once."""


@click.command()
@click.argument("config", required=False, type=click.Path(readable=False, path_type=Path))
@click.option("--json", "as_json_object", is_flag=True, help="One JSON object.")
def doctor(config: Path | None, as_json_object: bool) -> None:
    """Check this host, and what it has for the configuration CONFIG.

    Changes nothing, starts nothing and takes no key; of KMEs the status is asked. Exits with 0 where nothing is wrong,
    1 where something is. Run it as the user that runs the gateway, or as root.
    """
    loaded, said = _load(config)
    host = Host(loaded, loaded is not None and _answers(loaded.node.control_socket), lambda: datetime.now(UTC))
    results = said + asyncio.run(examine(host))
    click.echo(as_json(config, results) if as_json_object else as_text(results))
    if not is_well(results):
        raise click.exceptions.Exit(EXIT_FAILURE)


def _load(file: Path | None) -> tuple[Config | None, list[Result]]:
    """The configuration where it can be used; where only its files are not fit, the rest is looked at all the same."""
    if file is None:
        return None, []
    check = Check("config", "configuration", _nothing)
    try:
        return load_config(file, checks=[check_machine]), [Result(check, good("is right", str(file)))]
    except ConfigError as error:
        lines = [line.removeprefix(f"{file}:") for line in str(error).splitlines()]
        found = [Result(check, _of_line(line)) for line in lines]
    with contextlib.suppress(ConfigError):
        return load_config(file, check_files=False), found
    return None, found


def _of_line(line: str) -> Finding:
    what, _, remedy = line.partition("; ")
    return wrong(what, remedy or "correct it; configs/alice.yaml explains every option")


async def _nothing(host: Host) -> AsyncIterator[Finding]:
    return
    yield


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(LOOK_BOUND)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
