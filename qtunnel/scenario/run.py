"""One scenario from the first KME to the verdict, in the sandbox."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

from qtunnel.demo.interrupts import Interrupts
from qtunnel.demo.lab import TUNNEL_BOUND
from qtunnel.demo.observe import FULL, Observer
from qtunnel.demo.run import keep, look_around, screen
from qtunnel.demo.stage import DIRECTORY, View
from qtunnel.demo.traffic import Pinger, throughput
from qtunnel.errors import DemoError, QtunnelError
from qtunnel.qkdnet.conditions import Conditions
from qtunnel.scenario.assertions import Verdict, judge
from qtunnel.scenario.attack import attack
from qtunnel.scenario.facts import Facts, TunnelFacts
from qtunnel.scenario.gallery import Scenario, find
from qtunnel.scenario.lab import ScenarioLab
from qtunnel.scenario.model import EventSection
from qtunnel.scenario.report import in_words, summary
from qtunnel.simulator.physics import figures
from qtunnel.simulator.topology_file import Topology

LOOK_EVERY = 0.25
"""Seconds between two looks at the status; the shortest interval is 1 s, so no epoch passes unseen."""

MAP_EVERY = 1.0
"""Seconds between two looks at the network."""

LOAD_SHARE = 0.5
"""Of the run, during which the throughput test goes."""

POLL = 0.1


class Run:
    """The state of a run. done: what the timeline did and when, seconds from the beginning."""

    def __init__(self, lab: ScenarioLab, say: Callable[[str], None]) -> None:
        self.lab = lab
        self.file = lab.scenario.file
        now = time.monotonic()
        tunnels = {
            name: TunnelFacts(name, (one.between[0], one.between[1]), one.qkd.policy, Observer(now, one.between))
            for name, one in self.file.tunnels.items()
        }
        self.facts = Facts(now, now, tunnels, time_scale=lab.scenario.topology.time_scale)
        self.facts.rates = _rates(lab.scenario.topology)
        self.done: list[tuple[float, str]] = []
        self.failures: list[str] = []
        self.verdicts: list[Verdict] = []
        self._pingers: dict[str, tuple[Pinger, asyncio.Task[None]]] = {}
        self._opening: list[asyncio.Task[None]] = []
        self._say = say

    async def start(self) -> None:
        """KMEs, gateways, and each tunnel's first epoch in force at both ends."""
        nodes = len(self.lab.scenario.topology.nodes)
        self._say(f"starting a QKD network of {nodes} nodes and {len(self.lab.daemons)} gateways")
        await self.lab.start_network()
        await self.lab.start_daemons()
        await self._up([name for name in self.file.tunnels if name in self.lab.files.open])

    async def _up(self, tunnels: list[str]) -> None:
        """Wait until they are in force as their policy wants it at its best, and reservoirs are full."""
        limit = time.monotonic() + TUNNEL_BOUND
        while True:
            self.lab.check()
            views = await self.lab.look()
            waiting = {name: self._why_not(name, views) for name in tunnels}
            waiting = {name: why for name, why in waiting.items() if why}
            if not waiting:
                return
            if time.monotonic() > limit:
                words = "; ".join(f"{name}: {why}" for name, why in waiting.items())
                raise DemoError(f"not every tunnel is up after {TUNNEL_BOUND:g} s: {words}")
            await asyncio.sleep(POLL)

    def _why_not(self, tunnel: str, views: dict[str, View]) -> str:
        """Empty where both ends are in force."""
        one, other = self.facts.tunnels[tunnel].ends
        wanted = "pqc-only" if self.lab.files.tunnels[tunnel].qkd.policy == "off" else FULL
        for here, there in ((one, other), (other, one)):
            view = views.get(here)
            peer = None if view is None else view.towards(there)
            if peer is None:
                return f"{here}: {(view.error if view else None) or 'does not have it yet'}"
            if peer.protection != wanted or peer.epoch_in_force != peer.epoch_installed:
                return f"{here}: {peer.last_error or f'protection {peer.protection}'}"
            if any(store.keys < store.depth for store in peer.reservoir):
                return f"{here}: its reservoir is not full yet"
        return ""

    async def traffic(self) -> None:
        """Pings through every tunnel, the timeline, and looks at it all."""
        self._say("all tunnels are up, traffic begins")
        await self.lab.start_takers()
        await self._look_at_network()
        self.facts.began = time.monotonic()
        for tunnel in self.facts.tunnels.values():
            tunnel.observer = Observer(self.facts.began, tunnel.ends)
        try:
            # a task group ends the others when one fails
            async with asyncio.TaskGroup() as group:
                for name in self.file.tunnels:
                    if name in self.lab.files.open:
                        await self._ping(name, group)
                        self.facts.tunnels[name].opened = self.facts.began
                for name, section in self.file.tunnels.items():
                    if section.load:
                        group.create_task(self._load(name))
                happening = group.create_task(self._timeline(group))
                looking = group.create_task(self._watch_network())
                await self._watch()
                await happening
                for opening in self._opening:  # one that comes up late has a pinger to finish, too
                    await opening
                looking.cancel()
                for pinger, reading in self._pingers.values():
                    await pinger.finish(reading)
        except* QtunnelError as errors:
            self.failures += [str(error) for error in errors.exceptions]
        self.facts.ended = time.monotonic()
        if not self.failures:
            await self._close_facts()
            self.verdicts = [judge(self.facts, one) for one in self.file.assertions]

    async def _close_facts(self) -> None:
        """What is only known at the end."""
        await self._look_at_network()
        for site in self.file.sites:
            log = DIRECTORY / f"{site}.log"
            self.facts.logs[site] = log.read_text(errors="replace") if log.exists() else ""

    async def _ping(self, name: str, group: asyncio.TaskGroup) -> None:
        tunnel = self.facts.tunnels[name]
        here, there = tunnel.ends
        address = self.lab.addresses.tunnel(there)
        pinger = await Pinger.start(self.lab, f"pinger-{name}", here, address, self.file.ping, tunnel.pings)
        self._pingers[name] = (pinger, group.create_task(pinger.read()))

    async def _watch(self) -> None:
        """Look at all gateways until the time is over."""
        while True:
            views = await self.lab.look()
            now = time.monotonic()
            for tunnel in self.facts.tunnels.values():
                if tunnel.opened is not None and tunnel.closed is None:
                    one, other = tunnel.ends
                    tunnel.see(now, {here: _towards(views.get(here), there) for here, there in
                                     ((one, other), (other, one))})  # fmt: skip
            self.lab.check()
            left = self.facts.began + self.file.seconds - now
            if left <= 0:
                return
            await asyncio.sleep(min(LOOK_EVERY, left))

    async def _watch_network(self) -> None:
        while True:
            await self._look_at_network()
            await asyncio.sleep(MAP_EVERY)

    async def _look_at_network(self) -> None:
        self.facts.maps.append((time.monotonic(), await self.lab.ask({"request": "map"})))

    async def _timeline(self, group: asyncio.TaskGroup) -> None:
        for event in sorted(self.file.timeline, key=lambda one: one.at):
            await asyncio.sleep(max(0.0, self.facts.began + event.at - time.monotonic()))
            words = await self._perform(event, group)
            self.done.append((round(time.monotonic() - self.facts.began, 1), words))
            self._say(words)

    async def _perform(self, event: EventSection, group: asyncio.TaskGroup) -> str:
        """Do it; in words. Raises ``QtunnelError``."""
        lab = self.lab
        if event.network is not None:
            await lab.command(event.network)
            return f"network: {event.network}"
        if event.move is not None:
            lab.move(event.move)
            return f"{event.move} moves to another network"
        if event.clear is not None:
            cleared = await lab.clear(event.clear)
            return f"{event.clear}: {'quarantine ended' if cleared else 'was in no quarantine'}"
        if event.change is not None:
            await lab.reload(lab.files.change(event.change))
            return f"{event.change.tunnel}: other settings at both ends"
        if event.open is not None:
            await lab.reload(lab.files.set_open(event.open, on=True))
            self._opening.append(group.create_task(self._opened(event.open, group)))
            return f"{event.open}: a new tunnel"
        assert event.close is not None  # checked when it was loaded
        await self._closed(event.close)
        return f"{event.close}: tunnel taken away"

    async def _opened(self, name: str, group: asyncio.TaskGroup) -> None:
        """Once a new tunnel is up, pings go through it, and it is looked at."""
        await self._up([name])
        await self._ping(name, group)
        tunnel = self.facts.tunnels[name]
        tunnel.observer = Observer(time.monotonic(), tunnel.ends)
        tunnel.opened, tunnel.closed = time.monotonic(), None

    async def _closed(self, name: str) -> None:
        pinger = self._pingers.pop(name, None)
        if pinger is not None:
            await pinger[0].finish(pinger[1])
        self.facts.tunnels[name].closed = time.monotonic()
        await self.lab.reload(self.lab.files.set_open(name, on=False))

    async def _load(self, name: str) -> None:
        tunnel = self.facts.tunnels[name]
        here, there = tunnel.ends
        seconds = max(1, round(LOAD_SHARE * self.file.seconds))
        address = self.lab.addresses.tunnel(there)
        tunnel.carried, tunnel.gbps = await throughput(self.lab, there, here, address, seconds)

    async def attack(self, link: str) -> None:
        """After all else has been judged: somebody intercepts on that link."""
        self._say(f"an eavesdropper intercepts on {link}")
        self.verdicts.append(await attack(self.lab.ask, link))


def _towards(view: View | None, peer: str) -> tuple[Any, str | None]:
    if view is None:
        return None, "is not running"
    return view.towards(peer), view.error


def _rates(topology: Topology) -> dict[str, float]:
    """Of each link with light all the time, by the physics alone."""
    found = {}
    for spec in topology.specs():
        loss = spec.channel.loss_at(0.0)
        if loss is not None:
            conditions = Conditions(spec.hardware, spec.channel.length, spec.channel.attenuation, loss, spec.classical)
            found[spec.name] = figures(conditions).key_rate
    return found


def main(name: str, *, attack_on: str | None, as_json: bool, kept: bool) -> int:
    """Run in the sandbox; the exit code. Raises ``QtunnelError`` for what can be known beforehand."""
    scenario = find(name)
    if attack_on is not None and attack_on not in scenario.topology.links:
        raise DemoError(f"--attack {attack_on}: there are the links {', '.join(scenario.topology.links)}")
    lab = ScenarioLab(scenario)
    return asyncio.run(_main(lab, scenario, attack_on, as_json, kept))


async def _main(lab: ScenarioLab, scenario: Scenario, attack_on: str | None, as_json: bool, kept: bool) -> int:
    interrupts = Interrupts()
    with screen(as_json) as (say, _):
        run = Run(lab, say)
        try:
            await run.start()
            await run.traffic()
            if attack_on is not None and not run.failures:
                await run.attack(attack_on)
        except QtunnelError as error:
            run.failures.append(str(error))
        except asyncio.CancelledError:
            run.failures.append("interrupted")
    if kept and interrupts.on and look_around(lab):
        run.failures += await keep(lab, sys.stderr)
    interrupts.on = False
    run.failures += await lab.stop()
    told = summary(scenario, run.facts, run.verdicts, run.done, run.failures)
    print(in_words(told, as_json=as_json), flush=True)
    return 0 if told["ok"] else 1
