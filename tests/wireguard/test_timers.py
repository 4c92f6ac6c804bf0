"""The white paper's times, by a fake clock; and the schedule against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.secret import Secret
from qtunnel.wireguard.limits import REKEY_JITTER
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.timers import NEVER, PeerTimers, Schedule, Timer
from tests.wireguard.world import World, connected, pair


def sizes(world: World) -> list[int]:
    """Of the datagrams sent since the last look."""
    sent = [len(data) for _, _, data in world.history]
    world.history.clear()
    return sent


def test_initiations_are_repeated_for_90_s_and_then_given_up() -> None:
    world, alice, bob = pair()
    world.lose = lambda source, destination, data: True
    started = world.now
    alice.send_to(bob)
    gaps = []
    last = started
    world.collect()
    while (deadline := alice.device.next_deadline()) < started + 200:
        world.advance(deadline - world.now)
        if sizes(world):
            gaps.append(deadline - last)
            last = deadline
    assert len(gaps) >= 18
    assert all(5.0 <= gap <= 5.0 + REKEY_JITTER for gap in gaps[1:])
    assert 90 <= last - started <= 90 + 19 * REKEY_JITTER
    assert alice.drops == {"handshake-given-up": 1}
    assert alice.peer(bob).pending is None
    # the next packet starts again
    world.lose = lambda source, destination, data: False
    packet = alice.send_to(bob)
    world.settle()
    assert bob.delivered == [packet]


def test_no_second_initiation_within_5_s() -> None:
    world, alice, bob = pair()
    world.lose = lambda source, destination, data: True
    for _ in range(9):
        alice.send_to(bob)
        world.now += 0.5
    world.collect()
    assert sizes(world) == [148]


def test_a_passive_keepalive_after_10_s() -> None:
    world, _, _ = connected()
    sizes(world)
    world.advance(9.9)
    assert sizes(world) == []
    world.advance(0.2)
    assert sizes(world) == [32]  # bob, who received and sent nothing
    world.advance(60)
    assert sizes(world) == []  # and a keepalive is not answered


def test_data_received_during_the_wait_is_acknowledged_too() -> None:
    world, alice, bob = connected()
    world.advance(5)
    alice.send_to(bob)
    world.settle()
    sizes(world)
    world.advance(5.1)
    assert sizes(world) == [32]
    world.advance(10)
    assert sizes(world) == [32]


def test_a_silent_peer_gets_a_new_handshake_after_15_s() -> None:
    world, alice, bob = connected()
    world.advance(30)
    world.lose = lambda source, destination, data: source == bob.endpoint
    alice.send_to(bob)
    world.settle()
    sizes(world)
    world.advance(14.9)
    assert 148 not in sizes(world)
    world.advance(0.1 + REKEY_JITTER)
    assert 148 in sizes(world)


def test_the_initiator_rekeys_when_it_sends_after_120_s() -> None:
    world, alice, bob = connected()
    world.advance(119)
    sizes(world)
    alice.send_to(bob)
    world.settle()
    assert sizes(world) == [64]
    world.advance(1.5)
    alice.send_to(bob)
    world.settle()
    assert sizes(world) == [64, 148, 92, 32]


def test_the_responder_leaves_rekeying_to_the_initiator() -> None:
    world, alice, bob = connected()
    world.advance(164)
    sizes(world)
    bob.send_to(alice)
    world.settle()
    assert sizes(world) == [64]
    world.lose = lambda source, destination, data: len(data) == 148
    world.advance(1.1)
    for _ in range(3):  # having received after 165 s, the initiator renews, once
        bob.send_to(alice)
        world.settle()
    assert sizes(world) == [64, 148, 64, 64]


def test_after_180_s_nothing_is_sent_or_accepted_under_the_old_session() -> None:
    world, alice, bob = connected()
    old = alice.peer(bob).keypairs.current
    bob.send_to(alice)
    world.collect()
    late = world.wire.pop()
    bob.send_to(alice)  # answered by a keepalive, so that bob is content
    world.settle()
    alice.delivered.clear()
    world.advance(179.9)
    assert alice.peer(bob).keypairs.current is old
    assert old is not None
    assert old.may_send(world.now)
    world.advance(0.2)
    alice.receive(late[2], bob.endpoint)
    assert alice.drops == {"expired-session": 1}
    sizes(world)
    packet = bob.send_to(alice)  # the responder starts a handshake of its own now
    world.settle()
    assert sizes(world)[0] == 148
    assert alice.delivered == [packet]


def test_all_keys_are_wiped_after_540_s() -> None:
    world, alice, bob = connected()
    world.advance(539)
    assert alice.device.state.sessions
    world.advance(2)
    assert not alice.device.state.sessions
    assert alice.peer(bob).keypairs.current is None


def test_persistent_keepalives() -> None:
    world, alice, bob = pair()
    alice.set_peer(bob.public, "persistent_keepalive_interval=25")
    world.settle()
    assert sizes(world) == [148, 92, 32]  # at once
    world.advance(100)
    assert sizes(world) == [32] * 4
    alice.set_peer(bob.public, "persistent_keepalive_interval=0")
    world.advance(100)
    assert sizes(world) == []


def test_what_waited_for_a_private_key_is_sent_when_it_comes() -> None:
    world, alice, bob = pair()
    alice.set("private_key=" + "0" * 64)
    alice.set_peer(bob.public, "persistent_keepalive_interval=25")
    world.settle()
    assert sizes(world) == []
    alice.set(f"private_key={alice.private.hex()}")
    world.settle()
    assert sizes(world) == [148, 92, 32]


def test_persistent_keepalives_survive_a_long_outage() -> None:
    world, alice, bob = pair()
    world.lose = lambda source, destination, data: True
    alice.set_peer(bob.public, "persistent_keepalive_interval=25")
    world.advance(1000)
    world.lose = lambda source, destination, data: False
    world.advance(60)
    assert alice.peer(bob).keypairs.current is not None


def test_an_hour_of_handshakes_every_2_s_and_nothing_lost() -> None:
    world, alice, bob = connected()
    for number in range(1800):
        world.advance(2)
        psk = f"preshared_key={number + 1:064x}"
        bob.set_peer(alice.public, psk, f"epoch={number}")
        alice.set_peer(bob.public, psk, f"epoch={number}", "handshake=now")
        alice.send_to(bob, b"ping")
        world.settle()
        bob.send_to(alice, b"pong")
        world.settle()
        assert f"epoch={number}\n" in alice.get()
        assert f"epoch={number}\n" in bob.get()
        world.history.clear()
    assert (len(bob.delivered), len(alice.delivered)) == (1800, 1800)
    assert alice.drops == bob.drops == {}
    assert len(alice.device.state.sessions) <= 4
    assert len(bob.device.state.sessions) <= 4


@given(
    st.lists(st.tuples(st.sampled_from(Timer), st.one_of(st.none(), st.floats(0, 50)), st.floats(0, 20)), max_size=40)
)
def test_the_schedule_fires_as_a_plain_list(actions: list[tuple[Timer, float | None, float]]) -> None:
    schedule = Schedule()
    peer = Peer(bytes(31) + b"\x09", Secret(bytes(32)))
    timers = PeerTimers(peer, schedule, lambda: 0.0)
    expected = dict.fromkeys(Timer, NEVER)
    now = 0.0
    for timer, delay, pause in actions:
        if delay is None:
            timers.disarm(timer)
            expected[timer] = NEVER
        else:
            timers.arm(timer, now + delay)
            expected[timer] = now + delay
        assert schedule.next_deadline() == min(expected.values())
        now += pause
        fired = sorted(timer for _, timer in schedule.due(now))
        assert fired == sorted(timer for timer, at in expected.items() if at <= now)
        expected.update(dict.fromkeys(fired, NEVER))
    assert len(schedule._heap) <= 3 * len(Timer) * max(1, len(actions))
