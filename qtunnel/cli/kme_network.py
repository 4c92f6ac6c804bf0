"""``qtunnel kme run``, ``ctl``, ``map``, ``plan``: a simulated QKD network."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from qtunnel.errors import EXIT_FAILURE, ConfigError, NetworkError
from qtunnel.process import forbid_core_dumps

if TYPE_CHECKING:
    from qtunnel.simulator.topology_file import Topology

SOCKET = click.option(
    "--socket",
    "socket_path",
    type=click.Path(readable=False, path_type=Path),
    metavar="PATH",
    help="The network's control socket. Default: that of the only network that runs here.",
)
TOPOLOGY = click.Path(readable=False, path_type=Path)

AFTER = 3600.0
"""Seconds of its life after which a network that does not run is shown: its stores are no longer empty then."""

LONGEST = 3660.0
"""Days of a plan: ten years."""

PICTURES = (".png", ".svg", ".pdf")
"""Of a plan."""


@click.command()
@click.argument("topology", type=TOPOLOGY)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(readable=False, path_type=Path),
    metavar="PATH",
    help="The control socket.",
)
@click.option("--make-pki", is_flag=True, help="Make the certificates first, where the topology's pki has none.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="The form of the log."
)
def run(topology: Path, socket_path: Path | None, make_pki: bool, log_format: Literal["text", "json"]) -> None:
    """Run the QKD network of the file TOPOLOGY with a KME for each node, until SIGTERM or Ctrl-C.

    The quantum channels are simulated; the KMEs are real ones for their SAEs. docs/simulator.md has the format.
    """
    from qtunnel.simulator.client import socket_of
    from qtunnel.simulator.pki import check_pki
    from qtunnel.simulator.topology_file import load_topology
    from qtunnel.telemetry.log import configure

    forbid_core_dumps()
    loaded = load_topology(topology)
    if make_pki and not (loaded.pki / "ca.pem").exists():
        _make_pki(loaded)
    check_pki(loaded, topology)
    configure(log_format, "info", sys.stderr)
    asyncio.run(_run(loaded, socket_path or socket_of(loaded.network)))


def _make_pki(topology: Topology) -> list[Path]:
    from datetime import UTC, datetime

    from qtunnel.simulator.pki import make_pki

    return make_pki(topology, datetime.now(UTC))


async def _run(topology: Topology, socket_path: Path) -> None:
    from qtunnel.simulator.control import controlled
    from qtunnel.simulator.service import running
    from qtunnel.telemetry.log import get

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(topology) as service, controlled(service, socket_path):
        get("network").info("network.ready", network=topology.network, socket=str(socket_path))
        await stop.wait()


def _ask(socket_path: Path | None, request: dict[str, Any]) -> Any:
    from qtunnel.simulator.client import ask, only_socket

    return ask(socket_path or only_socket(), request)


@click.command(context_settings={"ignore_unknown_options": True})
@SOCKET
@click.argument("target")
@click.argument("action")
@click.argument("arguments", nargs=-1)
def ctl(socket_path: Path | None, target: str, action: str, arguments: tuple[str, ...]) -> None:
    """Do something to the link or node TARGET of a running network.

    \b
    LINK cut | restore
    LINK eavesdrop intercept-resend [SHARE%] | eavesdrop blind
    LINK messages lose [SHARE%] | messages late | messages forge
    LINK noise ERROR% | loss DECIBELS | distance KILOMETRES
    NODE cut | restore
    """
    request = {"request": "command", "target": target, "action": action, "arguments": list(arguments)}
    for one in _ask(socket_path, request):
        click.echo(f"{one['place']}: {one['what']}" + (f": {one['detail']}" if one["detail"] else ""))


def _check_picture(option: str, file: Path | None) -> None:
    """Before anything is computed for it."""
    if file is not None and not file.parent.is_dir():
        raise ConfigError(f"{option} {file}: there is no directory {file.parent}; make it, or name another")


@click.command(name="map")
@click.argument("topology", type=TOPOLOGY, required=False)
@SOCKET
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),
    metavar="FILE",
    help="A picture, into FILE.",
)
def show_map(topology: Path | None, socket_path: Path | None, as_json: bool, svg: Path | None) -> None:
    """Who shares how many keys with whom, over which links, and who learned them on the way.

    Of the network that runs; or of the file TOPOLOGY, as it would be an hour after its start.
    """
    from qtunnel.simulator.topology_file import load_topology

    _check_picture("--svg", svg)
    if topology is not None and socket_path is not None:
        raise ConfigError("TOPOLOGY is a network that does not run, --socket one that does; give one of the two")
    loaded = None if topology is None else load_topology(topology)
    if loaded is not None:
        from qtunnel.simulator.service import Service
        from qtunnel.telemetry.log import configure

        configure("text", "error", sys.stderr)  # what happened in that hour is nobody's log
        times = iter((0.0, AFTER))
        told = Service(loaded, clock=lambda: next(times), time_scale=1.0).map()
    else:
        told = _ask(socket_path, {"request": "map"})
    if svg is not None:
        from qtunnel.simulator.map_svg import svg as drawn

        places = told["places"]
        try:
            svg.write_text(drawn(told, places))
        except OSError as error:
            raise NetworkError(f"--svg {svg}: {(error.strerror or str(error)).lower()}; name another file") from None
    if as_json:
        click.echo(json.dumps(told))
    elif svg is None:
        from rich.console import Console

        from qtunnel.simulator.map_table import show

        show(told, Console(width=None if sys.stdout.isatty() else 120))


@click.command()
@click.argument("topology", type=TOPOLOGY)
@click.option("--days", type=float, default=30.0, show_default=True, help="How much of the network's time.")
@click.option("--tunnels", type=TOPOLOGY, required=True, metavar="FILE", help="The tunnels that take keys, in YAML.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),
    metavar="FILE",
    help="Stores over time, PNG, SVG or PDF.",
)
def plan(topology: Path, days: float, tunnels: Path, as_json: bool, plot: Path | None) -> None:
    """Say which tunnels will starve on the network of the file TOPOLOGY, when, and how often each link lets them rekey.

    Nothing runs: supply and demand are counted in virtual time. Exits with 1 where a tunnel starves.
    """
    from qtunnel.qkdnet.plan import plan as simulate
    from qtunnel.simulator import plan_report
    from qtunnel.simulator.plan_file import load_tunnels
    from qtunnel.simulator.topology_file import load_topology

    if not 0 < days <= LONGEST:
        raise ConfigError(f"--days {days:g}: must be above 0, such as 0.5, and {LONGEST:g} at most")
    _check_picture("--plot", plot)
    if plot is not None and plot.suffix.lower() not in PICTURES:
        raise ConfigError(f"--plot {plot}: is no picture by its name; name it .png, .svg or .pdf")
    loaded = load_topology(topology)
    wanted = load_tunnels(tunnels, loaded)
    found = simulate(loaded.core(average=True), wanted, days * plan_report.DAY)
    if plot is not None:
        plan_report.plot(found, plot)
    if as_json:
        click.echo(json.dumps(plan_report.as_dict(found)))
    else:
        from rich.console import Console

        plan_report.show(found, Console(width=None if sys.stdout.isatty() else 120))
    if not found.ok:
        sys.exit(EXIT_FAILURE)
