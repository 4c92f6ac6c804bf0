"""``qtunnel bench``: what the engine carries and costs, next to another one."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping

import click

from qtunnel.bench.options import (
    KINDS,
    LinkOptions,
    Mode,
    Segmentation,
    Suite,
    TunnelOptions,
    parse_kinds,
)

EXIT_INTERRUPTED = 130


@click.group()
def bench() -> None:
    """Measure 'qtunnel wg' on this machine, in namespaces of its own that are gone afterwards.

    Runs as root, or as any user where the kernel allows user namespaces.
    """


@bench.command()
@click.option("--against", default="wireguard-go", show_default=True, metavar="PROGRAM",
              help="The rival: a userspace WireGuard that starts as 'PROGRAM INTERFACE'.")  # fmt: skip
@click.option("--mode", type=click.Choice(["standard", "record"]), default="standard", show_default=True,
              help="What qtunnel wg speaks; the rival speaks standard WireGuard.")  # fmt: skip
@click.option("--suite", type=click.Choice(["chacha20-poly1305", "aes-256-gcm"]), default="chacha20-poly1305",
              show_default=True, help="Of record mode.")  # fmt: skip
@click.option("--seconds", type=float, default=5.0, show_default=True, help="How long each measurement takes.")
@click.option("--rounds", type=int, default=3, show_default=True, help="How often the two take turns.")
@click.option("--link", type=click.Choice(["gso", "datagrams"]), default="gso", show_default=True,
              help="Whether the link takes super-packets or single datagrams.")  # fmt: skip
@click.option("--loss", type=float, default=0.0, metavar="PERCENT",
              help="Random loss of single datagrams, each way; the link then takes single datagrams.")  # fmt: skip
@click.option("--delay", type=float, default=0.0, metavar="MS",
              help="Milliseconds added to the round trip, half of them each way.")  # fmt: skip
@click.option("--only", default=",".join(KINDS), show_default=True, metavar="KINDS", help="What to measure.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def tunnel(
    against: str,
    mode: Mode,
    suite: Suite,
    seconds: float,
    rounds: int,
    link: Segmentation,
    loss: float,
    delay: float,
    only: str,
    as_json: bool,
) -> None:
    """Two tunnels in turns, of qtunnel wg and of another WireGuard: throughput, round trips, processor time, memory.

    Each round starts a fresh pair of one engine, measures, and does the same with the other. Figures are the medians of
    the rounds. How it progresses goes to standard error.
    """
    os.environ["PATH"] = _path()
    options = TunnelOptions(against, mode, suite, seconds, rounds, LinkOptions(link, loss, delay), parse_kinds(only))
    options.check()

    def run() -> None:
        from rich.console import Console

        from qtunnel.bench.tunnel import race
        from qtunnel.bench.view import race_table

        outcome = race(options, _say())
        if as_json:
            print(json.dumps(outcome.as_dict()), flush=True)
        else:
            Console().print(race_table(outcome))

    _in_sandbox(run, options.link)


def _path() -> str:
    from qtunnel.sandbox.programs import search_path

    return search_path()


def _say() -> Callable[[str], None]:
    began = time.monotonic()
    return lambda text: click.echo(f"{time.monotonic() - began:6.1f} s  {text}", err=True)


def _in_sandbox(run: Callable[[], None], link: LinkOptions) -> None:
    from qtunnel.bench.tools import TOOLS
    from qtunnel.errors import QtunnelError
    from qtunnel.sandbox import namespaces
    from qtunnel.sandbox.programs import check_tools

    more: Mapping[str, str] = {"ethtool": "ethtool"} if link.cuts else {}
    check_tools({**TOOLS, **more})
    namespaces.enter("the benchmark")

    def inside() -> int:
        try:
            run()
        except QtunnelError as error:
            click.echo(f"qtunnel: {error}", err=True)
            return error.exit_code
        except KeyboardInterrupt:
            click.echo("qtunnel: interrupted", err=True)
            return EXIT_INTERRUPTED
        return 0

    sys.exit(namespaces.run_as_init(inside, "the benchmark"))
