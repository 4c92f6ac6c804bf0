"""``qtunnel bench``: what the engine carries and costs, next to another one."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from qtunnel.bench.options import (
    FLOODS,
    KINDS,
    USUAL_KINDS,
    FloodOptions,
    HandshakeOptions,
    HubOptions,
    LinkOptions,
    Mode,
    RekeyOptions,
    Segmentation,
    Suite,
    TunnelOptions,
    parse_floods,
    parse_kinds,
)

if TYPE_CHECKING:  # it takes a while to import
    from rich.table import Table

EXIT_INTERRUPTED = 130

_mode = click.option(
    "--mode", type=click.Choice(["standard", "record"]), default="standard", show_default=True,
    help="What qtunnel wg speaks; a rival speaks standard WireGuard.",
)  # fmt: skip
_suite = click.option(
    "--suite", type=click.Choice(["chacha20-poly1305", "aes-256-gcm"]), default="chacha20-poly1305", show_default=True,
    help="Of record mode.",
)  # fmt: skip


@click.group()
def bench() -> None:
    """Measure 'qtunnel wg' on this machine, in namespaces of its own that are gone afterwards.

    Runs as root, or as any user where the kernel allows user namespaces.
    """


@bench.command()
@click.option("--against", default="wireguard-go", show_default=True, metavar="PROGRAM",
              help="The rival: a userspace WireGuard that starts as 'PROGRAM INTERFACE', or 'standard': "
                   "qtunnel wg in standard mode.")  # fmt: skip
@_mode
@_suite
@click.option("--seconds", type=float, default=5.0, show_default=True, help="How long each measurement takes.")
@click.option("--rounds", type=int, default=3, show_default=True, help="How often the two take turns.")
@click.option("--link", type=click.Choice(["gso", "datagrams"]), default="gso", show_default=True,
              help="Whether the link takes super-packets or single datagrams.")  # fmt: skip
@click.option("--loss", type=float, default=0.0, metavar="PERCENT",
              help="Random loss of single datagrams, each way; the link then takes single datagrams.")  # fmt: skip
@click.option("--delay", type=float, default=0.0, metavar="MS",
              help="Milliseconds added to the round trip, half of them each way.")  # fmt: skip
@click.option("--congestion", default="", metavar="NAME",
              help="TCP's congestion control, as cubic or bbr.  [default: the machine's]")  # fmt: skip
@click.option("--processes", type=int, default=1, show_default=True, help="Processes of each qtunnel wg.")
@click.option("--cores", type=int, default=0, metavar="N",
              help="Let all of it, engines and load, use only that many processors.")  # fmt: skip
@click.option(
    "--only",
    default=",".join(USUAL_KINDS),
    show_default=True,
    metavar="KINDS",
    help=f"What to measure, of {', '.join(KINDS)}.",
)
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
    congestion: str,
    processes: int,
    cores: int,
    only: str,
    as_json: bool,
) -> None:
    """Two tunnels in turns, of qtunnel wg and of another WireGuard: throughput, round trips, processor time, memory.

    Each round starts a fresh pair of one engine, measures, and does the same with the other. Figures are the medians of
    the rounds. How it progresses goes to standard error.
    """
    os.environ["PATH"] = _path()
    way = LinkOptions(link, loss, delay, congestion)
    options = TunnelOptions(against, mode, suite, seconds, rounds, way, parse_kinds(only), processes, cores)
    options.check()

    def run() -> None:
        from qtunnel.bench.tunnel import race as measured
        from qtunnel.bench.view import race_table as table

        _show(measured(options, _say()), table, as_json=as_json)

    tools = {"ip": "iproute2", "iperf3": "iperf3"}
    _in_sandbox(run, {**tools, "ethtool": "ethtool"} if options.link.cuts else tools)


@bench.command()
@_mode
@_suite
@click.option("--rekeys", type=int, default=60, show_default=True, help="How many times the key changes.")
@click.option("--interval", type=float, default=1.0, show_default=True, help="Seconds between two changes.")
@click.option(
    "--rate", type=float, default=0.0, help="Packets a second of the stream.  [default: half of the capacity]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def rekey(mode: Mode, suite: Suite, rekeys: int, interval: float, rate: float, as_json: bool) -> None:
    """Change the preshared key at both ends again and again, and count the packets lost.

    A UDP stream with serial numbers runs at half of what the tunnel carries. The same stream without rekeys goes before
    it, so that what the machine itself loses is known.
    """
    os.environ["PATH"] = _path()
    options = RekeyOptions(mode, suite, rekeys, interval, rate)
    options.check()

    def run() -> None:
        from qtunnel.bench.rekey import rekey as measured
        from qtunnel.bench.view import rekey_table as table

        _show(measured(options, _say()), table, as_json=as_json)

    _in_sandbox(run, {"ip": "iproute2"})


@bench.command()
@click.option("--rekeys", type=int, default=200, show_default=True, help="How many of each case.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def handshake(rekeys: int, as_json: bool) -> None:
    """Processor time, bytes and latency of one rekey, for every suite, with and without QKD key and pairing secret.

    Two rekeying cores in one process, with the real cryptography. Processor time is that of both together, without
    sockets, key sources and engine; latency is that of an exchange over no distance at all.
    """
    options = HandshakeOptions(rekeys)
    options.check()
    from qtunnel.bench.handshake import handshake as measured
    from qtunnel.bench.view import handshake_table as table

    _show(measured(options, _say()), table, as_json=as_json)


@bench.command()
@click.option("--peers", type=int, default=1000, show_default=True, help="How many the hub has.")
@click.option("--qkd/--no-qkd", default=True, show_default=True, help="Whether each rekey takes a key of a KME.")
@click.option("--round", "seconds", type=float, default=120.0, show_default=True,
              help="Seconds over which one rekey with each peer is spread.")  # fmt: skip
@click.option("--idle", type=float, default=15.0, show_default=True, help="Seconds without rekeys, measured before.")
@click.option("--state-dir", type=click.Path(path_type=Path, readable=False), default=None, metavar="DIR",
              help="Where the hub keeps its state, for a real disk; left there.  [default: in memory]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def hub(peers: int, qkd: bool, seconds: float, idle: float, state_dir: Path | None, as_json: bool) -> None:
    """A hub with many peers: how long until all are up, and processor time and memory of its programs as they rekey.

    The hub is a real 'qtunnel run', with its engine and a KME. The peers are simulated by processes of their own,
    without a TUN, and all begin at once.
    """
    os.environ["PATH"] = _path()
    options = HubOptions(peers, qkd, seconds, idle, state_dir)
    options.check()

    def run() -> None:
        from qtunnel.bench.hub import hub as measured
        from qtunnel.bench.view import hub_table as table

        _show(measured(options, _say()), table, as_json=as_json)

    _in_sandbox(run, {"ip": "iproute2"})


@bench.command()
@click.option("--rate", type=int, default=50_000, show_default=True, help="Datagrams a second.")
@click.option("--seconds", type=float, default=15.0, show_default=True, help="How long each flood takes.")
@click.option("--interval", type=float, default=1.5, show_default=True, help="Seconds between two rekeys.")
@click.option("--load", type=int, default=0, metavar="MBIT",
              help="Mbit/s of the TCP flow.  [default: as much as the tunnel takes]")  # fmt: skip
@click.option("--only", default=",".join(FLOODS), show_default=True, metavar="KINDS", help="Which floods.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def flood(rate: int, seconds: float, interval: float, load: int, only: str, as_json: bool) -> None:
    """Flood a gateway's handshake port from forged addresses, beside a TCP flow, echoes and rekeys with QKD keys.

    The same without a flood comes first. The program that makes the flood takes a core for itself.
    """
    os.environ["PATH"] = _path()
    options = FloodOptions(rate, seconds, interval, load, parse_floods(only))
    options.check()

    def run() -> None:
        from qtunnel.bench.flood import flood as measured
        from qtunnel.bench.view import flood_table as table

        _show(measured(options, _say()), table, as_json=as_json)

    _in_sandbox(run, {"ip": "iproute2", "iperf3": "iperf3"})


def _path() -> str:
    from qtunnel.sandbox.programs import search_path

    return search_path()


def _say() -> Callable[[str], None]:
    began = time.monotonic()
    return lambda text: click.echo(f"{time.monotonic() - began:6.1f} s  {text}", err=True)


class _Outcome(Protocol):
    def as_dict(self) -> dict[str, Any]: ...


_Shown = TypeVar("_Shown", bound=_Outcome)


def _show(outcome: _Shown, table: Callable[[_Shown], Table], *, as_json: bool) -> None:
    """On standard output: a table for people, or one JSON object."""
    from rich.console import Console

    if as_json:
        print(json.dumps(outcome.as_dict()), flush=True)
    else:
        Console().print(table(outcome))


def _in_sandbox(run: Callable[[], None], tools: Mapping[str, str]) -> None:
    from qtunnel.errors import QtunnelError
    from qtunnel.sandbox import namespaces
    from qtunnel.sandbox.programs import check_tools

    check_tools(tools)
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
