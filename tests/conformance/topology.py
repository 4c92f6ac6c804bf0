"""Engines on hosts of any shape: one class with what these tests ask of an interface."""

from __future__ import annotations

from tests.support.netns import Namespace
from tests.wireguard.gateways import Gateway


class Engine(Gateway):
    """An interface whose addresses and peers the test gives in words of its own."""

    def __init__(self, host: Namespace, *, port: int, program: str = "qtunnel") -> None:
        super().__init__(host, 0, program=program)
        self.set(f"private_key={self.private.hex()}", f"listen_port={port}")

    def address(self, *addresses: str, mtu: int = 1420) -> None:
        self.host.ip("link", "set", self.interface, "mtu", str(mtu))
        self.host.address(self.interface, *addresses)

    def peer(self, other: Engine, endpoint: str = "", *allowed: str, keepalive: int = 0) -> None:
        lines = [f"public_key={other.public.hex()}", f"persistent_keepalive_interval={keepalive}"]
        lines += [f"endpoint={endpoint}"] if endpoint else []
        self.set(*lines, "replace_allowed_ips=true", *(f"allowed_ip={prefix}" for prefix in allowed))

    def reaches(self, address: str, count: int = 3, *options: str, host: Namespace | None = None) -> bool:
        """Whether all of that many pings to ``address`` are answered."""
        pace = () if "-f" in options else ("-i", "0.05")
        command = ("ping", "-n", "-q", *pace, "-W", "2", "-c", str(count), *options, address)
        return f" {count} received" in (host or self.host).run(*command, check=False).stdout
