"""A run's own course and its attack, with everything real taken out of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qtunnel.demo.traffic import Pings
from qtunnel.qkdnet.view import look
from qtunnel.scenario import run as scenario_run
from qtunnel.scenario.attack import attack
from qtunnel.scenario.files import GatewayFiles
from qtunnel.scenario.gallery import find
from qtunnel.scenario.model import EventSection
from qtunnel.simulator.commands import perform


class NoPinger:
    def __init__(self, pings: Pings) -> None:
        self.ended, self.pings = asyncio.Event(), pings

    @classmethod
    async def start(cls, *arguments: Any) -> NoPinger:
        return cls(arguments[-1])

    async def read(self) -> None:
        await self.ended.wait()

    async def finish(self, reading: asyncio.Task[None]) -> None:
        self.ended.set()
        await reading


class NoLab:
    def __init__(self, seconds: float, at: float, directory: Path) -> None:
        one = find("sdn")
        file = one.file.model_copy(
            update={"seconds": seconds, "timeline": (EventSection.model_construct(at=at, open="branch"),)}
        )
        self.scenario = replace(one, file=file)
        self.files = GatewayFiles(self.scenario, directory)
        self.addresses = self.files.addresses

    async def ask(self, request: dict[str, Any]) -> Any:
        return {"links": [], "nodes": [], "pairs": [], "totals": dict.fromkeys(("delivered", "relayed"), 0)}

    async def look(self) -> dict[str, Any]:
        return {}

    async def start_takers(self) -> None: ...
    async def reload(self, sites: tuple[str, ...]) -> None: ...
    def check(self) -> None: ...


def test_a_tunnel_that_comes_up_after_the_end_does_not_keep_the_run_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenario_run, "Pinger", NoPinger)
    monkeypatch.setattr(scenario_run, "judge", lambda facts, one: SimpleNamespace(ok=True))

    async def play() -> scenario_run.Run:
        run = scenario_run.Run(NoLab(0.05, 0.04, tmp_path), lambda words: None)  # type: ignore[arg-type]

        async def up(tunnels: list[str]) -> None:
            await asyncio.sleep(0.1)  # so longer than what is left of the run

        monkeypatch.setattr(run, "_up", up)
        async with asyncio.timeout(20):
            await run.traffic()
        return run

    run = asyncio.run(play())
    assert run.failures == []
    assert run.facts.tunnels["branch"].opened is not None


def test_an_attack_on_a_link_that_warns_already_waits_until_it_does_not() -> None:
    network = find("battelle").topology.core()
    network.advance(10.0)
    perform(network, "columbus-dublin", "eavesdrop", ["intercept-resend"])

    async def ask(request: dict[str, Any]) -> Any:
        if request["request"] == "map":
            network.advance(network.now + 0.1)  # no time at all from one command to the next
            return look(network, [], 256)
        return perform(network, request["target"], request["action"], request["arguments"])

    network.advance(11.0)
    assert network.links["columbus-dublin"].alarm is not None
    verdict = asyncio.run(attack(ask, "columbus-dublin"))
    assert verdict.ok, verdict.found
    assert network.links["columbus-dublin"].alarms == 2
