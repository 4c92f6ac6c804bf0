"""The dead man's switch: a key that nobody renews ends by itself, with every session that was made with it."""

from __future__ import annotations

import re

import pytest

from qtunnel.wireguard.state import Drop
from tests.wireguard.test_psk import exchange, in_force, psk
from tests.wireguard.world import End, World, pair

START = World().now


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


def until(seconds: float, key: str = "expires_boottime_msec") -> str:
    """The line for an end so many seconds after the world's beginning."""
    return f"{key}={round((START + seconds) * 1000)}"


def told(end: End, key: str) -> str | None:
    found = re.search(rf"^{key}=(.*)$", end.get(), re.MULTILINE)
    return found[1] if found else None


def silent(world: World, sender: End, receiver: End) -> bool:
    """Whether a packet is not delivered."""
    sender.send_to(receiver)
    world.settle()
    return not receiver.delivered


def test_traffic_passes_until_the_end_and_not_a_moment_longer() -> None:
    world, alice, bob = tunnel(until(60))
    world.advance(59.9)
    exchange(world, alice, bob)
    assert told(alice, "expires_boottime_msec") == until(60).partition("=")[2]
    world.advance(0.1)
    assert silent(world, alice, bob)
    assert silent(world, bob, alice)
    assert (in_force(alice), told(alice, "ended_epoch"), told(alice, "installed_epoch")) == (None, "1", None)
    assert told(alice, "preshared_key") not in (psk(1), psk(0))
    world.advance(300)  # no later handshake brings it back
    assert silent(world, bob, alice)


def test_what_comes_before_the_timer_is_looked_at_is_refused_all_the_same() -> None:
    """As after a suspend, when a datagram is read first."""
    world, alice, bob = tunnel(until(60))
    bob.send_to(alice)
    world.now += 60.0
    world.settle()
    assert not alice.delivered


def test_a_key_in_time_goes_on_without_a_gap() -> None:
    world, alice, bob = tunnel(until(60))
    world.advance(59)
    install(bob, alice, 2)
    install(alice, bob, 2, until(119), "handshake=now")
    world.settle()
    for _ in range(50):
        world.advance(1)
        exchange(world, alice, bob)
    assert told(alice, "ended_epoch") is None


def test_a_session_of_the_key_before_ends_when_that_was_to_end() -> None:
    world, alice, bob = tunnel(until(60))
    world.advance(30)
    install(alice, bob, 2, until(90))  # bob does not have it, and goes on with the session of the first
    world.advance(29)
    exchange(world, alice, bob)
    world.advance(1)
    assert silent(world, bob, alice)
    assert told(alice, "installed_epoch") == "2"


def test_a_handshake_that_falls_back_to_the_key_before_makes_no_session_beyond_its_end() -> None:
    world, alice, bob = tunnel(until(60))
    world.advance(50)
    install(alice, bob, 2, until(110), "handshake=now")
    world.settle()
    assert in_force(alice) == 1
    world.advance(10)
    assert silent(world, bob, alice)


def test_the_end_may_be_moved_and_taken_away() -> None:
    world, alice, bob = tunnel(until(60))
    alice.set_peer(bob.public, until(90))
    world.advance(89)
    exchange(world, alice, bob)
    alice.set_peer(bob.public, "expires_boottime_msec=0")
    world.advance(0)
    assert silent(world, alice, bob)
    world, alice, bob = tunnel(until(60))
    alice.set_peer(bob.public, f"preshared_key={psk(1)}")  # the same again, as an operator may set it
    assert told(alice, "expires_boottime_msec") == until(60).partition("=")[2]
    alice.set_peer(bob.public, f"preshared_key={psk(3)}")
    assert told(alice, "expires_boottime_msec") is None


def test_a_link_that_goes_down_and_up_does_not_put_it_off() -> None:
    world, alice, bob = tunnel(until(60))
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


@pytest.mark.parametrize(
    "line", ["expires_boottime_msec=-1", "expires_boottime_msec=1.5", "epoch_note=\x07", "epoch_note=" + "x" * 901]
)
def test_what_is_not_of_the_grammar_is_refused(line: str) -> None:
    _, alice, bob = tunnel()
    assert alice.uapi(f"set=1\npublic_key={bob.public.hex()}\npreshared_key={psk(9)}\n{line}\n\n") == "errno=-22\n\n"
    assert told(alice, "preshared_key") == psk(1)


def test_an_end_is_a_moment_whatever_time_it_takes_to_say_it() -> None:
    world, alice, bob = tunnel()
    world.advance(30)
    alice.set_peer(bob.public, until(60))
    world.advance(29.9)
    exchange(world, alice, bob)
    world.advance(0.1)
    assert silent(world, bob, alice)


def answered_with_the_key_before(*lines: str, seconds: float = 0.0) -> int | None:
    """alice has a random key in place, then gets epoch 2 with 1 as the one before; bob still has 1. The epoch of the
    session that comes of her handshake, which takes that long."""
    world, alice, bob = tunnel(until(60))
    alice.set_peer(bob.public, f"preshared_key={psk(77)}", "drop_sessions=true")
    world.advance(50)
    before = f"previous_preshared_key={psk(1)}", "previous_epoch=1"
    alice.set_peer(bob.public, f"preshared_key={psk(2)}", "epoch=2", *before, *lines, "handshake=now")
    world.now += seconds
    world.settle()
    assert len(alice.sessions) == (in_force(alice) is not None), "nothing is made that could not be used"
    return in_force(alice)


def test_the_key_before_has_an_end_of_its_own() -> None:
    """As after a block, where the engine has another key in place and does not know when that one was to end."""
    new, old = until(500), "previous_expires_boottime_msec"
    assert answered_with_the_key_before(new, until(60, old)) == 1
    assert answered_with_the_key_before(new, until(50, old)) is None, "it was over before it was said"
    assert answered_with_the_key_before(new) is None, "nobody says when it ends"
    assert answered_with_the_key_before() == 1, "nothing ends there"
    assert answered_with_the_key_before(new, until(60, old), seconds=9.9) == 1
    assert answered_with_the_key_before(new, until(60, old), seconds=10) is None, "it ended while the answer came"


def test_a_key_that_is_over_answers_no_handshake_although_its_timer_was_not_looked_at() -> None:
    world, alice, bob = tunnel(until(60))
    world.now += 60
    made = len(alice.sessions)
    bob.device.handshakes.initiate(bob.peer(alice), world.now, at_once=True)
    world.settle()
    assert len(alice.sessions) == made
    assert alice.device.drops[Drop.EXPIRED] == 1


def test_an_end_of_the_key_before_needs_that_key() -> None:
    _, alice, bob = tunnel()
    section = f"set=1\npublic_key={bob.public.hex()}\n"
    line = until(60, "previous_expires_boottime_msec")
    assert alice.uapi(f"{section}{line}\n\n") == "errno=-22\n\n"
    assert alice.uapi(f"{section}preshared_key={psk(9)}\n{line}\n\n") == "errno=-22\n\n"
    assert told(alice, "preshared_key") == psk(1)


def test_a_session_of_the_key_before_may_be_ended_sooner_and_not_later() -> None:
    """As by a shorter ``max_age``, while the session of the key in place is not there yet."""
    world, alice, bob = tunnel(until(60))
    install(alice, bob, 2, until(90))
    for seconds, epoch in ((80, 1), (20, 3), (20, 2)):  # later; of an epoch that is not there; of the one in place
        alice.set_peer(bob.public, f"previous_epoch={epoch}", until(seconds, "previous_expires_boottime_msec"))
    world.advance(30)
    exchange(world, alice, bob)
    alice.set_peer(bob.public, until(70), "previous_epoch=1", until(40, "previous_expires_boottime_msec"))
    world.advance(9)
    exchange(world, alice, bob)
    world.advance(1)
    assert silent(world, bob, alice)
    assert told(alice, "installed_epoch") == "2", "which goes on"
    assert told(alice, "expires_boottime_msec") == until(70).partition("=")[2]


def test_a_fallback_to_the_key_before_ends_with_it_too() -> None:
    world, alice, bob = tunnel(until(60))
    install(alice, bob, 2, until(110))
    alice.set_peer(bob.public, "previous_epoch=1", until(20, "previous_expires_boottime_msec"))
    world.advance(19)
    alice.set_peer(bob.public, "handshake=now")
    world.settle()
    assert in_force(alice) == 1
    world.advance(1)
    assert silent(world, bob, alice)


def test_sessions_end_with_their_key_also_where_it_was_set_again() -> None:
    """As it is when somebody asks for a handshake."""
    world, alice, bob = tunnel(until(60), "epoch_note=first")
    install(alice, bob, 1, until(60), "epoch_note=second")
    assert (told(alice, "epoch_note"), told(alice, "installed_note")) == ("second", "second")
    alice.set_peer(bob.public, until(20))
    world.advance(19)
    exchange(world, alice, bob)
    world.advance(1)
    assert silent(world, bob, alice)
    assert told(alice, "ended_epoch") == "1"


@pytest.mark.parametrize("line", ["previous_epoch=1", "previous_expires_boottime_msec=1"])
def test_an_end_of_a_key_before_needs_its_number(line: str) -> None:
    _, alice, bob = tunnel()
    assert alice.uapi(f"set=1\npublic_key={bob.public.hex()}\n{line}\n\n") == "errno=-22\n\n"
