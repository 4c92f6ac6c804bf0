"""Record mode between two devices: agreed, reported, given up, asked for again; never towards a standard peer."""

from __future__ import annotations

import pytest

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.limits import REJECT_AFTER_TIME
from qtunnel.wireguard.messages import TYPE_DATA
from qtunnel.wireguard.record_burst import ReceiveBuffer
from qtunnel.wireguard.record_format import HEADER_SIZE, TYPE_RECORD
from qtunnel.wireguard.record_link import LAST_PROBE, SILENCE, RecordEvent, RecordLink, RecordState
from qtunnel.wireguard.record_plain import Report
from qtunnel.wireguard.session import RecordKeys
from tests.wireguard.world import End, World, connected, ip_packet, pair

AES = "record_mode=aes-256-gcm"


def agreed(seed: int = 1) -> tuple[World, End, End]:
    """Two ends in record mode."""
    world, alice, bob = connected(seed, AES)
    world.advance(1)
    assert states(alice, bob) == (RecordState.ACTIVE, RecordState.ACTIVE)
    return world, alice, bob


def states(alice: End, bob: End) -> tuple[RecordState, RecordState]:
    return alice.peer(bob).records.state, bob.peer(alice).records.state


def packets(sender: End, receiver: End, count: int, size: int = 1000) -> list[bytes]:
    return [ip_packet(sender.inner, receiver.inner, bytes((number,)) * size) for number in range(count)]


def types(world: World) -> list[int]:
    return [data[0] for _, _, data in world.history]


def test_two_ends_agree_without_traffic_of_their_users() -> None:
    world, alice, bob = pair(1, AES)
    alice.send_to(bob)
    world.settle()
    world.advance(0.5)
    assert states(alice, bob) == (RecordState.ACTIVE, RecordState.ACTIVE)
    assert "record_mode=aes-256-gcm\nrecord_mode_state=active\n" in alice.get()
    assert "record_mode_reason" not in alice.get()


@pytest.mark.parametrize("count", [1, 2, 30])
def test_packets_share_a_record_and_keep_their_order(count: int) -> None:
    world, alice, bob = agreed()
    sent = packets(alice, bob, count)
    assert alice.send_record(bob, *sent) == -(-(count * 1038 + 16) // (1448 - HEADER_SIZE))
    world.settle()
    assert bob.delivered == sent
    back = packets(bob, alice, count)
    bob.send_record(alice, *back)
    world.settle()
    assert alice.delivered == back


def test_a_peer_without_it_gets_questions_more_and_more_rarely_and_no_packets() -> None:
    world, alice, bob = connected()
    world.advance(10)
    alice.set_peer(bob.public, AES, "handshake=now")
    world.settle()
    world.advance(1000)
    assert alice.peer(bob).records.state is RecordState.PROBING
    assert not alice.send_record(bob, *packets(alice, bob, 1))
    questions = [data for _, _, data in world.history if data[0] == TYPE_RECORD]
    assert questions
    assert bob.delivered == []
    assert "record_mode_reason=the peer has not answered" in alice.get()


def test_another_suite_is_no_record_mode() -> None:
    world, alice, bob = pair()
    alice.meet(bob, AES)
    bob.meet(alice, "record_mode=chacha20-poly1305")
    alice.send_to(bob)
    world.settle()
    world.advance(20)
    assert states(alice, bob) == (RecordState.PROBING, RecordState.PROBING)


def test_it_goes_on_in_the_next_session_at_once() -> None:
    world, alice, bob = agreed()
    alice.set_peer(bob.public, f"preshared_key={'11' * 32}", "handshake=now")
    bob.set_peer(alice.public, f"preshared_key={'11' * 32}")
    alice.set_peer(bob.public, f"preshared_key={'11' * 32}", "handshake=now")
    world.settle()
    before = alice.peer(bob).keypairs.current
    assert alice.send_record(bob, *packets(alice, bob, 2))
    world.settle()
    assert bob.delivered == packets(alice, bob, 2)
    world.advance(1)
    assert alice.peer(bob).keypairs.current is before


def test_records_confirm_a_session_as_data_does() -> None:
    world, alice, bob = agreed()
    world.lose = lambda source, destination, data: source == alice.endpoint and data[0] == TYPE_DATA
    for end, other in ((bob, alice), (alice, bob)):
        end.set_peer(other.public, f"preshared_key={'22' * 32}", "handshake=now")
        world.settle()
    current = alice.peer(bob).keypairs.current
    assert current is not None
    alice.send_record(bob, *packets(alice, bob, 1))
    world.settle()
    confirmed = bob.peer(alice).keypairs.current
    assert confirmed is not None
    assert confirmed.local_index == current.remote_index


def test_silence_falls_back_says_why_and_asks_again() -> None:
    world, alice, bob = agreed()
    world.lose = lambda source, destination, data: data[0] == TYPE_RECORD
    for _ in range(int(SILENCE * 10) + 2):
        alice.send_record(bob, *packets(alice, bob, 1))
        world.settle()
        world.advance(0.1)
    assert alice.peer(bob).records.state is RecordState.PROBING
    assert "record_mode_reason=no report of the peer for 3 s" in alice.get()
    bob.delivered.clear()
    alice.send_to(bob, b"standard")  # what a caller does now
    world.settle()
    assert len(bob.delivered) == 1
    world.lose = lambda source, destination, data: False
    world.advance(LAST_PROBE)
    assert states(alice, bob) == (RecordState.ACTIVE, RecordState.ACTIVE)


@pytest.mark.parametrize("interval", [1.0, 4.0, 30.0, 170.0])
def test_silence_is_noticed_however_seldom_something_is_sent(interval: float) -> None:
    world, alice, bob = agreed()
    world.lose = lambda source, destination, data: data[0] == TYPE_RECORD
    assert alice.send_record(bob, *packets(alice, bob, 1))
    world.settle()
    world.advance(interval)
    world.advance(SILENCE)
    assert alice.peer(bob).records.state is RecordState.PROBING


def test_a_single_record_that_is_lost_is_no_silence() -> None:
    world, alice, bob = agreed()
    world.lose = lambda source, destination, data: data[0] == TYPE_RECORD
    assert alice.send_record(bob, *packets(alice, bob, 1))
    world.settle()
    world.lose = lambda source, destination, data: False
    world.history.clear()
    world.advance(60)
    assert states(alice, bob) == (RecordState.ACTIVE, RecordState.ACTIVE)
    records = [data for _, _, data in world.history if data[0] == TYPE_RECORD]
    assert len(records) == 2  # a question and its answer


def test_reports_that_overtook_each_other_and_impossible_ones_change_nothing() -> None:
    link = RecordLink()
    link.set_suite("aes-256-gcm", 0.0)
    link.use_session(1)
    assert link.reported(Report(100, 4000, 4000, 100), 100, 1.0) is RecordEvent.CONFIRMED
    for report in (
        Report(50, 2000, 2000, 50),  # an old one
        Report(200, 1 << 40, 1 << 39, 200),  # more fragments than so many records can have
        Report(300, 4001, 4001, 101),  # more records than were sent
        Report(200, 5000, 5001, 200),
    ):
        assert link.reported(report, 200, 1.5) is None
    for number in range(2, 40):  # half of all is lost
        link.reported(
            Report(100 * number, 4000 * number, 4000 + 2000 * (number - 1), 100 * number), 10_000, 2.0 + number
        )
    assert link.sizer.loss > 0.3


def test_old_reports_do_not_bring_it_back() -> None:
    """Records towards bob are lost, his towards alice are not: his reports tell of old records only."""
    world, alice, bob = agreed()
    world.lose = lambda source, destination, data: data[0] == TYPE_RECORD and source == alice.endpoint
    for _ in range(100):
        alice.send_record(bob, *packets(alice, bob, 1))
        bob.send_record(alice, *packets(bob, alice, 1))
        world.settle()
        world.advance(0.1)
    assert alice.peer(bob).records.state is RecordState.PROBING


def test_reports_are_rare_and_end_with_the_traffic() -> None:
    world, alice, bob = agreed()
    world.history.clear()
    for _ in range(500):
        alice.send_record(bob, *packets(alice, bob, 1))
        world.settle()
        world.advance(0.002)
    reports = [data for source, _, data in world.history if source == bob.endpoint and data[0] == TYPE_RECORD]
    assert 8 <= len(reports) <= 12
    world.advance(5)
    world.history.clear()
    world.advance(5)
    assert TYPE_RECORD not in types(world)


def test_a_pause_is_no_silence() -> None:
    """The report of the last record before a pause was lost: that says nothing of the records after it."""
    world, alice, bob = agreed()
    world.lose = lambda source, destination, data: source == bob.endpoint
    alice.send_record(bob, *packets(alice, bob, 1))
    world.settle()
    world.advance(1)
    world.lose = lambda source, destination, data: False
    world.advance(100)
    assert alice.send_record(bob, *packets(alice, bob, 1))
    assert alice.peer(bob).records.state is RecordState.ACTIVE


def test_one_way_records_survive_a_lost_first_keepalive() -> None:
    """Bob, who answered the handshake, goes on under the old session until alice is heard under the new one."""
    world, alice, bob = agreed()
    world.lose = lambda source, destination, data: source == alice.endpoint and data[0] in (TYPE_DATA, TYPE_RECORD)
    for end, other in ((bob, alice), (alice, bob)):
        end.set_peer(other.public, f"preshared_key={'22' * 32}", *(["handshake=now"] if end is alice else []))
    world.settle()
    world.lose = lambda source, destination, data: False
    for _ in range(60):
        assert bob.send_record(alice, *packets(bob, alice, 1))
        world.settle()
        world.advance(0.1)
    assert bob.peer(alice).records.state is RecordState.ACTIVE


def test_records_without_packets_in_a_burst_of_more_than_is_opened_at_once() -> None:
    world, alice, bob = agreed()
    control = bytes((255, 9)) + (30_000).to_bytes(2, "little") + bytes(30_000)
    data = b""
    for _ in range(6):
        datagrams, size = alice.device.records.seal(alice.peer(bob), memoryview(bytearray(control * 2)), world.now)
        data += bytes(datagrams).ljust(-(-len(datagrams) // size) * size, b"\0")
    buffer = ReceiveBuffer(len(data))
    buffer.view[:] = data
    before = current_records(bob, alice).delivered
    assert list(bob.device.records.open_burst(buffer, 0, len(data), size, alice.endpoint, world.now)) == []
    assert current_records(bob, alice).delivered == before + 6


def current_records(end: End, other: End) -> RecordKeys:
    keypair = end.peer(other).keypairs.current
    assert keypair is not None
    assert keypair.records is not None
    return keypair.records


def test_replayed_records_are_dropped() -> None:
    world, alice, bob = agreed()
    world.history.clear()
    alice.send_record(bob, *packets(alice, bob, 5))
    world.settle()
    sent = [data for source, _, data in world.history if source == alice.endpoint]
    bob.delivered.clear()
    for data in sent + sent[::-1]:
        bob.receive(data, alice.endpoint)
    assert bob.delivered == []


def test_a_source_that_is_not_the_peers_is_dropped_by_whoever_delivers() -> None:
    """Records give packets with their peer; the check of the source comes with the delivery."""
    world, alice, bob = agreed()
    alice.send_record(bob, ip_packet("10.66.0.1", bob.inner))
    world.settle()
    packet = memoryview(bob.delivered[0])
    assert not bob.device.transport.inner_length(bob.peer(alice), packet, 0, len(packet))
    assert bob.drops["inner-source-not-allowed"] == 1


def test_sessions_end_for_records_too() -> None:
    world, alice, bob = agreed()
    world.lose = lambda source, destination, data: True
    world.advance(REJECT_AFTER_TIME)
    assert not alice.send_record(bob, *packets(alice, bob, 1))


def test_off_is_off() -> None:
    world, alice, bob = agreed()
    alice.set_peer(bob.public, "record_mode=off")
    assert not alice.send_record(bob, *packets(alice, bob, 1))
    assert "record_mode" not in alice.get()
    world.advance(30)
    assert alice.peer(bob).records.state is RecordState.OFF


@pytest.mark.parametrize("value", ["", "on", "AES-256-GCM", "aes-128-gcm"])
def test_other_values_are_refused(value: str) -> None:
    _, alice, bob = pair()
    assert alice.uapi(f"set=1\npublic_key={bob.public.hex()}\nrecord_mode={value}\n\n") == "errno=-22\n\n"


def test_counters_count_every_datagram() -> None:
    world, alice, bob = agreed()
    world.history.clear()
    before = alice.peer(bob).tx_bytes, bob.peer(alice).rx_bytes
    alice.send_record(bob, *packets(alice, bob, 20))
    world.settle()
    size = sum(len(data) for source, _, data in world.history if source == alice.endpoint)
    assert (alice.peer(bob).tx_bytes - before[0], bob.peer(alice).rx_bytes - before[1]) == (size, size)


def test_records_that_a_forged_fragment_spoils_are_reported() -> None:
    world, alice, bob = agreed()

    def forge(source: object, destination: object, data: bytes) -> bool:
        if source == alice.endpoint and data[0] == TYPE_RECORD and data[1] == 0 and data[2] == 3:
            bob.receive(data[:-1] + bytes((data[-1] ^ 1,)), alice.endpoint)  # before the real one
        return False

    world.lose = forge
    for _ in range(5):
        alice.send_record(bob, *packets(alice, bob, 4))
        world.settle()
    assert bob.delivered == []
    assert current_records(bob, alice).report(question=False).spoiled == 5
    world.lose = lambda source, destination, data: False
    alice.send_record(bob, *packets(alice, bob, 4))
    world.advance(1)
    assert alice.peer(bob).records._latest.spoiled == 5


def test_both_ends_begin_a_handshake_at_once_and_still_have_record_mode() -> None:
    """Each sends under the session that it began, so reports come under another than the receiver's own."""
    world, alice, bob = pair(1, AES)
    wire: list[tuple[float, Endpoint, Endpoint, bytes]] = []
    until = world.now + 20
    while world.now < until:
        world.now += 0.01
        while wire and wire[0][0] <= world.now:
            _, source, to, data = wire.pop(0)
            world.ends[to].receive(data, source)
        for end, other in ((alice, bob), (bob, alice)):
            end.device.tick(world.now)
            if not end.send_record(other, *packets(end, other, 1, 50)):
                end.send_to(other)
        world.collect()
        wire += [(world.now + 0.03, *sent) for sent in world.wire]
        world.wire.clear()
    sessions = [end.peer(other).keypairs.current for end, other in ((alice, bob), (bob, alice))]
    assert all(session is not None and session.initiator for session in sessions)
    assert states(alice, bob) == (RecordState.ACTIVE, RecordState.ACTIVE)
