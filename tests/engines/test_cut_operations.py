"""What our own engine makes of an operation of which only a part reached it, as from a daemon that is killed while it
speaks: no key without its end, and no random key beside a session."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable

from qtunnel.engines.base import Lease, PeerSpec
from qtunnel.engines.device import Device, Line
from qtunnel.engines.peers import DeviceEngine
from qtunnel.engines.uapi_client import encode
from qtunnel.secret import Secret
from qtunnel.wireguard.configuration import UapiConversation
from qtunnel.wireguard.timers import NEVER
from tests.wireguard.world import End, World, pair


class Cut:
    """A client of alice's device whose connection ends after ``most`` bytes of an operation."""

    def __init__(self, world: World, alice: End) -> None:
        self.world, self.alice = world, alice
        self.most: int | None = None
        self.size = 0

    async def get(self, *, always: bool = True) -> Device:
        raise NotImplementedError

    async def set(self, lines: Iterable[Line], *, always: bool = False) -> None:
        operation = encode(lines)
        self.size = len(operation)
        conversation = UapiConversation(self.alice.device)
        for answer in conversation.feed(bytes(operation[: self.most]), self.world.now):
            list(answer)
        list(conversation.end(self.world.now) or ())


def key(number: int) -> Secret:
    return Secret(bytes([number]) * 32)


def with_epoch(number: int, client: Cut, engine: DeviceEngine, bob: bytes) -> Awaitable[None]:
    """``number`` ends a minute later than the one before."""
    ends = 2000.0 + 60 * number
    previous = None if number == 1 else key(number - 1)
    return engine.set_psk(
        bob, key(number), number, previous, number - 1, lease=Lease(ends, "note", ((number - 1, ends - 60),))
    )


def cut(most: int | None, operation: Callable[[Cut, DeviceEngine, bytes], Awaitable[None]]) -> tuple[Cut, End]:
    """alice, who has epoch 1 and a session with bob, after that much of the operation."""
    world, alice, bob = pair()
    client = Cut(world, alice)
    engine = DeviceEngine("qtunnel", "qt0", client, epochs=True, random_bytes=os.urandom)
    bob.set_peer(alice.public, f"preshared_key={'01' * 32}")

    async def all_of_it() -> None:
        spec = PeerSpec(bob.public, ("10.99.0.2", 51820))
        await engine.set_peer(spec)
        await with_epoch(1, client, engine, bob.public)
        alice.device.handshakes.initiate(alice.peer(bob), world.now, at_once=True)
        world.settle()
        assert alice.sessions
        client.most = most
        await operation(client, engine, bob.public)

    asyncio.run(all_of_it())
    return client, bob


def test_no_key_is_there_without_its_end() -> None:
    async def operation(client: Cut, engine: DeviceEngine, bob: bytes) -> None:
        await with_epoch(2, client, engine, bob)

    size = cut(None, operation)[0].size
    seen = set()
    for most in range(size + 1):
        client, bob = cut(most, operation)
        peer = client.alice.peer(bob)
        number = peer.psk.psk.reveal()[0]
        seen.add(number)
        assert peer.psk.label.ends in {1: (2060.0, 2120.0), 2: (2120.0,)}[number], most
        for session in client.alice.device.state.sessions.values():
            assert session.label.ends != NEVER
        if peer.previous_psk is not None:
            assert peer.previous_psk.label.ends == 2060.0
    assert seen == {1, 2}


def test_no_random_key_is_there_beside_a_session() -> None:
    async def operation(client: Cut, engine: DeviceEngine, bob: bytes) -> None:
        with Secret(os.urandom(32)) as psk:
            await engine.block(bob, psk)

    size = cut(None, operation)[0].size
    blocked = 0
    for most in range(size + 1):
        client, bob = cut(most, operation)
        if bytes(client.alice.peer(bob).psk.psk.reveal()) != b"\1" * 32:
            assert not client.alice.sessions, most
            blocked += 1
    assert blocked
