"""A program that cannot change a peer, as boringtun: it leaves a peer out that is removed and added in one operation.

Where boringtun is on PATH ``PROGRAMS`` can have it in place of the wireguard-go that is driven like it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable

import pytest

from qtunnel.engines.base import PeerSpec
from qtunnel.engines.device import Device, DevicePeer, Line
from qtunnel.engines.peers import DeviceEngine
from qtunnel.errors import EngineError
from qtunnel.secret import Secret

PEER = PeerSpec(b"k" * 32, ("192.0.2.1", 51820))
HEX = PEER.public_key.hex()


class Boringtun:
    """Its peers by their keys, as releases up to 0.7.1 have them: the last word about a removal is true for all of an
    operation."""

    def __init__(self) -> None:
        self.psk: dict[str, bytes] = {}
        self.refuses_new = False

    async def get(self, *, always: bool = True) -> Device:
        peers = [DevicePeer(bytes.fromhex(key), ("192.0.2.9", 51820)) for key in self.psk]
        return Device(peers={peer.public_key: peer for peer in peers})

    async def set(self, lines: Iterable[Line], *, always: bool = False) -> None:
        told = [(key, value) for key, value in lines if key in ("public_key", "remove", "preshared_key")]
        key = str(told[0][1])
        if ("remove", "true") in told:
            self.psk.pop(key, None)
            return
        assert key not in self.psk, "it panics at a peer that it knows"
        if self.refuses_new:
            raise EngineError("no answer in 5 s")
        self.psk[key] = b"".join(bytes(value.reveal()) for name, value in told if isinstance(value, Secret))


def psk(number: int) -> Secret:
    return Secret(bytes([number]) * 32)


Change = Callable[[DeviceEngine], Awaitable[None]]
CHANGES: dict[str, Change] = {
    "a key": lambda engine: engine.set_psk(PEER.public_key, psk(2), 2),
    "a block": lambda engine: engine.block(PEER.public_key, psk(3)),
    "an endpoint": lambda engine: engine.set_endpoint(PEER.public_key, ("192.0.2.7", 51820)),
    "a peer": lambda engine: engine.set_peer(PEER),
}


async def begun() -> tuple[Boringtun, DeviceEngine]:
    """An engine whose peer has the first key."""
    wire = Boringtun()
    engine = DeviceEngine("boringtun-cli", "qt0", wire, updates=False, random_bytes=os.urandom)
    await engine.set_peer(PEER)
    await engine.set_psk(PEER.public_key, psk(1), 1)
    return wire, engine


KEYS = {"a key": 2, "a block": 3, "an endpoint": 1, "a peer": 1}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_leaves_the_peer_there_with_the_key_that_it_should_have(what: str) -> None:
    async def main() -> None:
        wire, engine = await begun()
        await CHANGES[what](engine)
        assert wire.psk == {HEX: bytes([KEYS[what]]) * 32}

    asyncio.run(main())


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_that_ends_in_the_middle_lets_nothing_pass_and_can_be_repeated(what: str) -> None:
    async def main() -> None:
        wire, engine = await begun()
        wire.refuses_new = True
        with pytest.raises(EngineError):
            await CHANGES[what](engine)
        assert wire.psk == {}
        wire.refuses_new = False
        await CHANGES[what](engine)
        assert wire.psk == {HEX: bytes([KEYS[what]]) * 32}

    asyncio.run(main())


@pytest.mark.parametrize("then", ["an endpoint", "a peer"])
@pytest.mark.parametrize("what", ["a key", "a block"])
def test_what_ended_in_the_middle_leaves_no_key_for_another_change_to_put_back(what: str, then: str) -> None:
    async def main() -> None:
        wire, engine = await begun()
        wire.refuses_new = True
        with pytest.raises(EngineError):
            await CHANGES[what](engine)
        wire.refuses_new = False
        await CHANGES[then](engine)
        assert wire.psk[HEX] not in {bytes([number]) * 32 for number in (1, 2, 3)}

    asyncio.run(main())
