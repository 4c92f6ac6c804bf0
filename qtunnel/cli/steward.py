"""``qtunnel steward``: what of a service may change the network, in a process without secrets of the gateway."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

from qtunnel.engines.steward import Steward
from qtunnel.engines.voice import log_to
from qtunnel.process import guard_memory
from qtunnel.sd_notify import Notifier
from qtunnel.telemetry import log

logger = log.get("engine")


@click.command()
@click.argument("socket", type=click.Path(readable=False, path_type=Path))
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="The form of the log."
)
def steward(socket: Path, log_format: str) -> None:
    """Start the engine and set up its interface for the daemon that asks at SOCKET ('qtunnel run --steward').

    The engine goes on when the daemon ends, for the next one. On SIGTERM the engine ends too.
    """
    guard_memory()
    log.configure("json" if log_format == "json" else "text", "info")
    asyncio.run(_serve(socket.absolute()))


async def _serve(socket: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    notifier = Notifier.from_environment()
    alive = asyncio.create_task(_watchdog(notifier))
    try:
        await Steward(socket, log_to(logger)).serve(lambda: notifier.ready("has engine and interface"), stop)
    finally:
        alive.cancel()
        notifier.stopping()


async def _watchdog(notifier: Notifier) -> None:
    while notifier.watchdog_interval is not None:
        notifier.watchdog()
        await asyncio.sleep(notifier.watchdog_interval)
