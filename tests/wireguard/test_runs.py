"""Runs of data messages: the same as one by one, whatever is in them."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from qtunnel.wireguard.messages import MIN_DATA_SIZE
from qtunnel.wireguard.rows import MAX_RUN
from qtunnel.wireguard.runs import RunOpener, RunSealer
from tests.wireguard.world import End, World, connected, ip_packet

STRIDE = 1024


def padded(packets: list[bytes], stride: int = STRIDE) -> bytearray:
    source = bytearray(stride * max(len(packets), 1))
    for row, packet in enumerate(packets):
        source[row * stride : row * stride + len(packet)] = packet
    return source


def sealed(world: World, sender: End, receiver: End, packets: list[bytes], last: int = STRIDE) -> bytes:
    """Messages of STRIDE bytes of packet, the last of ``last`` bytes."""
    peer = sender.peer(receiver)
    assert peer.keypairs.current is not None
    sealer = RunSealer(sender.device.transport, padded(packets))
    messages, size = sealer.seal(peer, peer.keypairs.current, STRIDE, 0, len(packets), last, world.now)
    assert size == STRIDE + MIN_DATA_SIZE
    return bytes(messages)


def opened(
    world: World, receiver: End, sender: End, messages: bytes, size: int = STRIDE + MIN_DATA_SIZE
) -> list[bytes]:
    source = bytearray(7) + bytearray(messages)
    opener = RunOpener(receiver.device.state, receiver.device.transport, source)
    found = []
    for run in opener.open(7, len(messages), size, sender.endpoint, world.now):
        assert run.peer is receiver.peer(sender)
        for row, length in enumerate(run.lengths):
            if length:
                found.append(bytes(opener.buffer[row * run.stride : row * run.stride + length]))
    return found


def flow(sender: End, receiver: End, count: int, size: int = STRIDE - 28) -> list[bytes]:
    return [ip_packet(sender.inner, receiver.inner, bytes((number & 255,)) * (size - 20)) for number in range(count)]


@given(st.integers(1, MAX_RUN), st.integers(2, 64))
@example(5, 2)  # less than an IPv6 header has, behind packets that have one
def test_a_run_is_what_single_messages_are(count: int, last: int) -> None:
    world, alice, bob = connected()
    packets = flow(alice, bob, count)
    packets[-1] = ip_packet(alice.inner, bob.inner, bytes(16 * last - 20))
    messages = sealed(world, alice, bob, packets, 16 * last)
    size = STRIDE + MIN_DATA_SIZE
    copy = connected()[2]
    one_by_one = [messages[at : at + size] for at in range(0, len(messages), size)]
    for message in one_by_one:
        copy.receive(message, alice.endpoint)
    assert copy.delivered == packets
    assert opened(world, bob, alice, messages) == packets
    assert opened(world, bob, alice, messages) == []
    assert bob.drops["replayed-packet"] == count


def test_counters_are_those_of_single_messages() -> None:
    world, alice, bob = connected()
    before = bob.peer(alice).rx_bytes, alice.peer(bob).tx_bytes
    messages = sealed(world, alice, bob, flow(alice, bob, 10))
    opened(world, bob, alice, messages)
    assert (bob.peer(alice).rx_bytes - before[0], alice.peer(bob).tx_bytes - before[1]) == (len(messages),) * 2
    keypair = alice.peer(bob).keypairs.current
    assert keypair is not None
    assert keypair.send_counter == 11  # the packet that made the session, and ten


def test_one_bad_message_costs_itself_alone() -> None:
    world, alice, bob = connected()
    packets = flow(alice, bob, 20)
    messages = bytearray(sealed(world, alice, bob, packets))
    messages[7 * (STRIDE + MIN_DATA_SIZE) + 100] ^= 1
    assert opened(world, bob, alice, bytes(messages)) == packets[:7] + packets[8:]
    assert bob.drops["bad-tag"] == 1


def test_any_order_within_a_burst() -> None:
    world, alice, bob = connected()
    packets = flow(alice, bob, 20)
    size = STRIDE + MIN_DATA_SIZE
    messages = sealed(world, alice, bob, packets)
    pieces = [messages[at : at + size] for at in range(0, len(messages), size)]
    assert opened(world, bob, alice, b"".join(pieces[::-1])) == packets[::-1]


def test_sources_that_are_not_the_peers_are_dropped_each() -> None:
    world, alice, bob = connected()
    packets = flow(alice, bob, 6)
    packets[2] = ip_packet("10.66.0.1", bob.inner, bytes(STRIDE - 48))
    messages = sealed(world, alice, bob, packets)
    assert opened(world, bob, alice, messages) == packets[:2] + packets[3:]
    assert bob.drops["inner-source-not-allowed"] == 1
    strangers = [ip_packet("10.66.0.1", bob.inner, bytes(STRIDE - 48))] * 5
    assert opened(world, bob, alice, sealed(world, alice, bob, strangers)) == []
    assert bob.drops["inner-source-not-allowed"] == 6


def test_lengths_that_lie_are_dropped_each() -> None:
    world, alice, bob = connected()
    packets = flow(alice, bob, 6)
    lying = bytearray(packets[3])
    lying[2:4] = (STRIDE + 1).to_bytes(2, "big")
    packets[3] = bytes(lying)
    messages = sealed(world, alice, bob, packets)
    assert opened(world, bob, alice, messages) == packets[:3] + packets[4:]
    assert bob.drops["bad-inner-packet"] == 1


@given(
    st.lists(
        st.tuples(st.sampled_from((4, 4, 4, 6, 5)), st.sampled_from((-1, 0, 0, 0, 1, 12)), st.integers(0, 5)),
        min_size=3,
        max_size=12,
    ),
    st.sampled_from((0, 4, 6)),
    st.booleans(),
    st.sampled_from((3, 64)),
)
def test_packets_of_any_kind_are_delivered_as_by_single_messages(
    kinds: list[tuple[int, int, int]], only: int, all_but_one: bool, last: int
) -> None:
    world, alice, bob = connected()
    copy = connected()[2]
    for end in (bob, copy):
        end.set_peer(alice.public, "allowed_ip=fd77::1/128")
    packets = []
    for number, (version, step, odd) in enumerate(kinds, 1):
        if only and number < len(kinds) and all_but_one:
            step = odd = 0
        kind = version if number == len(kinds) and all_but_one else only or version
        ends = ("fd77::1", "fd77::2") if kind == 6 else (alice.inner, bob.inner)
        fixed = 40 if kind == 6 else 20
        packet = bytearray(ip_packet(*ends, bytes(STRIDE - fixed - 12 + step)))
        if kind == 5:
            packet[0] = 0x55
        if odd == 1:
            packet[1] = 0x20  # another class of traffic, in IPv6 another flow label too
        if odd == 2:
            packet[fixed - 5 if kind == 6 else 12] ^= 1
        packets.append(bytes(packet))
    packets[-1] = packets[-1][: last * 16]  # which lies about its length where it is cut
    messages = sealed(world, alice, bob, packets, last * 16)
    size = STRIDE + MIN_DATA_SIZE
    for at in range(0, len(messages), size):
        copy.receive(messages[at : at + size], alice.endpoint)
    assert opened(world, bob, alice, messages) == copy.delivered
    assert bob.drops == copy.drops
    assert bob.peer(alice).rx_bytes == copy.peer(alice).rx_bytes


def test_messages_of_two_sessions_in_one_burst() -> None:
    world, alice, bob = connected()
    first = sealed(world, alice, bob, flow(alice, bob, 4))
    world.advance(1)  # else the handshake is one too many
    bob.set_peer(alice.public, f"preshared_key={'33' * 32}")
    alice.set_peer(bob.public, f"preshared_key={'33' * 32}", "handshake=now")
    world.settle()
    second = sealed(world, alice, bob, flow(alice, bob, 4))
    assert first[4:8] != second[4:8]  # the receiver's index
    assert opened(world, bob, alice, first + second) == flow(alice, bob, 4) * 2


def test_keepalives_in_a_burst() -> None:
    world, alice, bob = connected()
    peer = alice.peer(bob)
    keypair = peer.keypairs.current
    assert keypair is not None
    sent = bytearray(64)
    for row in range(2):
        view = memoryview(sent)[row * 32 :]
        alice.device.transport.seal_into(peer, keypair, memoryview(bytearray(16)), 0, world.now, view)
    assert opened(world, bob, alice, bytes(sent), 32) == []
    assert bob.drops == {}
    assert not bob.device.state.drops


@given(st.binary(max_size=400), st.integers(1, 200))
def test_bytes_that_are_no_messages(data: bytes, size: int) -> None:
    world, alice, bob = connected()
    if data:
        assert opened(world, bob, alice, data, size) == []
