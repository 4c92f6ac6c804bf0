"""Two network namespaces joined by a veth, with a KME and a gateway in each."""

from __future__ import annotations

from qtunnel.demo.children import Child
from qtunnel.demo.files import GATEWAYS, KMES, write_files
from qtunnel.demo.options import DemoOptions
from qtunnel.demo.stage import DIRECTORY, Stage
from qtunnel.sandbox.programs import call, qtunnel_command

UNDERLAY = {"alice": "10.99.0.1/24", "bob": "10.99.0.2/24"}
"""The endpoints that configs/ name."""

TUNNEL = {"alice": "10.77.0.1", "bob": "10.77.0.2"}

KME_BOUND = 15.0
"""Seconds for a KME to serve; it needs one on an idle machine."""

TUNNEL_BOUND = 45.0
"""Seconds for the first epoch to be in force at both ends; two to four on an idle machine."""

TOOLS = {"ip": "iproute2", "iperf3": "iperf3"}
"""Programs that the demo runs, and the Debian packages they are in."""


class Lab(Stage):
    """Namespaces and files are there after the constructor, which wants a single thread; programs after ``start``."""

    def __init__(self, options: DemoOptions) -> None:
        super().__init__(GATEWAYS)
        self.options = options
        write_files(DIRECTORY, options)
        self._join()
        self.kmes = {
            kme: Child(kme, qtunnel_command("kme", "serve", f"{kme}.yaml"), self.networks[gateway], DIRECTORY)
            for kme, gateway in zip(KMES, GATEWAYS, strict=True)
        }
        self.daemons = {
            name: Child(name, qtunnel_command("run", "--config", f"{name}.yaml"), self.networks[name], DIRECTORY)
            for name in GATEWAYS
        }

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
