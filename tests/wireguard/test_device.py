"""Two or three devices: sessions, routing both ways, and what must be dropped while others go on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtunnel.wireguard.limits import MAX_STAGED_PACKETS, REJECT_AFTER_MESSAGES
from tests.wireguard.world import End, World, connected, ip_packet, pair

HANDSHAKE_SIZES = {148, 92}


def third(world: World, hub: End) -> End:
    """Another peer of ``hub``, with a session of its own."""
    carol = world.end(("fd99::3", 51820, 0, 0), "fd77::3")
    hub.set_peer(carol.public, "endpoint=[fd99::3]:51820", "allowed_ip=fd77::3/128", "allowed_ip=10.77.0.3/32")
    carol.meet(hub, "allowed_ip=fd77::2/128")
    carol.send(ip_packet("fd77::3", "fd77::2"))
    world.settle()
    assert hub.delivered.pop() == ip_packet("fd77::3", "fd77::2")
    return carol


def goes_on(world: World, sender: End, receiver: End, packet: bytes) -> None:
    sender.send(packet)
    world.settle()
    assert receiver.delivered.pop() == packet


def test_the_first_packet_is_staged_and_arrives() -> None:
    world, alice, bob = connected()
    assert [len(data) for _, _, data in world.history] == [148, 92, 32 + 32]
    bob.send_to(alice)
    world.settle()
    assert len(alice.delivered) == 1
    assert alice.drops == {}
    assert bob.drops == {}


def test_counters_are_of_udp_payloads() -> None:
    world, alice, bob = pair()
    for _ in range(10):
        alice.send_to(bob, bytes(64))
        world.settle()
        bob.send_to(alice, bytes(64))
        world.settle()
    assert (alice.peer(bob).tx_bytes, alice.peer(bob).rx_bytes) == (148 + 10 * 128, 92 + 10 * 128)
    assert (bob.peer(alice).tx_bytes, bob.peer(alice).rx_bytes) == (92 + 10 * 128, 148 + 10 * 128)


def test_a_responder_that_has_something_to_say_waits_for_confirmation() -> None:
    world, alice, bob = pair()
    alice.set_peer(bob.public, "handshake=now")
    world.collect()
    _, _, initiation = world.wire.pop()
    bob.receive(initiation, alice.endpoint)
    packet = bob.send_to(alice)
    assert bob.peer(alice).keypairs.current is None
    world.settle()
    assert alice.delivered == [packet]


def test_both_start_at_once_and_both_sessions_work() -> None:
    world, alice, bob = pair()
    first, second = alice.send_to(bob, b"from alice"), bob.send_to(alice, b"from bob")
    world.settle()
    assert (bob.delivered, alice.delivered) == ([first], [second])
    for number in range(4):
        alice.send_to(bob, bytes(number + 1))
        bob.send_to(alice, bytes(number + 1))
        world.settle()
    assert (len(bob.delivered), len(alice.delivered)) == (5, 5)


def test_padding_reaches_the_mtu_and_not_beyond() -> None:
    world, alice, bob = connected()
    alice.device.state.mtu = 1420
    for size in (1, 15, 16, 1400 - 20, 1409 - 20, 1420 - 20, 1450 - 20):
        packet = alice.send_to(bob, bytes(size))
        world.settle()
        assert bob.delivered.pop() == packet
        padded = len(world.history[-1][2]) - 32
        expected = len(packet) + -len(packet) % 16
        assert padded == (expected if expected <= 1420 else max(1420, len(packet)))


def test_inner_addresses_are_checked_both_ways() -> None:
    world, alice, bob = connected()
    alice.send(ip_packet("10.77.0.1", "10.77.9.9"))
    alice.send(ip_packet("fd77::1", "fd77::2"))
    assert alice.drops == {"no-peer-for-destination": 2}
    alice.send(ip_packet("10.77.0.66", "10.77.0.2"))
    world.settle()
    assert bob.delivered == []
    assert bob.drops == {"inner-source-not-allowed": 1}


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        b"\x45" + bytes(18),
        b"\x60" + bytes(38),
        b"\x55" + bytes(40),
        bytes(40),
    ],
)
def test_what_is_no_ip_packet_is_not_sent(packet: bytes) -> None:
    _, alice, _ = connected()
    alice.send(packet)
    assert alice.drops == {"bad-inner-packet": 1}
    assert alice.device.outbox == []


@pytest.mark.parametrize("length", [0, 19, 49])
def test_an_inner_length_that_cannot_be_is_dropped(length: int) -> None:
    world, alice, bob = connected()
    packet = bytearray(ip_packet("10.77.0.1", "10.77.0.2", bytes(28)))
    packet[2:4] = length.to_bytes(2, "big")
    alice.send(bytes(packet))
    world.settle()
    assert bob.drops == {"bad-inner-packet": 1}


def test_without_an_endpoint_nothing_is_kept() -> None:
    world, alice, bob = pair()
    alice.set("replace_peers=true")
    alice.meet(bob, endpoint=False)
    alice.send_to(bob)
    assert alice.drops == {"no-endpoint": 1}
    bob.send_to(alice)
    world.settle()
    assert alice.peer(bob).endpoint == bob.endpoint
    assert len(alice.delivered) == 1


def test_the_staging_queue_drops_its_oldest() -> None:
    world, alice, bob = pair()
    packets = [alice.send_to(bob, number.to_bytes(2, "big")) for number in range(MAX_STAGED_PACKETS + 10)]
    assert alice.drops == {"staging-queue-full": 10}
    world.settle()
    assert bob.delivered == packets[10:]


def test_roaming_follows_authenticated_packets_only() -> None:
    world, alice, bob = connected()
    elsewhere = ("192.0.2.7", 1234)
    alice.send_to(bob)
    world.collect()
    _, _, data = world.wire.pop()
    forged = bytearray(data)
    forged[-1] ^= 1
    bob.receive(bytes(forged), ("198.51.100.1", 1))
    assert bob.peer(alice).endpoint == alice.endpoint
    bob.receive(data, elsewhere)
    assert bob.peer(alice).endpoint == elsewhere
    bob.receive(data, ("198.51.100.1", 1))  # a replay does not move it either
    assert bob.peer(alice).endpoint == elsewhere


# What an attacker or a bad network can do to a message. Each is dropped and counted, and another peer goes on.

Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    ("damage", "reasons"),
    [
        (lambda data: data[:-1], {148: "malformed", 92: "malformed", 64: "bad-tag"}),
        (lambda data: data[:20], {148: "malformed", 92: "malformed", 64: "malformed"}),
        (lambda data: data[:3], {148: "malformed", 92: "malformed", 64: "malformed"}),
        (lambda data: b"", {148: "malformed", 92: "malformed", 64: "malformed"}),
        (lambda data: data + b"\0", {148: "malformed", 92: "malformed", 64: "bad-tag"}),
        (lambda data: data[:-40] + bytes(40), {148: "bad-mac1", 92: "bad-mac1", 64: "bad-tag"}),
        (lambda data: b"\x06" + data[1:], {148: "malformed", 92: "malformed", 64: "malformed"}),
        (lambda data: b"\x05" + data[1:], {148: "unknown-index", 92: "unknown-index", 64: "unknown-index"}),
        (lambda data: data[:1] + b"\x01" + data[2:], {148: "malformed", 92: "malformed", 64: "malformed"}),
    ],
)
@pytest.mark.parametrize("size", [148, 92, 64])
def test_damaged_messages(damage: Damage, reasons: dict[int, str], size: int) -> None:
    world, alice, bob = pair()
    carol = third(world, bob)
    target: list[End] = []

    def hit(source: object, destination: object, data: bytes) -> bool:
        if len(data) != size or target:
            return False
        receiver = bob if destination == bob.endpoint else alice
        target.append(receiver)
        receiver.receive(damage(data), alice.endpoint if receiver is bob else bob.endpoint)
        return True

    world.lose = hit
    alice.send_to(bob)
    world.settle()
    assert target[0].drops == {reasons[size]: 1}
    assert bob.delivered == []
    goes_on(world, carol, bob, ip_packet("fd77::3", "fd77::2"))
    world.advance(6)  # the handshake is tried again; alice's packet was staged or is lost
    goes_on(world, alice, bob, ip_packet("10.77.0.1", "10.77.0.2"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 147 * 8 + 7), st.sampled_from([148, 92]))
def test_any_flipped_bit_of_a_handshake_is_noticed(bit: int, size: int) -> None:
    world, alice, bob = pair()
    position = bit % (size * 8)
    if position >= (size - 16) * 8:
        return  # mac2 counts only under load

    def flip(source: object, destination: object, data: bytes) -> bool:
        if len(data) == size:
            changed = bytearray(data)
            changed[position // 8] ^= 1 << position % 8
            receiver = bob if destination == bob.endpoint else alice
            receiver.receive(bytes(changed), alice.endpoint if receiver is bob else bob.endpoint)
            assert sum(receiver.drops.values()) == 1
            assert not receiver.device.state.sessions or receiver is bob
        return False

    world.lose = flip
    packet = alice.send_to(bob)
    world.settle()
    assert bob.delivered == [packet]  # the true message still does its work


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 63 * 8 + 7))
def test_any_flipped_bit_of_a_data_packet_is_noticed(bit: int) -> None:
    world, alice, bob = connected()
    alice.send_to(bob)
    world.collect()
    _, _, data = world.wire.pop()
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    bob.receive(bytes(changed), alice.endpoint)
    assert bob.delivered == []
    assert sum(bob.drops.values()) == 1
    bob.receive(data, alice.endpoint)
    assert len(bob.delivered) == 1


def test_everything_replayed_is_dropped() -> None:
    world, alice, bob = connected()
    carol = third(world, bob)
    alice.send_to(bob)
    world.settle()
    bob.delivered.clear()
    recorded = [(source, destination, data) for source, destination, data in world.history]
    for source, destination, data in recorded:
        world.ends[destination].receive(data, source)
    world.collect()
    assert not world.wire
    assert bob.delivered == []
    # alice's handshake and carol's, and each one's data
    assert bob.drops == {"replayed-handshake": 2, "replayed-packet": 3}
    assert alice.drops == {"unknown-index": 1}
    goes_on(world, alice, bob, ip_packet("10.77.0.1", "10.77.0.2"))
    goes_on(world, carol, bob, ip_packet("fd77::3", "fd77::2"))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_reordered_and_duplicated_packets_arrive_once(data: st.DataObject) -> None:
    world, alice, bob = connected()
    sent = [alice.send_to(bob, bytes([number])) for number in range(12)]
    world.collect()
    datagrams, world.wire = world.wire, []
    for _, _, datagram in data.draw(st.permutations(datagrams + datagrams[:5])):
        bob.receive(datagram, alice.endpoint)
    assert sorted(bob.delivered) == sorted(sent)
    assert bob.drops == {"replayed-packet": 5}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 4))
def test_noise_from_the_network_harms_nothing(data: bytes, kind: int) -> None:
    _, alice, bob = CONNECTED
    bob.receive(bytes([kind, 0, 0, 0]) + data, ("192.0.2.1", 1))
    assert bob.delivered == []
    assert bob.peer(alice).endpoint == alice.endpoint
    assert not bob.device.outbox


CONNECTED = connected()


def test_an_unknown_peer_gets_no_answer() -> None:
    world, alice, bob = connected()
    stranger = world.end(("10.99.0.9", 51820), "10.77.0.9")
    stranger.meet(bob)
    stranger.send_to(bob)
    world.settle()
    assert bob.drops == {"unknown-peer": 1}
    assert [len(data) for _, destination, data in world.history if destination == stranger.endpoint] == []
    goes_on(world, alice, bob, ip_packet("10.77.0.1", "10.77.0.2"))


def test_another_psk_gives_no_session() -> None:
    world, alice, bob = pair()
    bob.set_peer(alice.public, f"preshared_key={bytes([1] * 32).hex()}")
    alice.send_to(bob)
    world.settle()
    assert alice.drops == {"bad-handshake": 1}
    assert bob.delivered == []
    assert alice.peer(bob).keypairs.current is None


def test_a_low_order_public_key_is_no_peer_to_talk_to() -> None:
    _, alice, _ = connected()
    alice.set_peer(bytes(32), "endpoint=192.0.2.1:1", "allowed_ip=10.1.0.0/16")
    alice.send(ip_packet("10.77.0.1", "10.1.0.1"))
    assert alice.device.outbox == []


def test_an_initiation_flood_of_one_peer_is_limited_to_one_in_20_ms() -> None:
    world, alice, bob = connected()
    for gap, accepted in ((0.025, True), (0.010, False), (0.015, True), (0.021, True)):
        world.now += gap
        before = bob.drops.get("handshake-flood", 0)
        alice.device.handshakes.initiate(alice.peer(bob), world.now, at_once=True)
        world.settle()
        assert (bob.drops.get("handshake-flood", 0) == before) is accepted


def test_a_counter_that_is_used_up_ends_the_session() -> None:
    world, alice, bob = connected()
    keypair = alice.peer(bob).keypairs.current
    assert keypair is not None
    keypair.send_counter = REJECT_AFTER_MESSAGES
    world.now += 6
    packet = alice.send_to(bob)
    world.settle()
    assert bob.delivered == [packet]
    assert alice.peer(bob).keypairs.current is not keypair


def test_link_down_ends_sessions_and_link_up_starts_anew() -> None:
    world, alice, bob = connected()
    bob.device.link_down()
    assert not bob.device.state.sessions
    alice.send_to(bob)
    world.settle()
    assert bob.drops == {"link-down": 1}
    bob.device.link_up(world.now)
    packet = bob.send_to(alice)
    world.settle()
    assert alice.delivered[-1] == packet


def test_close_wipes_keys() -> None:
    _, alice, bob = connected()
    static, psk = alice.device.state.static, alice.peer(bob).psk.psk
    alice.device.close()
    assert static is not None
    assert static.private.wiped
    assert psk.wiped
    assert not alice.device.state.sessions
