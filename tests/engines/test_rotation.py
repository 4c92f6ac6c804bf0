"""Two engines in two namespaces: keys rotate and nothing is lost, blocking stops the traffic at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_interface, ip_network

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qtunnel.engines.base import PeerSpec, PeerStats
from qtunnel.engines.interface import Interface, InterfaceConfig
from qtunnel.engines.programs import Program
from qtunnel.engines.uapi import UapiEngine
from qtunnel.secret import Secret
from tests.engines.namespaces import Namespace, join
from tests.engines.programs_here import PROGRAMS
from tests.support.ping import answered
from tests.support.ping import ping as echoes

pytestmark = pytest.mark.root

PORT = 51820


class End:
    """One gateway: an engine in a namespace of its own, with one peer."""

    def __init__(self, program: Program, interface: str, number: int) -> None:
        self.namespace = Namespace()
        self.number = number
        self.engine = UapiEngine(program, interface, log_line=print)
        self.private = X25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes_raw()
        self.interface = Interface(
            InterfaceConfig(interface, (ip_interface(f"10.77.{number}.1/24"), ip_interface(f"fd77:{number}::1/64")))
        )
        self.peer: End

    async def up(self, peer: End) -> None:
        self.peer = peer
        other = peer.number
        allowed = (ip_network(f"10.77.{other}.0/24"), ip_network(f"fd77:{other}::/64"))
        self.interface = Interface(
            InterfaceConfig(self.engine.interface, self.interface.config.addresses, allowed_ips=allowed)
        )
        with self.namespace.entered():
            await self.engine.start()
            await self.engine.configure_device(Secret(self.private.private_bytes_raw()), PORT)
            await self.engine.set_peer(PeerSpec(peer.public, (f"192.0.2.{other}", PORT), allowed))
            await self.interface.up()

    async def install(self, psk: Secret, epoch: int, previous: Secret | None, *, now: bool = False) -> None:
        await self.engine.set_psk(self.peer.public, psk, epoch, previous, epoch - 1 if previous else 0, now)

    async def stats(self) -> PeerStats:
        return (await self.engine.stats())[self.peer.public]

    async def down(self) -> None:
        with self.namespace.entered():
            await self.engine.stop()
        self.namespace.close()


@contextmanager
def two_ends(left: Program, right: Program, interface: str) -> Iterator[tuple[End, End]]:
    a, b = End(left, interface[:13] + "a", 1), End(right, interface[:13] + "b", 2)
    join(a.namespace, b.namespace, "192.0.2.1/24", "192.0.2.2/24")
    yield a, b


def with_tunnel(left: Program, right: Program, interface: str, body: Callable[[End, End], Awaitable[None]]) -> None:
    async def main() -> None:
        with two_ends(left, right, interface) as (a, b):
            try:
                await a.up(b)
                await b.up(a)
                await body(a, b)
            finally:
                await a.down()
                await b.down()

    asyncio.run(main())


async def ping(
    end: End, count: int, *, interval: float = 0.01, wait: int | None = None, version: int = 4
) -> tuple[int, int]:
    """Of the first ``count`` echoes from this end to the other through the tunnel: how many there were, and were lost.

    wait: seconds, where no answers are expected.
    """
    target = f"10.77.{end.peer.number}.1" if version == 4 else f"fd77:{end.peer.number}::1"
    command = echoes(target, count, interval=interval, patience=20)
    if wait is not None:
        command = ["ping", "-n", "-c", str(count), "-i", str(interval), "-W", str(wait), target]
    with end.namespace.entered():
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
        )
    output, _ = await process.communicate()
    assert "packets transmitted" in output.decode(), output
    return count, len(set(range(1, count + 1)) - answered(output.decode()))


def key() -> Secret:
    return Secret(os.urandom(32))


async def both_in_force(a: End, b: End, epoch: int) -> None:
    """Wait until both ends report the epoch; bounded by the test's own timeout."""
    while ((await a.stats()).epoch_in_force, (await b.stats()).epoch_in_force) != (epoch, epoch):
        await ping(a, 1, wait=1)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("left", PROGRAMS)
def test_no_traffic_before_a_key_then_both_ends_report_its_epoch(interface: str, left: str) -> None:
    async def body(a: End, b: End) -> None:
        assert await ping(a, 2, interval=0.2, wait=1) == (2, 2)  # a random key at each end
        assert (await a.stats()).epoch_in_force is None
        psk = key()
        await b.install(psk, 5, None)
        await a.install(psk, 5, None, now=True)
        await both_in_force(a, b, 5)
        sent, lost = await ping(a, 20)
        assert (sent, lost) == (20, 0)
        assert await ping(b, 20, version=6) == (20, 0)
        told = await a.stats()
        assert told.last_handshake is not None
        assert told.endpoint == ("192.0.2.2", PORT)
        assert told.rx_bytes > 20 * 64
        assert told.tx_bytes > 20 * 64

    with_tunnel(PROGRAMS[left], PROGRAMS["wireguard-go"], interface, body)


def test_sessions_are_dropped_and_the_key_makes_the_next_one(interface: str) -> None:
    async def body(a: End, b: End) -> None:
        first, second = key(), key()
        for psk, epoch, previous in ((first, 1, None), (second, 2, first)):
            await b.install(psk, epoch, previous)
            await a.install(psk, epoch, previous, now=epoch == 1)
            if epoch == 1:
                await both_in_force(a, b, 1)
        assert (await a.stats()).epoch_in_force == 1, "the session of the key before goes on"
        b.namespace.run("ip", "link", "set", "vb", "down")  # nobody answers the handshake
        await a.engine.drop_sessions(b.public)
        assert (await a.stats()).epoch_in_force is None
        b.namespace.run("ip", "link", "set", "vb", "up")
        await both_in_force(a, b, 2)
        assert (await ping(a, 5))[1] == 0

    with_tunnel(PROGRAMS["qtunnel"], PROGRAMS["qtunnel"], interface, body)


@pytest.mark.parametrize("left", PROGRAMS)
def test_blocking_stops_the_traffic_at_once_and_the_routes_stay(interface: str, left: str) -> None:
    async def body(a: End, b: End) -> None:
        psk = key()
        await b.install(psk, 1, None)
        await a.install(psk, 1, None, now=True)
        await both_in_force(a, b, 1)
        assert (await ping(a, 5))[1] == 0
        await a.engine.block(b.public, key())
        assert (await a.stats()).epoch_in_force is None
        assert await ping(a, 3, interval=0.2, wait=1) == (3, 3)
        assert a.engine.interface in a.namespace.run("ip", "route", "get", "10.77.2.1")
        # And the next epoch opens it again.
        psk = key()
        await b.engine.block(a.public, key())
        await b.install(psk, 2, None)
        await a.install(psk, 2, None, now=True)
        await both_in_force(a, b, 2)
        assert (await ping(a, 5))[1] == 0

    with_tunnel(PROGRAMS[left], PROGRAMS["wireguard-go"], interface, body)


@pytest.mark.parametrize("left, right", [(a, b) for a in PROGRAMS for b in PROGRAMS if "without-updates" not in (a, b)])
def test_rotation_loses_nothing(interface: str, left: str, right: str) -> None:
    async def body(a: End, b: End) -> None:
        previous = key()
        await b.install(previous, 1, None)
        await a.install(previous, 1, None, now=True)
        await both_in_force(a, b, 1)
        pings = asyncio.create_task(ping(a, 300))
        for epoch in range(2, 8):
            psk = key()
            await b.install(psk, epoch, previous)  # the responder first, the initiator a moment later
            await asyncio.sleep(0.1)
            await a.install(psk, epoch, previous, now=True)
            await asyncio.sleep(0.25)
            previous = psk
        assert await pings == (300, 0)
        if PROGRAMS[left].epochs:
            assert (await a.stats()).epoch_in_force == 7
        else:
            assert (await a.stats()).epoch_in_force == 1  # its next handshake is up to 120 s away

    with_tunnel(PROGRAMS[left], PROGRAMS[right], interface, body)


def test_a_moved_endpoint_is_followed(interface: str) -> None:
    async def body(a: End, b: End) -> None:
        psk = key()
        await b.install(psk, 1, None)
        await a.install(psk, 1, None)
        await a.engine.set_endpoint(b.public, ("192.0.2.77", PORT))
        assert (await a.stats()).endpoint == ("192.0.2.77", PORT)
        await a.engine.set_endpoint(b.public, ("192.0.2.2", PORT))
        await both_in_force(a, b, 1)

    with_tunnel(PROGRAMS["wireguard-go"], PROGRAMS["wireguard-go"], interface, body)
