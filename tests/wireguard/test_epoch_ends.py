"""The dead man's switch: a key that nobody renews ends by itself, with every session that was made with it."""

from __future__ import annotations

import re

import pytest

from tests.wireguard.test_psk import exchange, in_force, psk
from tests.wireguard.world import End, World, pair


def install(end: End, other: End, epoch: int, *lines: str) -> None:
    before = [f"previous_preshared_key={psk(epoch - 1)}", f"previous_epoch={epoch - 1}"] if epoch > 1 else []
    end.set_peer(other.public, f"preshared_key={psk(epoch)}", f"epoch={epoch}", *before, *lines)


def tunnel(*lines: str) -> tuple[World, End, End]:
    """Epoch 1 in force; alice's key has these lines, too."""
    world, alice, bob = pair()
    install(bob, alice, 1)
    install(alice, bob, 1, *lines, "handshake=now")
    world.settle()
    assert (in_force(alice), in_force(bob)) == (1, 1)
    exchange(world, alice, bob)
    return world, alice, bob


def told(end: End, key: str) -> str | None:
    found = re.search(rf"^{key}=(.*)$", end.get(), re.MULTILINE)
    return found[1] if found else None


def silent(world: World, sender: End, receiver: End) -> bool:
    """Whether a packet is not delivered."""
    sender.send_to(receiver)
    world.settle()
    return not receiver.delivered


def test_traffic_passes_until_the_end_and_not_a_moment_longer() -> None:
    world, alice, bob = tunnel("expires_msec=60000")
    world.advance(59.9)
    exchange(world, alice, bob)
    assert told(alice, "expires_msec") == "100"
    world.advance(0.1)
    assert silent(world, alice, bob)
    assert silent(world, bob, alice)
    assert (in_force(alice), told(alice, "ended_epoch"), told(alice, "installed_epoch")) == (None, "1", None)
    assert told(alice, "preshared_key") not in (psk(1), psk(0))
    world.advance(300)  # no later handshake brings it back
    assert silent(world, bob, alice)


def test_what_comes_before_the_timer_is_looked_at_is_refused_all_the_same() -> None:
    """As after a suspend, when a datagram is read first."""
    world, alice, bob = tunnel("expires_msec=60000")
    bob.send_to(alice)
    world.now += 60.0
    world.settle()
    assert not alice.delivered


def test_a_key_in_time_goes_on_without_a_gap() -> None:
    world, alice, bob = tunnel("expires_msec=60000")
    world.advance(59)
    install(bob, alice, 2)
    install(alice, bob, 2, "expires_msec=60000", "handshake=now")
    world.settle()
    for _ in range(50):
        world.advance(1)
        exchange(world, alice, bob)
    assert told(alice, "ended_epoch") is None


def test_a_session_of_the_key_before_ends_when_that_was_to_end() -> None:
    world, alice, bob = tunnel("expires_msec=60000")
    world.advance(30)
    install(alice, bob, 2, "expires_msec=60000")  # bob does not have it, and goes on with the session of the first
    world.advance(29)
    exchange(world, alice, bob)
    world.advance(1)
    assert silent(world, bob, alice)
    assert told(alice, "installed_epoch") == "2"


def test_a_handshake_that_falls_back_to_the_key_before_makes_no_session_beyond_its_end() -> None:
    world, alice, bob = tunnel("expires_msec=60000")
    world.advance(50)
    install(alice, bob, 2, "expires_msec=60000", "handshake=now")
    world.settle()
    assert in_force(alice) == 1
    world.advance(10)
    assert silent(world, bob, alice)


def test_the_end_may_be_moved_and_taken_away() -> None:
    world, alice, bob = tunnel("expires_msec=60000")
    alice.set_peer(bob.public, "expires_msec=90000")
    world.advance(89)
    exchange(world, alice, bob)
    alice.set_peer(bob.public, "expires_msec=0")
    world.advance(0)
    assert silent(world, alice, bob)
    world, alice, bob = tunnel("expires_msec=60000")
    alice.set_peer(bob.public, f"preshared_key={psk(1)}")  # the same again, as an operator may set it
    assert told(alice, "expires_msec") == "60000"
    alice.set_peer(bob.public, f"preshared_key={psk(3)}")
    assert told(alice, "expires_msec") is None


def test_a_link_that_goes_down_and_up_does_not_put_it_off() -> None:
    world, alice, bob = tunnel("expires_msec=60000")
    alice.device.link_down()
    world.advance(30)
    alice.device.link_up(world.now)
    assert not silent(world, alice, bob)
    bob.delivered.clear()
    exchange(world, alice, bob)
    world.advance(30)
    assert silent(world, alice, bob)
    assert told(alice, "ended_epoch") == "1"


def test_the_note_comes_back_with_the_key_and_with_its_sessions() -> None:
    _, alice, bob = tunnel('epoch_note={"made": 1.5}')
    install(alice, bob, 2, "epoch_note=second")
    assert (told(alice, "epoch_note"), told(alice, "installed_note")) == ('{"made": 1.5}', "second")
    assert (told(alice, "epoch"), told(alice, "installed_epoch")) == ("1", "2")


@pytest.mark.parametrize("line", ["expires_msec=-1", "expires_msec=1.5", "epoch_note=\x07", "epoch_note=" + "x" * 901])
def test_what_is_not_of_the_grammar_is_refused(line: str) -> None:
    _, alice, bob = tunnel()
    assert alice.uapi(f"set=1\npublic_key={bob.public.hex()}\npreshared_key={psk(9)}\n{line}\n\n") == "errno=-22\n\n"
    assert told(alice, "preshared_key") == psk(1)
