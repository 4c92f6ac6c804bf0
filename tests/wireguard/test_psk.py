"""Preshared keys with epochs: ends that switch at different moments lose nothing, and know what is in force."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wireguard.world import EPOCH_NS, End, World, connected, pair


def psk(number: int) -> str:
    return f"{number:064x}"


def install(end: End, other: End, epoch: int, *lines: str, previous: bool = True) -> None:
    """Epoch ``epoch`` as the daemon installs it."""
    before = [f"previous_preshared_key={psk(epoch - 1)}", f"previous_epoch={epoch - 1}"] if previous else []
    end.set_peer(other.public, f"preshared_key={psk(epoch)}", f"epoch={epoch}", *before, *lines)


def in_force(end: End) -> int | None:
    found = re.search(r"^epoch=(\d+)$", end.get(), re.MULTILINE)
    return int(found[1]) if found else None


def start(epoch: int = 1) -> tuple[World, End, End]:
    world, alice, bob = pair()
    install(bob, alice, epoch, previous=False)
    install(alice, bob, epoch, "handshake=now", previous=False)
    world.settle()
    assert (in_force(alice), in_force(bob)) == (epoch, epoch)
    world.advance(1)  # initiations at the same moment would count as a flood
    return world, alice, bob


def exchange(world: World, alice: End, bob: End) -> None:
    """Both directions carry a packet now."""
    first, second = alice.send_to(bob), bob.send_to(alice)
    world.settle()
    assert bob.delivered.pop() == first
    assert alice.delivered.pop() == second


def test_a_session_without_a_label_reports_no_epoch() -> None:
    _, alice, bob = connected()
    assert in_force(alice) is None
    assert "epoch" not in alice.get()
    _, alice, bob = pair()
    alice.set_peer(bob.public, f"preshared_key={psk(1)}", "epoch=7")
    assert in_force(alice) is None  # labelled, but no session yet


def test_the_time_of_the_session_in_force() -> None:
    world, alice, _ = start()
    world.advance(3.25)
    found = re.search(r"^epoch_time_sec=(.*)$", alice.get(), re.MULTILINE)
    assert found
    assert found[1] == f"{EPOCH_NS // 10**9 + 1000}.000000000"


def test_installed_is_not_in_force() -> None:
    world, alice, bob = start()
    install(bob, alice, 2)
    install(alice, bob, 2)
    assert (in_force(alice), in_force(bob)) == (1, 1)
    alice.set_peer(bob.public, "handshake=now")
    world.settle()
    assert (in_force(alice), in_force(bob)) == (2, 2)


@pytest.mark.parametrize("initiator_first", [True, False])
def test_the_ends_may_switch_at_different_moments(initiator_first: bool) -> None:
    world, alice, bob = start()
    first, second = (alice, bob) if initiator_first else (bob, alice)
    install(first, second, 2, "handshake=now")
    world.settle()
    exchange(world, alice, bob)
    world.advance(1)
    exchange(world, alice, bob)
    install(second, first, 2, "handshake=now")
    world.settle()
    assert (in_force(alice), in_force(bob)) == (2, 2)
    exchange(world, alice, bob)


def test_a_response_under_the_previous_psk_counts_as_the_previous_epoch_and_is_tried_again() -> None:
    world, alice, bob = start()
    install(alice, bob, 2, "handshake=now")
    world.settle()
    assert (in_force(alice), in_force(bob)) == (1, 1)
    install(bob, alice, 2)
    world.advance(6)
    assert (in_force(alice), in_force(bob)) == (2, 2)


def test_trying_again_ends_when_the_peer_never_switches() -> None:
    world, alice, bob = start()
    install(alice, bob, 2, "handshake=now")
    world.settle()
    world.history.clear()
    world.advance(119)
    assert sum(len(data) == 148 for _, _, data in world.history) == 18


def test_setting_a_psk_alone_forgets_the_previous_one() -> None:
    world, alice, bob = start()
    install(alice, bob, 2)
    assert alice.peer(bob).previous_psk is not None
    old = alice.peer(bob).previous_psk
    alice.set_peer(bob.public, f"preshared_key={psk(2)}")
    assert alice.peer(bob).previous_psk is None
    assert old is not None
    assert old.psk.wiped
    assert alice.peer(bob).psk.epoch == 2  # the same key keeps its label
    alice.set_peer(bob.public, "handshake=now")
    world.settle()
    assert alice.drops == {"bad-handshake": 1}
    assert in_force(alice) == 1


def test_the_responder_never_uses_the_previous_psk() -> None:
    world, alice, bob = start()
    install(bob, alice, 2)
    alice.device.handshakes.initiate(alice.peer(bob), world.now, at_once=True)
    world.settle()
    assert alice.drops == {"bad-handshake": 1}
    exchange(world, alice, bob)


def test_handshake_now_starts_one_per_psk() -> None:
    world, alice, bob = start()
    world.history.clear()
    world.lose = lambda source, destination, data: True
    for _ in range(3):
        alice.set_peer(bob.public, "handshake=now")  # one was started with this key 0 s ago
    install(alice, bob, 2, "handshake=now")
    install(alice, bob, 2, "handshake=now")
    alice.set_peer(bob.public, "handshake=now")
    world.collect()
    assert [len(data) for _, _, data in world.history] == [148]
    world.now += 5
    alice.set_peer(bob.public, "handshake=now")
    world.collect()
    assert [len(data) for _, _, data in world.history] == [148, 148]


def test_drop_sessions_blocks_at_once() -> None:
    world, alice, bob = start()
    bob.send_to(alice)
    world.collect()
    under_way = world.wire.pop()
    alice.send_to(bob)
    world.lose = lambda source, destination, data: True
    alice.device.handshakes.initiate(alice.peer(bob), world.now, at_once=True)
    world.settle()
    assert alice.peer(bob).pending is not None
    alice.set_peer(bob.public, f"preshared_key={psk(999)}", "drop_sessions=true")
    state, peer = alice.device.state, alice.peer(bob)
    assert not state.sessions
    assert not state.pending
    assert peer.previous_psk is None
    assert in_force(alice) is None
    alice.receive(under_way[2], bob.endpoint)
    assert alice.delivered == []
    world.lose = lambda source, destination, data: False
    for _ in range(3):
        alice.send_to(bob)
        bob.send_to(alice)
        world.advance(7)
    world.settle()
    assert alice.delivered == []
    assert bob.delivered == []
    assert peer.keypairs.current is None


def test_drop_sessions_drops_staged_packets() -> None:
    world, alice, bob = pair()
    world.lose = lambda source, destination, data: True
    alice.send_to(bob)
    world.settle()
    alice.set_peer(bob.public, "drop_sessions=true")
    assert not alice.peer(bob).staged
    assert alice.device.next_deadline() == float("inf")


def test_keys_that_belong_together() -> None:
    _, alice, bob = pair()
    section = f"set=1\npublic_key={bob.public.hex()}\n"
    for lines in (
        "epoch=1",
        "previous_epoch=1",
        f"previous_preshared_key={psk(1)}",
        f"preshared_key={psk(1)}\nprevious_epoch=1",
        "epoch=18446744073709551616",
        "epoch=-1",
        "drop_sessions=false",
        "handshake=later",
    ):
        assert alice.uapi(f"{section}{lines}\n\n") == "errno=-22\n\n", lines
    assert alice.uapi(f"{section}epoch=18446744073709551615\npreshared_key={psk(1)}\n\n") == "errno=0\n\n"


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_rotation_at_any_moments_loses_nothing(data: st.DataObject) -> None:
    """Whatever the order in which both ends install, hand-shake and send, every packet arrives, and both end equal."""
    world, alice, bob = start()
    sent = {alice: 0, bob: 0}
    for epoch in range(2, 8):
        steps = [(end, lines) for end in (alice, bob) for lines in (["install"], ["send"], ["send"])]
        for end, (action,) in data.draw(st.permutations(steps)):
            other = bob if end is alice else alice
            if action == "install":
                install(end, other, epoch, *data.draw(st.sampled_from([["handshake=now"], []])))
            else:
                end.send_to(other)
                sent[other] += 1
            for _ in range(data.draw(st.integers(0, 4))):
                world.collect()
                if world.wire:
                    source, destination, datagram = world.wire.pop(0)
                    world.ends[destination].receive(datagram, source)
        world.settle()
        alice.set_peer(bob.public, "handshake=now")
        world.advance(0.5)
    world.advance(20)
    assert (len(alice.delivered), len(bob.delivered)) == (sent[alice], sent[bob])
    assert (in_force(alice), in_force(bob)) == (7, 7)
