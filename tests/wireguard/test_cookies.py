"""Under load: a cookie for every source, a rate for each, and a peer that gets through."""

from __future__ import annotations

import pytest

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.load import BURST, MAX_SOURCES, UNDER_LOAD_MESSAGES, RateLimiter
from qtunnel.wireguard.load import gauge as made_gauge
from qtunnel.wireguard.messages import CookieReply
from tests.wireguard.world import End, World, connected, pair


def load_up(world: World, end: End) -> None:
    """Make ``end`` meet as many handshake messages as mean load."""
    state = end.device.state
    for _ in range(UNDER_LOAD_MESSAGES):
        state.gauge.under_load(world.now)


def test_the_gauge_needs_many_messages_in_a_second_and_lasts_one() -> None:
    gauge = made_gauge()
    assert not any(gauge.under_load(10.0) for _ in range(UNDER_LOAD_MESSAGES))
    assert gauge.under_load(10.5)
    assert gauge.under_load(11.4)
    assert not gauge.under_load(11.6)
    assert not any(gauge.under_load(20.0 + number) for number in range(100))


def test_a_cookie_carries_the_handshake_through() -> None:
    world, alice, bob = pair()
    load_up(world, bob)
    packet = alice.send_to(bob)
    world.settle()
    assert [len(data) for _, _, data in world.history] == [148, 64]
    assert bob.drops == {"cookie-required": 1}
    assert bob.delivered == []
    world.now += 4.9
    load_up(world, bob)
    world.advance(0.5)  # the retransmission carries mac2
    assert world.history[2][2][-16:] != bytes(16)
    assert [len(data) for _, _, data in world.history[2:]] == [148, 92, 64]
    assert bob.delivered == [packet]


def test_a_cookie_is_of_one_source_address() -> None:
    world, alice, bob = pair()
    load_up(world, bob)
    alice.send_to(bob)
    world.settle()
    world.now += 6
    alice.device.handshakes.initiate(alice.peer(bob), world.now)
    world.collect()
    _, _, initiation = world.wire.pop()
    load_up(world, bob)
    for elsewhere in ((alice.endpoint[0], 1), ("192.0.2.1", alice.endpoint[1])):
        bob.receive(initiation, elsewhere)
    assert bob.drops == {"cookie-required": 3}
    bob.receive(initiation, alice.endpoint)
    assert len(bob.device.state.sessions) == 1


def test_a_cookie_ends_after_120_s() -> None:
    world, alice, bob = pair()
    load_up(world, bob)
    alice.send_to(bob)
    world.settle()
    world.now += 121
    alice.device.handshakes.initiate(alice.peer(bob), world.now)
    world.collect()
    assert world.history[-1][2][-16:] == bytes(16)


def test_responses_need_a_cookie_too() -> None:
    world, alice, bob = pair()
    load_up(world, alice)
    alice.send_to(bob)
    world.settle()
    assert alice.drops == {"cookie-required": 1}
    assert bob.peer(alice).cookies.sign(bytes(92), world.now)[-16:] != bytes(16)


@pytest.mark.parametrize("position", [4, 8, 31, 32, 63])
def test_a_forged_cookie_reply_changes_nothing(position: int) -> None:
    world, alice, bob = pair()
    load_up(world, bob)
    world.lose = lambda source, destination, data: len(data) == 64
    alice.send_to(bob)
    world.settle()
    reply = bytearray(world.history[-1][2])
    reply[position] ^= 1
    alice.receive(bytes(reply), bob.endpoint)
    assert alice.drops == {"unknown-index" if position < 8 else "bad-cookie-reply": 1}
    reply[position] ^= 1
    alice.receive(bytes(reply), bob.endpoint)
    assert sum(alice.drops.values()) == 1
    alice.receive(bytes(reply), bob.endpoint)  # one reply to one message
    assert alice.drops["bad-cookie-reply"] == (1 if position < 8 else 2)


def test_a_cookie_reply_without_a_message_before_it() -> None:
    _, alice, bob = connected()
    keypair = alice.peer(bob).keypairs.current
    assert keypair is not None
    alice.peer(bob).cookies._last_mac1 = None
    alice.receive(CookieReply(keypair.local_index, bytes(24), bytes(32)).pack(), bob.endpoint)
    assert alice.drops == {"bad-cookie-reply": 1}


def test_the_rate_of_a_source_is_limited_under_load_while_others_go_on() -> None:
    world, alice, bob = pair()
    carol = world.end(("10.99.0.3", 51820), "10.77.0.3")
    bob.meet(carol)
    carol.meet(bob)
    for end in (alice, carol):
        load_up(world, bob)
        end.send_to(bob)
    world.settle()
    world.now += 6
    load_up(world, bob)
    for _ in range(20):
        alice.device.handshakes.initiate(alice.peer(bob), world.now, at_once=True)
    carol.device.handshakes.initiate(carol.peer(bob), world.now)
    world.settle()
    assert bob.drops["rate-limited"] == 20 - int(BURST)
    assert bob.peer(carol).keypairs.next is not None or bob.peer(carol).keypairs.current is not None


def test_the_limiter_counts_ipv6_by_64_and_is_bounded() -> None:
    limiter = RateLimiter()

    def v6(low: int) -> Endpoint:
        return (f"2001:db8::{low:x}", 1, 0, 0)

    assert [limiter.allow(v6(number), 0.0) for number in range(6)] == [True] * 5 + [False]
    assert limiter.allow(v6(9), 0.05)
    assert not limiter.allow(v6(9), 0.05)
    for number in range(MAX_SOURCES + 50):
        limiter.allow((f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1), 1.0)
    assert len(limiter._buckets) <= MAX_SOURCES
    assert not limiter.allow(("192.0.2.1", 1), 1.5)
    assert limiter.allow(("192.0.2.1", 1), 3.0)
