"""Engines on hosts of any shape: one class with what these tests ask of an interface."""

from __future__ import annotations

from tests.support.netns import Namespace
from tests.support.ping import all_answered, ping
from tests.wireguard.gateways import Gateway


class Engine(Gateway):
    """An interface whose addresses and peers the test gives in words of its own."""

    def __init__(self, host: Namespace, port: int, program: str = "qtunnel") -> None:
        """It serves only once it is ``ready``."""
        super().__init__(host, 0, program=program, wait=False)
        self.port = port

    def ready(self) -> None:
        super().ready()
        self.set(f"private_key={self.private.hex()}", f"listen_port={self.port}")

    def address(self, *addresses: str, mtu: int = 1420) -> None:
        self.host.ip("link", "set", self.interface, "mtu", str(mtu))
        self.host.address(self.interface, *addresses)

    def peer(self, other: Engine, endpoint: str = "", *allowed: str, keepalive: int = 0) -> None:
        lines = [f"public_key={other.public.hex()}", f"persistent_keepalive_interval={keepalive}"]
        lines += [f"endpoint={endpoint}"] if endpoint else []
        self.set(*lines, "replace_allowed_ips=true", *(f"allowed_ip={prefix}" for prefix in allowed))

    def reaches(self, address: str, count: int = 3, *options: str) -> bool:
        """Whether all of that many pings to ``address`` are answered."""
        done = self.host.run(*ping(address, count, *options), check=False)
        print(done.stdout, done.stderr)  # shown where the test fails
        return all_answered(done.stdout, count)

    def reaches_nobody(self, address: str, count: int = 3, *options: str) -> bool:
        """Whether none of exactly that many pings is answered within 2 s."""
        done = self.host.run("ping", "-n", "-i", "0.05", "-W", "2", "-c", str(count), *options, address, check=False)
        return f"{count} packets transmitted, 0 received" in done.stdout
