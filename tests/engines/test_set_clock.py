"""An engine that knows no epochs, and a wall clock that somebody sets: what is said to protect the tunnel meanwhile.

The device stands in memory and tells its handshakes as WireGuard does: by the wall clock as it was at each.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest

from qtunnel.config.model import PeerConfig
from qtunnel.daemon.view import protection_in_force
from qtunnel.engines.base import PeerSpec
from qtunnel.engines.clocks import Clocks
from qtunnel.engines.device import Device, DevicePeer, Line
from qtunnel.engines.peers import DeviceEngine
from qtunnel.handshake.suites import SUITES
from qtunnel.keys.policy import Protection
from qtunnel.rekey.model import EpochInfo
from qtunnel.rekey.view import PeerView
from qtunnel.secret import Secret
from qtunnel.terms import ChainPolicy, KeyRef, Policy, QkdPolicy

PEER = PeerSpec(b"k" * 32, ("192.0.2.1", 51820))
CONFIG = cast(
    PeerConfig,
    SimpleNamespace(
        policy=Policy(QkdPolicy.PREFERRED, 1, ChainPolicy.RESET_ALLOWED), qkd=SimpleNamespace(max_age=600.0)
    ),
)


@dataclass
class World:
    """now: seconds of CLOCK_BOOTTIME. ahead: of them, the wall clock."""

    now: float = 1000.0
    ahead: float = 1_800_000_000.0
    told: float | None = None

    async def get(self, *, always: bool = True) -> Device:
        return Device(peers={PEER.public_key: DevicePeer(PEER.public_key, last_handshake=self.told)})

    async def set(self, lines: Iterable[Line], *, always: bool = False) -> None:
        self.now += 0.001

    def handshake(self, now: float) -> None:
        self.now, self.told = now, now + self.ahead


class Peer:
    """alice's with bob, whose KME delivered one key and no more."""

    def __init__(self) -> None:
        self.world = World()
        clocks = Clocks(lambda: self.world.now, lambda: self.world.now + self.world.ahead)
        self.engine = DeviceEngine("foreign", "qt0", self.world, clocks=clocks, random_bytes=os.urandom)
        self.epochs: dict[int, EpochInfo] = {}

    async def install(self, epoch: int, now: float) -> None:
        keys = (KeyRef("metro", "k1", 32),) if epoch == 1 else ()
        self.world.now = now
        self.epochs[epoch] = EpochInfo(epoch, SUITES[1], keys, True, now)
        await self.engine.set_psk(PEER.public_key, Secret(bytes([epoch]) * 32), epoch)

    async def protection(self, now: float) -> Protection:
        self.world.now = now
        stats = (await self.engine.stats())[PEER.public_key]
        installed = Protection.PQC_ONLY if len(self.epochs) > 1 else Protection.QKD_PQC
        view = cast(PeerView, SimpleNamespace(protection=installed, epochs=self.epochs))
        return protection_in_force(CONFIG, view, stats, now)


async def protected() -> Peer:
    """At 1002 s, by an epoch with QKD of 1000 s."""
    peer = Peer()
    await peer.engine.set_peer(PEER)
    await peer.install(1, 1000.0)
    peer.world.handshake(1001.0)
    assert await peer.protection(1002.0) is Protection.QKD_PQC
    return peer


STEPS = pytest.mark.parametrize("step", [-3600.0, 3600.0, -100.0, 100.0])


@STEPS
def test_an_epoch_with_qkd_is_not_claimed_of_a_session_that_may_have_none(step: float) -> None:
    async def main() -> None:
        peer = await protected()
        peer.world.ahead += step
        assert await peer.protection(1003.0) is Protection.QKD_PQC
        for epoch, start in ((2, 1120.0), (3, 1240.0), (4, 1360.0)):
            await peer.install(epoch, start)
            for since in (1.0, 60.0, 118.0):
                peer.world.handshake(start + since)
                assert await peer.protection(start + since + 0.5) is Protection.PQC_ONLY, (epoch, since)

    asyncio.run(main())


@STEPS
def test_a_session_that_is_over_protects_nothing(step: float) -> None:
    async def main() -> None:
        peer = await protected()
        peer.world.ahead += step
        for now in (1003.0, 1100.0, 1180.0):
            assert await peer.protection(now) is Protection.QKD_PQC, now
        for now in (1181.0, 1200.0, 1400.0, 1599.0):
            assert await peer.protection(now) is Protection.STARTING, now

    asyncio.run(main())


@STEPS
def test_a_clock_that_is_set_between_handshake_and_look_hides_no_session(step: float) -> None:
    async def main() -> None:
        peer = Peer()
        await peer.engine.set_peer(PEER)
        await peer.install(1, 1000.0)
        assert await peer.protection(1000.5) is Protection.STARTING
        peer.world.handshake(1001.0)
        peer.world.ahead += step
        assert await peer.protection(1002.0) is Protection.QKD_PQC
        await peer.install(2, 1170.0)
        assert await peer.protection(1180.0) is Protection.QKD_PQC, "still the session of the first"
        assert await peer.protection(1181.0) is Protection.STARTING

    asyncio.run(main())


def test_a_host_whose_clock_begins_in_1970_knows_its_epochs() -> None:
    """Only engines that cannot change a peer tell ages in place of dates."""

    async def main() -> None:
        peer = Peer()
        peer.world.ahead = 0.0
        await peer.engine.set_peer(PEER)
        await peer.install(1, 1000.0)
        peer.world.handshake(1001.0)
        for now in (1002.0, 1060.0, 1120.0):
            assert await peer.protection(now) is Protection.QKD_PQC, now

    asyncio.run(main())
