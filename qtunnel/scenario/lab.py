"""Sites, each in a network of its own with its KME beside it, joined by routers that only forward.

``internet`` has a leg in each site's access network, and one in a second network that the site may move to. ``qkd`` has
the KMEs of all nodes in one process, with a leg in each site that has one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from qtunnel.control.client import ControlClient
from qtunnel.demo.children import Child
from qtunnel.demo.stage import DIRECTORY, Stage
from qtunnel.errors import SandboxError
from qtunnel.sandbox.delaying import delay_forwarding
from qtunnel.sandbox.programs import call, qtunnel_command
from qtunnel.scenario.files import GatewayFiles
from qtunnel.scenario.gallery import Scenario
from qtunnel.simulator.client import ask

INTERNET, QKD = "internet", "qkd"

NETWORK_BOUND = 60.0
"""Seconds for all KMEs to serve; two on an idle machine, where the physics of each link take a part of them."""

FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


class ScenarioLab(Stage):
    """Networks and files are there after the constructor, which wants a single thread."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__([INTERNET, QKD, *scenario.file.sites])
        self.scenario = scenario
        self.files = GatewayFiles(scenario, DIRECTORY)
        self.addresses = self.files.addresses
        self.files.write_all()
        self._moved: set[str] = set()
        self._forward()
        for site in scenario.file.sites:
            self._connect(site)
        if scenario.file.delay is not None:
            with self.networks[INTERNET].entered():
                legs = [f"w{self.addresses.number(site)}" for site in scenario.file.sites]
                delay_forwarding(legs, scenario.file.delay)
        self.network_socket = DIRECTORY / "network.sock"
        command = qtunnel_command("kme", "run", "network.yaml", "--socket", str(self.network_socket))
        self.kmes = {"network": Child("network", command, self.networks[QKD], DIRECTORY)}
        self.daemons = {
            site: Child(site, qtunnel_command("run", "--config", f"{site}.yaml"), self.networks[site], DIRECTORY)
            for site in scenario.file.sites
            if self.files.has_peers(site)
        }

    def _forward(self) -> None:
        with self.networks[INTERNET].entered():
            try:
                FORWARD.write_text("1")
            except OSError as error:
                words = (error.strerror or str(error)).lower()
                remedy = "a container needs /proc/sys to be writable (docker: --security-opt systempaths=unconfined)"
                raise SandboxError(f"{FORWARD}: {words}; {remedy}") from None

    def _connect(self, site: str) -> None:
        number = self.addresses.number(site)
        self._leg(site, "wan", INTERNET, f"w{number}")
        self._leg(site, "kme", QKD, f"k{number}")
        with self.networks[INTERNET].entered():
            for moved in (False, True):
                call("ip", "addr", "add", f"{self.addresses.gateway(site, moved=moved)}/24", "dev", f"w{number}")
        with self.networks[QKD].entered():
            call("ip", "addr", "add", f"{self.addresses.kme(site)}/24", "dev", f"k{number}")
        with self.networks[site].entered():
            call("ip", "addr", "add", f"{self.addresses.sae(site)}/24", "dev", "kme")
            call("ip", "addr", "add", f"{self.addresses.underlay(site)}/24", "dev", "wan")
            call("ip", "route", "add", "default", "via", self.addresses.gateway(site))

    def _leg(self, site: str, name: str, other: str, far: str) -> None:
        there = self.networks[other]
        with self.networks[site].entered():
            call("ip", "link", "add", name, "type", "veth", "peer", "name", far)
            call("ip", "link", "set", far, "netns", f"/proc/self/fd/{there.descriptor}", fd=there.descriptor)
            call("ip", "link", "set", name, "up")
        with there.entered():
            call("ip", "link", "set", far, "up")

    async def start_network(self) -> None:
        """The KMEs, until they serve."""
        child = self.kmes["network"]
        await child.start()
        await self.until(
            lambda: b"network.ready" in child.log.read_bytes(), NETWORK_BOUND, lambda: "the KMEs do not serve", [child]
        )

    async def start_takers(self) -> None:
        """Applications that take keys, where the scenario has some."""
        for number, taker in enumerate(self.scenario.file.takers):
            sae, towards = (self.scenario.file.sites[site].sae for site in (taker.at, taker.towards))
            command = [
                sys.executable, "-m", "qtunnel.scenario.taker", f"https://{self.addresses.kme(taker.at)}:8443",
                "pki/ca.pem", f"pki/{sae}.pem", f"pki/{sae}.key", towards, str(taker.keys), str(taker.every),
            ]  # fmt: skip
            await self.tool(f"taker-{number}", command, taker.at)

    async def ask(self, request: dict[str, Any]) -> Any:
        """The network's answer; raises ``NetworkError``."""
        return await asyncio.to_thread(ask, self.network_socket, request)

    async def command(self, words: str) -> Any:
        """What ``qtunnel kme ctl`` does."""
        target, action, *arguments = words.split()
        return await self.ask({"request": "command", "target": target, "action": action, "arguments": arguments})

    def move(self, site: str) -> None:
        """Into the site's other access network, from one moment to the next: nobody is told."""
        moved = site not in self._moved
        old, new = (self.addresses.underlay(site, moved=one) for one in (not moved, moved))
        with self.networks[site].entered():
            call("ip", "addr", "add", f"{new}/24", "dev", "wan")
            call("ip", "route", "replace", "default", "via", self.addresses.gateway(site, moved=moved))
            call("ip", "addr", "del", f"{old}/24", "dev", "wan")
        self._moved ^= {site}

    async def reload(self, sites: tuple[str, ...]) -> None:
        """Have their daemons read their files again, all at once, or start or stop those that now have a first peer or
        none."""
        reloads = []
        for site in sites:
            running = self.daemons.get(site)
            if running is None:
                command = qtunnel_command("run", "--config", f"{site}.yaml")
                self.daemons[site] = Child(site, command, self.networks[site], DIRECTORY)
                await self.daemons[site].start()
            elif not self.files.has_peers(site):
                await running.stop()
                del self.daemons[site]
            else:
                reloads.append(asyncio.to_thread(ControlClient(self.socket(site)).reload))
        await asyncio.gather(*reloads)

    async def clear(self, site: str) -> bool:
        """End the quarantine of a site's key sources; whether there was one."""
        client = ControlClient(self.socket(site))
        status = await asyncio.to_thread(client.status)
        held = [source.name for source in status.key_sources if source.state.endswith("in quarantine")]
        for name in held:
            await asyncio.to_thread(client.clear_source, name)
        return bool(held)
