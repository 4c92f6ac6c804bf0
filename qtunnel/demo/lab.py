"""Two network namespaces joined by a veth, with a KME and a gateway in each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qtunnel.control.client import ControlClient
from qtunnel.control.messages import PeerStatus, Status
from qtunnel.demo.children import Child
from qtunnel.demo.files import GATEWAYS, KMES, write_files
from qtunnel.demo.options import DemoOptions
from qtunnel.errors import ControlError, DemoError
from qtunnel.sandbox.namespaces import Network
from qtunnel.sandbox.programs import call, qtunnel_command

DIRECTORY = Path("/run/qtunnel-demo")
"""On the sandbox's own /run, in memory: no secret reaches a disk, and nothing is there after the run."""

UNDERLAY = {"alice": "10.99.0.1/24", "bob": "10.99.0.2/24"}
"""The endpoints that configs/ name."""

TUNNEL = {"alice": "10.77.0.1", "bob": "10.77.0.2"}

KME_BOUND = 15.0
"""Seconds for a KME to serve; it needs one on an idle machine."""

TUNNEL_BOUND = 45.0
"""Seconds for the first epoch to be in force at both ends; two to four on an idle machine."""

POLL = 0.1
STATUS_BOUND = 5.0
"""Seconds for a daemon to answer; under full load one needs some tenths."""

TOOLS = {"ip": "iproute2", "iperf3": "iperf3"}
"""Programs that the demo runs, and the Debian packages they are in."""


@dataclass(frozen=True, slots=True)
class View:
    """One look at a gateway. peer: ``None`` where the daemon did not answer; error: why."""

    status: Status | None
    error: str | None = None

    @property
    def peer(self) -> PeerStatus | None:
        return self.status.peers[0] if self.status is not None and self.status.peers else None


class Lab:
    """Namespaces and files are there after the constructor, which wants a single thread; programs after ``start``."""

    def __init__(self, options: DemoOptions) -> None:
        self.options = options
        DIRECTORY.mkdir(mode=0o700)
        write_files(DIRECTORY, options)
        self.networks = {name: Network() for name in GATEWAYS}
        self._join()
        self.kmes = {
            kme: Child(kme, qtunnel_command("kme", "serve", f"{kme}.yaml"), self.networks[gateway], DIRECTORY)
            for kme, gateway in zip(KMES, GATEWAYS, strict=True)
        }
        self.daemons = {
            name: Child(name, qtunnel_command("run", "--config", f"{name}.yaml"), self.networks[name], DIRECTORY)
            for name in GATEWAYS
        }
        self.tools: list[Child] = []

    def _join(self) -> None:
        here, there = (self.networks[name] for name in GATEWAYS)
        with here.entered():
            call("ip", "link", "add", "wan", "type", "veth", "peer", "name", "wan-far")
            call("ip", "link", "set", "wan-far", "netns", f"/proc/self/fd/{there.descriptor}", fd=there.descriptor)
        with there.entered():
            call("ip", "link", "set", "wan-far", "name", "wan")
        for name, network in self.networks.items():
            with network.entered():
                call("ip", "addr", "add", UNDERLAY[name], "dev", "wan")
                call("ip", "link", "set", "wan", "up")

    def socket(self, name: str) -> Path:
        """Where that gateway's daemon is asked for its status."""
        return DIRECTORY / f"{name}.sock"

    async def start_kmes(self) -> None:
        for kme in self.kmes.values():
            await kme.start()
        for kme in self.kmes.values():
            await self.kme_ready(kme)

    async def kme_ready(self, kme: Child, since: int = 0) -> None:
        """Wait until the KME's log, read from byte ``since``, says that it serves."""
        await self.until(
            lambda: b"kme.ready" in kme.log.read_bytes()[since:], KME_BOUND, lambda: f"{kme.name} does not serve", [kme]
        )

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
        """The status of both gateways, now."""
        return dict(zip(GATEWAYS, await asyncio.gather(*(self._look(name) for name in GATEWAYS)), strict=True))

    async def _look(self, name: str) -> View:
        try:
            return View(await asyncio.to_thread(ControlClient(self.socket(name), STATUS_BOUND).status))
        except ControlError as error:
            return View(None, str(error))

    async def tool(self, name: str, command: list[str], gateway: str, *, pipe: bool = False) -> Child:
        """Start a program in a gateway's network; it is stopped with the lab."""
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
