"""``qtunnel demo``: all of it on one machine, with real parts."""

from __future__ import annotations

import json
import os
import sys
from typing import Literal

import click

from qtunnel.demo.options import DemoOptions

GATEWAYS_ONLY = ("seconds", "interval", "kme_outage", "policy")
"""Options that a scenario says itself."""


@click.command()
@click.pass_context
@click.option("--seconds", type=float, default=30.0, show_default=True, help="How long traffic runs.")
@click.option("--interval", type=float, default=2.0, show_default=True, help="Seconds between two rekeys.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
@click.option("--scenario", metavar="NAME", help="A network of the scenario gallery in place of two gateways.")
@click.option("--list", "listed", is_flag=True, help="The scenarios that there are.")
@click.option("--attack", metavar="LINK", help="With --scenario: at the end somebody intercepts on that link.")
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
    context: click.Context,
    seconds: float,
    interval: float,
    as_json: bool,
    scenario: str | None,
    listed: bool,
    attack: str | None,
    kme_outage: bool,
    keep: bool,
    policy: Literal["required", "preferred"],
) -> None:
    """Two gateways and two KMEs on this machine, a tunnel, pings and a throughput test, a rekey every few seconds.

    Everything is in namespaces of its own and gone afterwards. Runs as root, or as any user where the kernel allows
    user namespaces. Exits with 0 where the run went as policy demands: nothing lost, every key in force at both ends.
    """
    if listed:
        _list(as_json)
        return
    if scenario is None and attack is not None:
        raise click.UsageError("--attack LINK goes with --scenario NAME")
    for name in GATEWAYS_ONLY if scenario is not None else ():
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with --scenario, which says it itself")
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
        from qtunnel.errors import QtunnelError

        try:
            if scenario is not None:
                from qtunnel.scenario.run import main as run_scenario

                return run_scenario(scenario, attack_on=attack, as_json=as_json, kept=keep)
            from qtunnel.demo.run import main

            return main(options, as_json=as_json)
        except QtunnelError as error:
            click.echo(f"qtunnel: {error}", err=True)
            return error.exit_code

    sys.exit(namespaces.run_as_init(inside, "the demo"))


def _list(as_json: bool) -> None:
    """The gallery, a line each."""
    from qtunnel.scenario.gallery import gallery, title

    found = {name: title(directory) for name, directory in gallery().items()}
    if as_json:
        click.echo(json.dumps([{"scenario": name, "title": words} for name, words in found.items()]))
        return
    width = max(map(len, found), default=0)
    for name, words in found.items():
        click.echo(f"{name:{width}}  {words}")
