"""Two gateways' interfaces in two namespaces, without daemons."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from ipaddress import ip_interface, ip_network
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qtunnel.engines.base import Engine, PeerSpec, PeerStats
from qtunnel.engines.choice import open_engine
from qtunnel.engines.interface import Interface, InterfaceConfig
from qtunnel.secret import Secret
from tests.engines.namespaces import Namespace, join, run

PORT = 51820
Result = TypeVar("Result")


def key() -> Secret:
    return Secret(os.urandom(32))


def dump(interface: str) -> list[list[str]]:
    """What ``wg show IFACE dump`` tells: the interface's line, then one per peer."""
    return [line.split("\t") for line in run("wg", "show", interface, "dump").splitlines()]


class End:
    """An engine in a namespace of its own; its one peer is the other end."""

    def __init__(self, engine: str, interface: str, number: int) -> None:
        self.namespace, self.number = Namespace(), number
        self.private = X25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes_raw()
        self.engine: Engine = open_engine(engine, interface, public_key=self.public, log_line=print)
        self.peer: End

    async def inside(self, what: Callable[..., Awaitable[Result]], *arguments: object, **named: object) -> Result:
        """Netlink speaks to the namespace that the thread is in. One call at a time: see ``entered``."""
        with self.namespace.entered():
            return await what(*arguments, **named)

    @property
    def spec(self) -> PeerSpec:
        """The peer, as this end has to have it."""
        allowed = (ip_network(f"10.77.{self.peer.number}.0/24"), ip_network(f"fd77:{self.peer.number}::/64"))
        return PeerSpec(self.peer.public, (f"192.0.2.{self.peer.number}", PORT), allowed)

    async def up(self) -> None:
        addresses = (ip_interface(f"10.77.{self.number}.1/24"), ip_interface(f"fd77:{self.number}::1/64"))
        interface = Interface(InterfaceConfig(self.engine.interface, addresses, allowed_ips=self.spec.allowed_ips))
        await self.inside(self.engine.start)
        await self.inside(self.engine.configure_device, Secret(self.private.private_bytes_raw()), PORT)
        await self.inside(self.engine.set_peer, self.spec)
        await self.inside(interface.up)

    async def install(self, psk: Secret, epoch: int, previous: Secret | None = None, *, now: bool = False) -> None:
        await self.inside(
            self.engine.set_psk, self.peer.public, psk, epoch, previous, epoch - 1 if previous else 0, now
        )  # fmt: skip

    async def stats(self) -> PeerStats:
        return (await self.inside(self.engine.stats))[self.peer.public]

    def address(self) -> str:
        return f"10.77.{self.number}.1"

    def reaches_peer(self) -> bool:
        with self.namespace.entered():
            return (
                subprocess.run(["ping", "-n", "-c", "1", "-W", "2", self.peer.address()], check=False).returncode == 0
            )

    def pings(self) -> subprocess.Popen[str]:
        """Echoes to the other end, until SIGINT."""
        with self.namespace.entered():
            return subprocess.Popen(
                ["ping", "-n", "-i", "0.05", self.peer.address()], stdout=subprocess.PIPE, text=True
            )

    def dump(self) -> list[list[str]]:
        with self.namespace.entered():
            return dump(self.engine.interface)

    async def down(self) -> None:
        await self.inside(self.engine.stop)
        self.namespace.close()


def with_two(left: str, right: str, interface: str, body: Callable[[End, End], Awaitable[None]]) -> None:
    """``body`` with both interfaces up, and random keys in place."""

    async def main() -> None:
        a, b = End(left, interface[:13] + "a", 1), End(right, interface[:13] + "b", 2)
        a.peer, b.peer = b, a
        join(a.namespace, b.namespace, "192.0.2.1/24", "192.0.2.2/24")
        try:
            await a.up()
            await b.up()
            await body(a, b)
        finally:
            await a.down()
            await b.down()

    asyncio.run(main())


async def agreed(a: End, b: End, epoch: int) -> Secret:
    """A new key at both ends, first where it is answered, then where the handshake begins; it carries echoes."""
    psk = key()
    await b.install(psk, epoch)
    await a.install(psk, epoch, now=True)
    for _ in range(60):
        if a.reaches_peer():
            return psk
    raise AssertionError("no session")
