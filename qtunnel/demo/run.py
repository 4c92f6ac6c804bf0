"""One run from the first KME to the summary, in the sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.live import Live

from qtunnel.demo.files import GATEWAYS
from qtunnel.demo.interrupts import Interrupts
from qtunnel.demo.lab import TOOLS, TUNNEL, TUNNEL_BOUND, Lab
from qtunnel.demo.observe import FULL, Observer
from qtunnel.demo.options import DemoOptions
from qtunnel.demo.stage import DIRECTORY, Stage, View
from qtunnel.demo.traffic import Pinger, Pings, throughput
from qtunnel.demo.verdict import Measured, Summary, judge
from qtunnel.demo.view import Progress, in_words, live_view
from qtunnel.errors import DemoError, QtunnelError
from qtunnel.sandbox.programs import check_tools, qtunnel_command, search_path

PING_INTERVAL = 0.01

LOOK_EVERY = 0.2
"""Seconds between two looks at the status; the shortest interval is 1 s, so no epoch passes unseen."""

OUTAGE_KME = "kme-b"


class Run:
    """The state of a run."""

    def __init__(self, lab: Lab, options: DemoOptions, say: Callable[[str], None], show: Callable[..., None]) -> None:
        self.lab = lab
        self.options = options
        self.progress = Progress()
        self.began = time.monotonic()
        self.observer = Observer(self.began, GATEWAYS)
        self.pings = Pings()
        self.gbps: float | None = None
        self.outage: tuple[float, float] | None = None
        self.failures: list[str] = []
        self._say = say
        self._show = show

    async def start(self) -> None:
        """KMEs, gateways, and the first epoch in force at both ends."""
        self._say("starting two KMEs and two gateways")
        await self.lab.start_kmes()
        await self.lab.start_daemons()
        limit = time.monotonic() + TUNNEL_BOUND
        while True:
            self.lab.check()
            views = await self.lab.look()
            if all(_in_force(view) for view in views.values()):
                return
            if time.monotonic() > limit:
                words = "; ".join(f"{name}: {_why_not(view)}" for name, view in views.items())
                tails = "".join(daemon.last_words() for daemon in self.lab.daemons.values())
                raise DemoError(f"the tunnel is not up after {TUNNEL_BOUND:g} s: {words}{tails}")
            await asyncio.sleep(0.1)

    async def traffic(self) -> None:
        """Pings all the time, a throughput test for a part of it, and the outage where one is asked for."""
        self._say("the tunnel is up, traffic begins")
        self.began = time.monotonic()
        self.observer = Observer(self.began, GATEWAYS)
        pinger = await Pinger.start(self.lab, "pinger", "alice", TUNNEL["bob"], PING_INTERVAL, self.pings)
        try:
            # a task group ends the others when one fails, and with the pinger's end below nothing hangs
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(pinger.read())
                group.create_task(self._load())
                if self.options.outage:
                    group.create_task(self._outage(*self.options.outage))
                await self._watch()
                await pinger.finish(reading)
        except* QtunnelError as errors:
            self.failures += [str(error) for error in errors.exceptions]

    async def _watch(self) -> None:
        """Look at both gateways until the time is over."""
        while True:
            views = await self.lab.look()
            now = time.monotonic()
            self.observer.see(now, {name: (view.peer, view.error) for name, view in views.items()})
            self.lab.check()
            progress, pings = self.progress, self.pings
            progress.elapsed = now - self.began
            progress.pings_sent, progress.pings_overdue, progress.rtt_ms = pings.sent, pings.overdue, pings.rtt_ms
            progress.kmes = ", ".join(
                f"{kme.name} {'serves' if kme.running else 'is stopped'}" for kme in self.lab.kmes.values()
            )
            self._show(self.options, self.observer, progress)
            if progress.elapsed >= self.options.seconds:
                return
            await asyncio.sleep(min(LOOK_EVERY, self.options.seconds - progress.elapsed))

    async def _load(self) -> None:
        """iperf3 from alice to bob."""
        start, seconds = self.options.load
        await asyncio.sleep(max(0.0, self.began + start - time.monotonic()))
        whole = max(1, round(seconds))
        self.progress.load = f"running for {whole} s"
        _, self.gbps = await throughput(self.lab, "bob", "alice", TUNNEL["bob"], whole)
        self.progress.load = f"{self.gbps:.2f} Gbit/s over {whole} s"

    async def _outage(self, begin: float, end: float) -> None:
        """Stop a KME for the middle third, then start it again."""
        kme = self.lab.kmes[OUTAGE_KME]
        await asyncio.sleep(max(0.0, self.began + begin - time.monotonic()))
        self._say(f"{kme.name} is stopped")
        stopped = time.monotonic()
        self.outage = (stopped, self.began + end)
        await kme.stop()
        await asyncio.sleep(max(0.0, self.began + end - time.monotonic()))
        length = kme.log.stat().st_size
        await kme.start()
        await self.lab.kme_ready(kme, length)
        self.outage = (stopped, kme.said_at("kme.ready", length))
        self._say(f"{kme.name} serves again")

    def summary(self) -> Summary:
        measured = Measured(
            began=self.began,
            ended=self.began + self.progress.elapsed,
            pings_sent=self.pings.sent,
            pings_lost=self.pings.lost,
            gaps=self.pings.gaps,
            silences=self.pings.silences,
            gbps=self.gbps,
            outage=self.outage,
            outage_kme=OUTAGE_KME,
            failures=self.failures,
        )
        return judge(self.options, self.observer, measured)


def _in_force(view: View) -> bool:
    peer = view.peer
    return peer is not None and peer.protection == FULL and peer.epoch_in_force == peer.epoch_installed


def _why_not(view: View) -> str:
    peer = view.peer
    if peer is None:
        return view.error or "no peer in the status"
    return peer.last_error or f"protection {peer.protection}"


def main(options: DemoOptions, *, as_json: bool) -> int:
    """Run in the sandbox; the exit code."""
    os.environ["PATH"] = search_path()
    check_tools(TOOLS)
    lab = Lab(options)
    return asyncio.run(_main(lab, options, as_json))


async def _main(lab: Lab, options: DemoOptions, as_json: bool) -> int:
    """Run, stop everything, tell. A signal ends the run once; the clean-up after it is not disturbed."""
    interrupts = Interrupts()
    with screen(as_json) as (say, show):
        run = Run(lab, options, say, show)
        try:
            await run.start()
            await run.traffic()
        except QtunnelError as error:
            run.failures.append(str(error))
        except asyncio.CancelledError:
            run.failures.append("interrupted")
    if options.keep and interrupts.on and look_around(lab):
        summary = run.summary()
        tell(summary, options, as_json)
        problems = await keep(lab, sys.stderr if as_json else sys.stdout)
        interrupts.on = False
        problems += await lab.stop()
        for problem in problems:
            print(f"qtunnel: {problem}", file=sys.stderr)
        return 0 if summary.ok and not problems else 1
    interrupts.on = False
    run.failures += await lab.stop()
    summary = run.summary()
    tell(summary, options, as_json)
    return 0 if summary.ok else 1


async def keep(lab: Stage, out: TextIO) -> list[str]:
    """Wait until a signal comes, or a program ends; what went wrong."""
    try:
        print(look_around(lab), file=out, flush=True)
        while True:
            lab.check()
            await asyncio.sleep(1)
    except asyncio.CancelledError:
        return []
    except (DemoError, OSError) as error:
        return [str(error)]


@contextmanager
def screen(as_json: bool) -> Iterator[tuple[Callable[[str], None], Callable[..., None]]]:
    """Where the run tells how it goes: a live table on a terminal, else a line for each thing that happens.

    With ``--json`` both go to standard error.
    """
    console = Console(stderr=as_json)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        live: Live | None = None

        def say(text: str) -> None:
            console.print(f"{time.monotonic() - began:5.1f} s  {text}", highlight=False)

        def show(options: DemoOptions, observer: Observer, progress: Progress) -> None:
            nonlocal live
            if not console.is_terminal:
                return
            view = live_view(options, observer, progress, console.width)
            if live is None:
                live = stack.enter_context(Live(view, console=console, auto_refresh=False))
            live.update(view, refresh=True)

        yield say, show


def tell(summary: Summary, options: DemoOptions, as_json: bool) -> None:
    print(json.dumps(summary.as_dict()) if as_json else in_words(summary, options), flush=True)


def look_around(lab: Stage) -> str:
    """How to get at a run that was kept; empty where it ended before there was a gateway to look at."""
    lines = []
    program = " ".join(qtunnel_command())
    for name, daemon in lab.daemons.items():
        if daemon.outside_pid is None:
            continue
        enter = enter_command(daemon.outside_pid)
        lines += [
            f"# {name}",
            f"{enter} wg show",
            f"{enter} {program} status --socket {lab.socket(name)}",
            f"{enter} tail -f {daemon.log}",
        ]
    if not lines:
        return ""
    first = "The tunnel stays up. From another terminal, as the same user:"
    last = f"Configurations and logs are in {DIRECTORY}, in there. End it with Ctrl-C here."
    return "\n".join(["", first, *lines, last, ""])


def enter_command(pid: str) -> str:
    """nsenter(1) into a gateway. The user namespace is entered only where there is one."""
    uid_map = Path("/proc/self/uid_map").read_text().split()
    user = "" if uid_map == ["0", "0", "4294967295"] else "--user --preserve-credentials "
    return f"nsenter --target {pid} {user}--mount --net"
