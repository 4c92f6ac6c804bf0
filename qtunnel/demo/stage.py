"""What every run has: networks, programs in them, looks at its gateways, and an end for all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from qtunnel.control.client import ControlClient
from qtunnel.control.messages import PeerStatus, Status
from qtunnel.demo.children import Child
from qtunnel.errors import ControlError, DemoError
from qtunnel.sandbox.namespaces import Network

DIRECTORY = Path("/run/qtunnel-demo")
"""On the sandbox's own /run, in memory: no secret reaches a disk, and nothing is there after the run."""

POLL = 0.1
STATUS_BOUND = 5.0
"""Seconds for a daemon to answer; under full load one needs some tenths."""


@dataclass(frozen=True, slots=True)
class View:
    """One look at a gateway. status: ``None`` where the daemon did not answer; error: why."""

    status: Status | None
    error: str | None = None

    @property
    def peer(self) -> PeerStatus | None:
        """The only peer, or the first."""
        return self.status.peers[0] if self.status is not None and self.status.peers else None

    def towards(self, name: str) -> PeerStatus | None:
        """The peer of that name."""
        peers = self.status.peers if self.status is not None else []
        return next((peer for peer in peers if peer.name == name), None)


class Stage:
    """Networks by name, and the programs that a run starts: KMEs, daemons by the gateways' names, tools."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Makes the networks, which wants a single thread, and the directory."""
        DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        self.networks = {name: Network() for name in networks}
        self.kmes: dict[str, Child] = {}
        self.daemons: dict[str, Child] = {}
        self.tools: list[Child] = []

    def socket(self, name: str) -> Path:
        """Where that gateway's daemon is asked for its status."""
        return DIRECTORY / f"{name}.sock"

    async def start_daemons(self) -> None:
        for daemon in self.daemons.values():
            await daemon.start()

    async def until(
        self, condition: Callable[[], bool], bound: float, complaint: Callable[[], str], children: list[Child]
    ) -> None:
        """Wait for a condition; raises ``DemoError`` where a child ends meanwhile or the bound is over."""
        limit = time.monotonic() + bound
        while not condition():
            for child in children:
                child.check()
            if time.monotonic() > limit:
                words = "".join(f" ({child.name}{child.last_words()})" for child in children)
                raise DemoError(f"{complaint()} after {bound:g} s{words}")
            await asyncio.sleep(POLL)

    async def look(self) -> dict[str, View]:
        """The status of all gateways, now."""
        names = list(self.daemons)
        return dict(zip(names, await asyncio.gather(*(self._look(name) for name in names)), strict=True))

    async def _look(self, name: str) -> View:
        try:
            return View(await asyncio.to_thread(ControlClient(self.socket(name), STATUS_BOUND).status))
        except ControlError as error:
            return View(None, str(error))

    async def tool(self, name: str, command: list[str], gateway: str, *, pipe: bool = False) -> Child:
        """Start a program in a gateway's network; it is stopped with the rest."""
        child = Child(name, command, self.networks[gateway], DIRECTORY, pipe=pipe)
        self.tools.append(child)
        await child.start()
        return child

    @property
    def children(self) -> list[Child]:
        return [*self.tools, *self.daemons.values(), *self.kmes.values()]

    def check(self) -> None:
        """Raises ``DemoError`` where a program ended that should not have."""
        for child in self.children:
            child.check()

    async def stop(self) -> list[str]:
        """Stop every program, tools first and KMEs last; what went wrong with it."""
        problems: list[str] = []
        for group in (self.tools, list(self.daemons.values()), list(self.kmes.values())):
            results = await asyncio.gather(*(child.stop() for child in group), return_exceptions=True)
            problems += [str(result) for result in results if isinstance(result, BaseException)]
        return problems
