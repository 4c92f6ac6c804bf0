"""The count of packets under a peer's keys, which a schedule by packets goes by."""

from __future__ import annotations

import re

from tests.wireguard.test_record_mode import agreed, packets
from tests.wireguard.world import End, connected, pair


def told(end: End) -> int:
    """By the answer to ``get``."""
    found = re.search(r"^packets=(\d+)$", end.get(), re.MULTILINE)
    return 0 if found is None else int(found[1])


def test_every_packet_counts_once_at_either_end() -> None:
    world, alice, bob = pair()
    assert (told(alice), "packets" in alice.get()) == (0, False)
    for _ in range(10):
        alice.send_to(bob)
        world.settle()
        bob.send_to(alice)
        world.settle()
    assert (told(alice), told(bob)) == (20, 20)


def test_a_new_session_goes_on_counting_and_so_does_their_end() -> None:
    world, alice, bob = connected()
    for _ in range(5):
        before = told(alice)
        alice.set_peer(bob.public, "drop_sessions=true")
        assert told(alice) == before
        world.advance(1)
        alice.send_to(bob)
        world.settle()
        assert told(alice) == before + 1
    before = told(alice)
    for _ in range(4):  # more sessions than are kept
        alice.set_peer(bob.public, "handshake=now")
        world.settle()
        world.advance(6)
        assert told(alice) >= before
        before = told(alice)
    world.advance(1000)
    assert not alice.peer(bob).keypairs.previous
    assert told(alice) >= before


def test_a_record_counts_as_one() -> None:
    world, alice, bob = agreed()
    before = told(alice), told(bob)
    alice.send_record(bob, *packets(alice, bob, 20))
    world.settle()
    assert (told(alice), told(bob)) == (before[0] + 1, before[1] + 1)
