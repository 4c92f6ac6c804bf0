"""What a device meets seldom: keys and peers that go while something is under way, numbers that are taken, memories
that are full."""

from __future__ import annotations

import hashlib
import logging
import struct
from itertools import chain, repeat
from unittest.mock import patch

import pytest

from qtunnel.wireguard import configuration
from qtunnel.wireguard.answers import get_answer
from qtunnel.wireguard.endpoint import without_source
from qtunnel.wireguard.limits import REJECT_AFTER_MESSAGES, REKEY_TIMEOUT
from qtunnel.wireguard.messages import MIN_DATA_SIZE
from qtunnel.wireguard.record_burst import ReceiveBuffer, counter_of_one
from qtunnel.wireguard.record_cut import RecordCutter
from qtunnel.wireguard.record_format import HEADER_SIZE, MAX_COUNTER
from qtunnel.wireguard.record_link import RecordLink, RecordState
from qtunnel.wireguard.record_plain import PlainError, Report, take_items
from qtunnel.wireguard.record_size import fragments_for
from qtunnel.wireguard.replay import ReplayWindow
from qtunnel.wireguard.rows import MAX_RUN
from qtunnel.wireguard.runs import RunOpener
from tests.wireguard.test_record_mode import agreed, packets
from tests.wireguard.test_records import AEAD, INDEX, cut, join, joiner, plain
from tests.wireguard.test_routing_loops import packet as looped
from tests.wireguard.test_runs import STRIDE, flow, sealed
from tests.wireguard.test_runs import opened as opened_run
from tests.wireguard.world import End, World, connected, ip_packet, pair


def initiation(world: World, sender: End, receiver: End) -> bytes:
    sender.set_peer(receiver.public, "handshake=now")
    world.collect()
    return world.wire.pop()[2]


def test_a_link_that_is_down_hears_nothing_and_says_so() -> None:
    world, alice, bob = pair()
    message = initiation(world, alice, bob)
    bob.device.link_down()
    bob.device.link_down()  # which is no error
    assert not bob.device.admits(alice.endpoint, 3)
    bob.receive(message, alice.endpoint)
    assert bob.drops["link-down"] == 4
    bob.device.link_up(world.now)
    bob.device.link_up(world.now)
    assert bob.device.admits(alice.endpoint, 1)
    assert len(bob.binds) == 1, "its port is bound already"


def test_nobody_is_answered_at_port_0() -> None:
    world, alice, bob = pair()
    bob.receive(initiation(world, alice, bob), ("10.99.0.1", 0))
    assert bob.drops == {"source-port-0": 1}
    assert world.wire == []


def test_a_link_that_comes_up_without_a_port_takes_a_free_one_and_keeps_connections_alive() -> None:
    world, alice, bob = pair(1, "persistent_keepalive_interval=25")
    world.settle()
    bob.device.link_down()
    bob.device.state.listen_port = 0
    before = len(world.history)
    bob.device.link_up(world.now)
    world.collect()
    assert bob.binds[-1] == (0, 0)
    assert bob.device.state.listen_port == 40_000 + len(bob.binds)
    assert [len(data) for source, _, data in world.history[before:] if source == bob.endpoint] == [148]
    assert alice.drops == {}


def test_a_keepalive_that_was_turned_off_is_none_though_its_timer_goes_off() -> None:
    world, alice, bob = connected(1, "persistent_keepalive_interval=25")
    peer = alice.peer(bob)
    peer.timers.persistent = 0
    alice.device._persistent_keepalive(peer, world.now)
    assert alice.device.outbox == []


def test_without_a_private_key_nothing_is_answered() -> None:
    world, alice, bob = pair()
    message = initiation(world, alice, bob)
    bob.set("private_key=" + "00" * 32)
    bob.receive(message, alice.endpoint)
    assert bob.drops == {"no-private-key": 1}


def test_an_initiation_of_somebody_who_is_no_peer_gets_no_answer() -> None:
    world, alice, bob = pair()
    message = initiation(world, alice, bob)
    bob.set_peer(alice.public, "remove=true")
    bob.receive(message, alice.endpoint)
    assert bob.drops == {"unknown-peer": 1}
    assert bob.device.outbox == []


def test_a_response_with_a_key_of_low_order_is_none() -> None:
    """mac1 is anybody's to make who knows the public key. The handshake goes on waiting for the real response."""
    world, alice, bob = pair()
    message = initiation(world, alice, bob)
    bob.receive(message, alice.endpoint)
    world.collect()
    (_, _, response) = world.wire.pop()
    forged = bytearray(response)
    forged[12:44] = bytes(32)
    forged[60:76] = mac1(alice, bytes(forged[:60]))
    alice.receive(bytes(forged), bob.endpoint)
    assert alice.drops == {"bad-handshake": 1}
    alice.receive(response, bob.endpoint)
    assert alice.peer(bob).keypairs.current is not None


def test_an_initiation_that_opens_for_nobody_is_a_bad_one() -> None:
    """With a right mac1, which anybody can make."""
    world, alice, bob = pair()
    forged = bytearray(initiation(world, alice, bob))
    for at, damage in ((8, bytes(32)), (60, b"\xff"), (100, b"\xff")):  # ephemeral key of low order, static key, time
        message = bytearray(forged)
        message[at : at + len(damage)] = damage
        message[116:132] = mac1(bob, bytes(message[:116]))
        bob.receive(bytes(message), alice.endpoint)
    assert bob.drops == {"bad-handshake": 3}
    assert bob.device.outbox == []


def mac1(end: End, covered: bytes) -> bytes:
    """WireGuard's white paper, section 5.4.4."""
    key = hashlib.blake2s(b"mac1----" + end.public).digest()
    return hashlib.blake2s(covered, digest_size=16, key=key).digest()


def test_a_peer_whose_key_is_of_low_order_is_tried_as_seldom_as_one_that_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No session with it can come about. Each try costs computations and a line of the log, so packets must not set
    its pace."""
    world, alice, _bob = connected()
    alice.set_peer(bytes(32), "endpoint=10.99.0.9:51820", "allowed_ip=10.77.0.9")
    with caplog.at_level(logging.WARNING):
        for tries in (1, 2):
            alice.send(ip_packet(alice.inner, "10.77.0.9"))
            draws = world.random.getstate()
            for _ in range(9):
                alice.send(ip_packet(alice.inner, "10.77.0.9"))
            assert world.random.getstate() == draws, "no further key was made"
            assert [record.getMessage().count("low order") for record in caplog.records] == [1] * tries
            world.advance(REKEY_TIMEOUT)
    assert alice.device.outbox == []


def test_an_index_that_is_taken_is_not_given_again() -> None:
    _world, alice, _bob = connected()
    (taken,) = alice.device.state.sessions
    draws = chain(repeat(taken.to_bytes(4, "little"), 3), [b"\x01\x02\x03\x04"])
    with patch.object(alice, "random_bytes", lambda size: next(draws)):
        assert alice.device.state.new_index() == 0x04030201


def test_a_peer_whose_key_becomes_our_own_goes() -> None:
    _world, alice, bob = connected()
    alice.set(f"private_key={bob.private.hex()}")
    assert bob.public not in alice.device.state.peers
    assert alice.sessions == set()


def test_more_peers_than_there_may_be_are_refused() -> None:
    _world, alice, bob = pair()
    with patch.object(configuration, "MAX_PEERS", 1):
        assert alice.uapi(f"set=1\npublic_key={'07' * 32}\n\n") == "errno=-28\n\n"
        alice.set_peer(bob.public)  # one that is there may be changed
    assert list(alice.device.state.peers) == [bob.public]


def test_a_mark_without_a_port_waits_for_one() -> None:
    _world, alice, _ = pair()
    alice.device.state.listen_port, alice.device.state.fwmark = 0, 0
    binds = len(alice.binds)
    alice.set("fwmark=5")
    assert (len(alice.binds), alice.device.state.fwmark) == (binds, 5)
    assert "listen_port" not in alice.get()
    assert "fwmark=5\n" in alice.get()
    alice.set("listen_port=7", "fwmark=5")
    assert alice.binds[-1] == (7, 5)


def test_a_keepalive_that_stays_on_is_not_sent_at_once_again() -> None:
    world, alice, bob = connected(1, "persistent_keepalive_interval=25")
    sent = len(world.history)
    alice.set_peer(bob.public, "persistent_keepalive_interval=20")
    world.settle()
    assert len(world.history) == sent
    world.advance(20.5)
    assert len(world.history) > sent


def test_a_peer_that_goes_while_it_is_told_of_is_left_out() -> None:
    world = World()
    alice, bob, carol = (world.end((f"10.99.0.{n}", 51820), f"10.77.0.{n}") for n in (1, 2, 3))
    alice.meet(bob)
    alice.meet(carol)
    pieces = get_answer(alice.device, world.now)
    told = [next(pieces), next(pieces)]
    alice.set_peer(carol.public, "remove=true")
    told += pieces
    assert bob.public.hex().encode() in b"".join(told)
    assert carol.public.hex().encode() not in b"".join(told)


def test_what_a_peer_is_called_in_a_log_shows_little_of_its_key() -> None:
    _, alice, bob = pair()
    assert repr(alice.peer(bob)) == f"<Peer {bob.public.hex()[:8]}>"


def test_the_source_of_an_endpoint_is_forgotten_in_both_families() -> None:
    class Learned(tuple):  # type: ignore[type-arg]
        """As the host remembers a local address."""

    for plain_one in (("10.0.0.1", 5), ("fe80::1", 5, 7, 2)):
        assert without_source(Learned(plain_one)) == plain_one
        assert type(without_source(Learned(plain_one))) is tuple


def test_a_datagram_that_goes_round_is_stopped_at_the_end_that_sends_it() -> None:
    _world, alice, bob = connected()
    alice.set_peer(bob.public, f"allowed_ip={bob.endpoint[0]}/32")
    keypair = alice.peer(bob).keypairs.current
    assert keypair is not None
    ours = bytes((4, 0, 0, 0)) + keypair.remote_index.to_bytes(4, "little")
    alice.send(looped(bob.endpoint[0], (alice.endpoint[1], bob.endpoint[1]), payload=ours))
    assert alice.drops == {"endpoint-behind-itself": 1}
    assert alice.device.outbox == []


def test_an_end_keeps_no_packet_for_a_peer_whose_address_it_does_not_know() -> None:
    world = World()
    alice, bob = (world.end((f"10.99.0.{n}", 51820), f"10.77.0.{n}") for n in (1, 2))
    alice.meet(bob, endpoint=False)
    alice.send_to(bob)
    assert alice.drops == {"no-endpoint": 1}
    assert list(alice.peer(bob).staged) == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [(b"\x04" + bytes(30), "malformed"), (b"\x09" + bytes(40), "malformed"), (b"\x04" + bytes(40), "unknown-index")],
)
def test_what_is_no_data_is_dropped_by_whoever_opens_data(message: bytes, reason: str) -> None:
    world, alice, bob = connected()
    assert bob.device.transport.open(memoryview(message), alice.endpoint, world.now) is None
    assert bob.drops == {reason: 1}


def test_a_counter_beyond_the_last_is_refused_though_it_is_authentic() -> None:
    _world, alice, bob = connected()
    keypair = alice.peer(bob).keypairs.current
    assert keypair is not None
    for counter, dropped in ((REJECT_AFTER_MESSAGES - 1, {}), (REJECT_AFTER_MESSAGES, {"expired-session": 1})):
        nonce = struct.pack("<4xQ", counter)
        message = bytearray(struct.pack("<IIQ", 4, keypair.remote_index, counter) + bytes(16))
        keypair.seal(nonce, b"", None, memoryview(message)[16:])
        bob.receive(bytes(message), alice.endpoint)
        assert bob.drops == dropped


# -- windows and runs


def test_a_whole_run_is_new_or_nothing_of_it_is_noted() -> None:
    window = ReplayWindow()
    assert window.accept_all(0, 3)
    assert window.accept_all(10, 3), "with a gap"
    assert [counter for counter in range(14) if not window.seen(counter)] == [3, 4, 5, 6, 7, 8, 9, 13]
    assert not window.accept_all(9, 2), "10 was there"
    assert not window.seen(9)
    assert window.accept_all(3, 7)
    assert window.next == 13
    assert not window.accept_all(12, 2)
    assert window.accept_all(13, 1)


def test_a_burst_longer_than_a_run_is_opened_in_parts() -> None:
    world, alice, bob = connected()
    sent = [flow(alice, bob, MAX_RUN), flow(alice, bob, 5)]
    messages = b"".join(sealed(world, alice, bob, part) for part in sent)
    assert opened_run(world, bob, alice, messages) == [one for part in sent for one in part]


def test_a_run_of_another_type_is_counted_and_dropped() -> None:
    world, alice, bob = connected()
    messages = (b"\x07" + bytes(99)) * 4
    assert opened_run(world, bob, alice, messages, 100) == []
    assert bob.drops == {"malformed": 4}


def test_a_run_whose_last_message_is_too_short_is_opened_one_by_one() -> None:
    world, alice, bob = connected()
    sent = flow(alice, bob, 3)
    messages = sealed(world, alice, bob, sent) + b"\x04" * 10
    assert opened_run(world, bob, alice, messages) == sent
    assert bob.drops == {"malformed": 1}


def test_a_run_that_was_there_in_part_gives_the_rest() -> None:
    world, alice, bob = connected()
    sent = flow(alice, bob, 4)
    messages = sealed(world, alice, bob, sent)
    size = STRIDE + MIN_DATA_SIZE
    assert opened_run(world, bob, alice, messages[size : 2 * size], size) == [sent[1]]
    before = bob.peer(alice).rx_bytes
    assert opened_run(world, bob, alice, messages) == [sent[0], *sent[2:]]
    assert bob.drops == {"replayed-packet": 1}
    assert bob.peer(alice).rx_bytes - before == 3 * size


def test_places_of_many_sizes_are_forgotten_and_made_anew() -> None:
    world, alice, bob = connected()
    source = bytearray(70_000)
    opener = RunOpener(bob.device.state, bob.device.transport, source)
    for size in range(100, 100 + 16 * 40, 16):
        assert list(opener.open(0, 3 * size, size, alice.endpoint, world.now)) == []
    assert bob.drops["malformed"] == 120


# -- records


def test_a_record_of_a_peer_without_record_mode_is_counted() -> None:
    _world, alice, bob = connected()
    keypair = bob.peer(alice).keypairs.current
    assert keypair is not None
    data = struct.pack("<BBBxIQ", 5, 0, 1, keypair.local_index, 40 << 48) + bytes(24)
    bob.receive(data, alice.endpoint)
    assert bob.drops == {"unknown-index": 1}


def test_a_record_of_more_than_there_are_counters_is_not_sent() -> None:
    _world, alice, bob = agreed()
    keypair = alice.peer(bob).keypairs.current
    assert keypair is not None
    assert keypair.records is not None
    keypair.records.send_counter = MAX_COUNTER
    assert alice.send_record(bob, *packets(alice, bob, 1)) == 1
    assert alice.send_record(bob, *packets(alice, bob, 1)) == 0


def test_an_mtu_too_small_for_records_has_none() -> None:
    _world, alice, bob = agreed()
    alice.device.state.mtu = 576
    assert alice.device.records.cutter() is None
    assert alice.send_record(bob, *packets(alice, bob, 1, 100)) == 0
    alice.device.state.mtu = 1420
    assert alice.send_record(bob, *packets(alice, bob, 1, 100)) == 1


def test_what_is_no_list_of_items_ends_its_record_and_no_session() -> None:
    world, alice, bob = agreed()
    good = packets(alice, bob, 1)
    plain_bytes = bytes(10) + good[0] + bytes(10) + b"\x00junk"
    datagrams, size = alice.device.records.seal(alice.peer(bob), memoryview(plain_bytes), world.now)
    for at in range(0, len(datagrams), size):
        bob.receive(bytes(datagrams[at : at + size]), alice.endpoint)
    assert bob.delivered == good
    assert bob.drops == {"bad-inner-packet": 1}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (b"\xff", "a control item is cut off"),
        (b"\xff\x01\x28", "a control item is cut off"),
        (b"\xff\x01\x28\x00" + bytes(39), "a control item is cut off"),
        (b"\xff\x01\x27\x00" + bytes(39), "a report has 40 bytes, not 39"),
        (b"\xff\x02\x29\x00" + bytes(41), "a report has 40 bytes, not 41"),
        (bytes(10), "no IP packet in 0 bytes"),
        (bytes(9), "no IP packet in -1 bytes"),
        (bytes(30), "no IP packet in 20 bytes"),
    ],
)
def test_items_that_are_none(item: bytes, words: str) -> None:
    found: list[memoryview] = []
    with pytest.raises(PlainError, match=f"^{words}$"):
        take_items(memoryview(item), found)
    assert found == []


def test_control_items_of_a_kind_that_nobody_knows_yet_are_skipped() -> None:
    report = Report(7, 6, 5, 4, 3, True)
    item = b"\xff\x09\x03\x00new"
    assert take_items(memoryview(item + report.pack() + item), []) == [report]


def test_records_of_many_shapes_are_cut_and_joined() -> None:
    """More shapes than are remembered, and other places when they come again."""
    cutter = RecordCutter(1448)
    shapes = [(length, parity) for length in range(2000, 60_000, 1432) for parity in (False, True)]
    for length, parity in shapes * 2:
        datagrams = cutter.cut(AEAD.encrypt_into, plain(length), INDEX, 3, parity=parity)
        made = [bytes(datagrams[at : at + 1448]) for at in range(0, len(datagrams), 1448)]
        assert join(made) == [bytes(plain(length))]


def test_no_parity_no_zeros_after_the_last_byte() -> None:
    """A record that fills its datagrams to the last byte has nothing to fill up, with parity either."""
    for parity in (False, True):
        made = cut(2 * (1448 - HEADER_SIZE) - HEADER_SIZE, 1448, parity=parity)
        assert {len(one) for one in made} == {1448}
        assert join(made) == [bytes(plain(2 * (1448 - HEADER_SIZE) - HEADER_SIZE))]


def test_the_counter_of_a_burst_of_one_record_is_told_by_its_first_header() -> None:
    for parity in (False, True):
        burst = b"".join(cut(4000, 1448, 77, parity=parity))
        buffer = ReceiveBuffer(len(burst) + 100)
        buffer.view[: len(burst)] = burst
        assert counter_of_one(buffer, 0, len(burst), 1448) == 77
        assert counter_of_one(buffer, 0, len(burst) + 8, 1448) == -1


def test_a_run_of_fragments_whose_size_cannot_be_is_none_of_a_record() -> None:
    to = joiner()
    made = cut(4000, 1448)
    assert join([made[0][:1000]], to) == []
    assert join(made, to) == [bytes(plain(4000))]


@pytest.mark.parametrize(("loss", "count"), [(0.0, 64), (-1.0, 64), (1e-9, 64), (0.9, 2)])
def test_fragments_are_as_many_as_a_loss_allows(loss: float, count: int) -> None:
    assert fragments_for(loss, 0.5) == count


def test_a_record_link_keeps_its_state_where_its_suite_stays() -> None:
    link = RecordLink()
    link.set_suite("aes-256-gcm", 1.0)
    assert link.state.name == "PROBING"
    sizer = link.sizer
    link.set_suite("aes-256-gcm", 2.0)
    assert link.sizer is sizer
    link.set_suite("chacha20-poly1305", 3.0)
    assert link.state.name == "PROBING"
    assert link.sizer is not sizer
    link.set_suite("", 4.0)
    assert link.state is RecordState.OFF
    assert link.reported(Report(1, 1, 1, 1, 0), 1, 5.0, 1) is None


def test_two_reports_at_once_measure_no_rate_twice() -> None:
    world, alice, bob = agreed()
    link = alice.peer(bob).records
    link.use_session(1)
    report = Report(10, 10, 10, 10, 0)
    link.reported(report, 20, world.now, 5)
    rate = link._rate
    link.reported(Report(12, 12, 12, 12, 0), 20, world.now, 9)
    assert link._rate == rate
    assert link.state is RecordState.ACTIVE
