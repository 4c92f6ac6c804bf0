"""``qtunnel demo``: all of it on one machine, with real parts."""

from __future__ import annotations

import os
import sys
from typing import Literal

import click

from qtunnel.demo.options import DemoOptions


@click.command()
@click.option("--seconds", type=float, default=30.0, show_default=True, help="How long traffic runs.")
@click.option("--interval", type=float, default=2.0, show_default=True, help="Seconds between two rekeys.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
@click.option("--kme-outage", is_flag=True, help="Stop one KME for the middle third of the run.")
@click.option("--keep", is_flag=True, help="Leave it up afterwards, until Ctrl-C, and say how to look around.")
@click.option(
    "--policy",
    type=click.Choice(["required", "preferred"]),
    default="required",
    show_default=True,
    help="Whether traffic may go on without QKD keys, protected by post-quantum keys alone.",
)
def demo(
    seconds: float,
    interval: float,
    as_json: bool,
    kme_outage: bool,
    keep: bool,
    policy: Literal["required", "preferred"],
) -> None:
    """Two gateways and two KMEs on this machine, a tunnel, pings and a throughput test, a rekey every few seconds.

    Everything is in namespaces of its own and gone afterwards. Runs as root, or as any user where the kernel allows
    user namespaces. Exits with 0 where the run went as policy demands: nothing lost, every key in force at both ends.
    """
    options = DemoOptions(seconds=seconds, interval=interval, kme_outage=kme_outage, keep=keep, policy=policy)
    options.check()
    from qtunnel.sandbox import namespaces

    namespaces.check_tun()  # before all that takes seconds to load
    from qtunnel.demo.lab import TOOLS
    from qtunnel.sandbox.programs import check_tools, search_path

    os.environ["PATH"] = search_path()
    check_tools(TOOLS)
    namespaces.enter("the demo")

    def inside() -> int:
        from qtunnel.demo.run import main
        from qtunnel.errors import QtunnelError

        try:
            return main(options, as_json=as_json)
        except QtunnelError as error:
            click.echo(f"qtunnel: {error}", err=True)
            return error.exit_code

    sys.exit(namespaces.run_as_init(inside, "the demo"))
