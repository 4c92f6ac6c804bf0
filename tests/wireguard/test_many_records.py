"""Records by the many, by somebody else's hands, of several sessions in one burst; and when none are sent any more."""

from __future__ import annotations

import logging
import struct

import pytest

from qtunnel.wireguard import record_burst, record_cut, rows
from qtunnel.wireguard.record_burst import ReceiveBuffer, whole_record
from qtunnel.wireguard.record_cut import RecordCutter
from qtunnel.wireguard.record_format import TAG_SIZE
from qtunnel.wireguard.record_link import SILENCE, RecordState
from qtunnel.wireguard.record_plain import VNET_HEADER
from qtunnel.wireguard.runs import RunOpener, RunSealer
from tests.wireguard.test_record_mode import AES, agreed, packets
from tests.wireguard.test_records import AEAD, plain
from tests.wireguard.test_records import opened as opened_record
from tests.wireguard.test_runs import flow, opened
from tests.wireguard.world import End, World, connected, ip_packet


def plains(sender: End, receiver: End, sizes: list[int]) -> list[bytes]:
    """Packets, each of that many bytes with its vnet header."""
    return [
        bytes(VNET_HEADER) + ip_packet(sender.inner, receiver.inner, bytes((number,)) * (size - VNET_HEADER - 20))
        for number, size in enumerate(sizes)
    ]


def send_many(world: World, sender: End, receiver: End, made: list[bytes], most: int = 60_000) -> list[tuple[int, int]]:
    """Each a record; bytes of each burst, and of its datagrams."""
    bursts = []
    views = [memoryview(bytearray(one)) for one in made]
    for burst, size in sender.device.records.seal_many(sender.peer(receiver), views, most, world.now):
        bursts.append((len(burst), size))
        for at in range(0, len(burst), size):
            receiver.receive(bytes(burst[at : at + size]), sender.endpoint)
    return bursts


@pytest.mark.parametrize("loss", [0.0, 0.01])
@pytest.mark.parametrize("most", [4_000, 20_000, 60_000])
@pytest.mark.parametrize(
    "sizes", [[5000] * 9, [60, 60, 60], [5000, 60, 5000, 5000], [9000, 1000, 9000], [4280] * 5, [60_000, 60_000]]
)
def test_many_records_arrive_in_their_order(loss: float, most: int, sizes: list[int]) -> None:
    world, alice, bob = agreed()
    alice.peer(bob).records.sizer.believe(loss)
    made = plains(alice, bob, sizes)
    bursts = send_many(world, alice, bob, made, most)
    assert bob.delivered == [one[VNET_HEADER:] for one in made]
    assert (alice.drops, bob.drops) == ({}, {})
    assert len(bursts) <= len(sizes)
    keypair = bob.peer(alice).keypairs.current
    assert keypair is not None
    assert keypair.records is not None
    assert keypair.records.next == 2 + len(sizes), "behind the question and the report"


def test_records_with_parity_share_a_burst_as_far_as_it_may_go() -> None:
    world, alice, bob = agreed()
    alice.peer(bob).records.sizer.believe(0.01)
    made = plains(alice, bob, [4000] * 6)
    (_, size), *_ = bursts = send_many(world, alice, bob, made, 9 * 1448)
    assert size == 1448
    assert [length for length, _ in bursts] == [8 * 1448] * 3, "two of four datagrams each"


def test_what_no_record_holds_is_dropped_and_the_others_go() -> None:
    world, alice, bob = agreed()
    good = plains(alice, bob, [500, 5000])
    send_many(world, alice, bob, [good[0], b"", bytes(90_000), good[1]])
    assert bob.delivered == [one[VNET_HEADER:] for one in good]
    assert alice.drops == {"bad-inner-packet": 2}


def test_a_record_that_others_sealed_and_opened_counts_as_ours_once() -> None:
    world, alice, bob = agreed()
    (made,) = plains(alice, bob, [5000])
    order = alice.device.records.order(alice.peer(bob), len(made), world.now)
    assert order is not None
    counter = order.keys.send_counter
    order.keys.send_counter = counter + 1
    datagrams = RecordCutter(order.size).cut(
        order.keys.seal, memoryview(bytearray(made)), order.keypair.remote_index, counter, parity=order.parity
    )
    buffer = ReceiveBuffer(len(datagrams))
    buffer.view[:] = datagrams
    record = whole_record(buffer, 0, len(datagrams), order.size)
    keypair = bob.peer(alice).keypairs.current
    assert record is not None
    assert keypair is not None
    assert keypair.records is not None
    assert keypair.records.begins(counter)
    opened_one = bytearray(record.end - record.start - TAG_SIZE)
    keypair.records.unseal(
        struct.pack("<4xQ", counter), record.buffer[record.start : record.end], None, memoryview(opened_one)
    )
    before = bob.peer(alice).rx_bytes
    found = bob.device.records.opened(keypair, record, memoryview(opened_one), ("10.99.0.9", 7), world.now)
    assert [bytes(one) for one in found] == [made]
    assert bob.peer(alice).rx_bytes - before == len(datagrams)
    assert bob.peer(alice).endpoint == ("10.99.0.9", 7)
    assert not keypair.records.begins(counter)
    assert bob.device.records.opened(keypair, record, memoryview(opened_one), alice.endpoint, world.now) == []
    assert bob.drops == {"replayed-packet": 1}


def test_records_of_two_peers_in_one_burst_are_each_its_own() -> None:
    world = World()
    hub, b, c = (world.end((f"10.99.0.{n}", 51820), f"10.77.0.{n}") for n in (1, 2, 3))
    made, stranger = [], struct.pack("<BBBxIQ", 5, 0, 1, 0xDEAD, 132 << 48) + bytes(116)
    for end in (b, c):
        hub.meet(end, AES)
        end.meet(hub, AES)
        end.send_to(hub)
        world.settle()
        world.advance(1)
        hub.delivered.clear()
    for end in (b, c, b):
        assert end.send_record(hub, *packets(end, hub, 1, 70)) == 1
        made.append(end.device.outbox.pop()[1])
    assert {len(one) for one in made} == {132}
    buffer = ReceiveBuffer(5 * 132 + 10)
    buffer.view[:] = b"".join([*made[:2], stranger, made[2], b"\x05" * 10, bytes(132)])
    found = [
        (peer, [bytes(one[VNET_HEADER:]) for one in its])
        for peer, its in hub.device.records.open_burst(buffer, 0, 4 * 132 + 10, 132, b.endpoint, world.now)
    ]
    assert [peer for peer, _ in found] == [hub.peer(b), hub.peer(c), hub.peer(b)]
    assert [its for _, its in found] == [packets(end, hub, 1, 70) for end in (b, c, b)]
    assert hub.drops == {"unknown-index": 1, "malformed": 1}, "the last is no header"


def test_one_burst_may_complete_more_records_than_there_is_memory_for_at_once() -> None:
    """Each record waited for one datagram, and all of those come together."""
    world, alice, bob = agreed()
    made, late = plains(alice, bob, [60_000] * 4), []
    views = [memoryview(bytearray(one)) for one in made]
    for burst, size in alice.device.records.seal_many(alice.peer(bob), views, 60_000, world.now):
        early = [bytes(burst[at : at + size]) for at in range(0, len(burst), size)]
        late.append(early.pop(0))
        for one in early:
            bob.receive(one, alice.endpoint)
    assert (len(late), bob.delivered) == (4, [])
    buffer = ReceiveBuffer(4 * size)
    buffer.view[:] = b"".join(late)
    burst_of = bob.device.records.open_burst(buffer, 0, 4 * size, size, alice.endpoint, world.now)
    found = [[bytes(one) for one in its] for _, its in burst_of]
    assert found == [made[:2], made[2:]]
    assert bob.drops == {}


def test_silence_is_noticed_where_something_is_sent_too(caplog: pytest.LogCaptureFixture) -> None:
    world, alice, bob = agreed()
    world.lose = lambda *_: True
    world.now += 100  # trusted by then
    assert alice.send_record(bob, *packets(alice, bob, 1))
    world.now += SILENCE + 1
    with caplog.at_level(logging.WARNING):
        alice.device.records._sending(alice.peer(bob), world.now)
    assert alice.peer(bob).records.state is RecordState.PROBING
    assert "record mode falls back to standard" in caplog.text


def test_no_report_goes_where_there_is_no_record_mode_or_no_room_for_it() -> None:
    world, alice, bob = connected()
    alice.device.records.tick(alice.peer(bob), world.now)
    assert alice.device.outbox == []
    world, alice, bob = agreed()
    keypair = alice.peer(bob).keypairs.current
    assert keypair is not None
    assert keypair.records is not None
    keypair.records.reported = False
    alice.device.state.mtu = 576
    alice.device.records.tick(alice.peer(bob), world.now)
    assert alice.device.outbox == []
    alice.device.state.mtu = 1420
    alice.device.records.tick(alice.peer(bob), world.now)
    assert len(alice.device.outbox) == 1


def test_memories_of_places_are_bounded_and_what_was_forgotten_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (record_burst, record_cut):
        monkeypatch.setattr(module, "_MAX_PLACES", 2)
    cutter, buffer = RecordCutter(1448), ReceiveBuffer(80_000)
    for length in (2000, 4000, 6000, 8000) * 2:
        datagrams = cutter.cut(AEAD.encrypt_into, plain(length), 7, 0, parity=False)
        buffer.view[: len(datagrams)] = datagrams
        record = whole_record(buffer, 0, len(datagrams), 1448)
        assert record is not None
        assert opened_record(record) == bytes(plain(length))
        assert len(cutter._places) <= 2
        assert len(buffer._places) <= 2


def test_memories_of_layouts_are_bounded_and_what_was_forgotten_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_MAX_LAYOUTS", 2)
    world, alice, bob = connected()
    source, target = bytearray(200_000), bytearray(200_000)
    sealer = RunSealer(alice.device.transport, source)
    opener = RunOpener(bob.device.state, bob.device.transport, target)
    keypair = alice.peer(bob).keypairs.current
    assert keypair is not None
    for stride in (160, 320, 480, 640) * 2:
        sent = flow(alice, bob, 3, stride)
        source[: 3 * stride] = b"".join(sent)
        messages, size = sealer.seal(alice.peer(bob), keypair, stride, 0, 3, stride, world.now)
        target[: len(messages)] = messages
        (run,) = opener.open(0, len(messages), size, alice.endpoint, world.now)
        assert [bytes(opener.buffer[row * stride : (row + 1) * stride]) for row in range(3)] == sent
        assert run.lengths == [stride] * 3
        assert len(sealer._rows._layouts) <= 2
        assert len(opener._rows._layouts) <= 2


# -- the rest of the device


def test_a_run_of_nobodys_session_and_a_keepalive_alone() -> None:
    world, alice, bob = connected()
    stranger = struct.pack("<IIQ", 4, 0xDEAD, 1) + bytes(84)
    assert opened(world, bob, alice, stranger * 3, 100) == []
    assert bob.drops == {"unknown-index": 3}
    alice.device.transport.send_keepalive(alice.peer(bob), world.now)
    ((_, keepalive),) = alice.device.outbox
    before = bob.peer(alice).rx_bytes
    assert opened(world, bob, alice, keepalive, 100) == []
    assert bob.peer(alice).rx_bytes - before == 32


def test_a_keepalive_to_nowhere_is_none() -> None:
    world, alice, bob = connected()
    alice.peer(bob).endpoint = None
    alice.peer(bob).forget_source()
    alice.device.transport.send_keepalive(alice.peer(bob), world.now)
    assert alice.device.outbox == []


def test_a_previous_psk_goes_with_the_last_session_that_it_may_have_made() -> None:
    world, alice, bob = connected()
    new, old = "11" * 32, "22" * 32
    alice.set_peer(bob.public, f"preshared_key={new}", "epoch=2", f"previous_preshared_key={old}", "previous_epoch=1")
    assert alice.peer(bob).previous_psk is not None
    world.advance(179)
    assert alice.peer(bob).previous_psk is not None
    world.advance(2)
    assert alice.peer(bob).previous_psk is None
    alice.set_peer(bob.public, "previous_epoch=1", "previous_expires_boottime_msec=5")
    assert alice.peer(bob).previous_psk is None


def test_prefixes_that_are_taken_away_by_the_thousand_are_swept_in_pieces() -> None:
    world, alice, bob = connected()
    many = [f"allowed_ip=10.{n >> 8 & 255}.{n & 255}.0/24" for n in range(20_000)]
    alice.set_peer(bob.public, *many)
    alice.set_peer(bob.public, "replace_allowed_ips=true", f"allowed_ip={bob.inner}/32")
    pieces = 0
    while alice.device.next_deadline() == float("-inf"):
        alice.device.tick(world.now)
        pieces += 1
        assert pieces < 20_000
    assert pieces > 1
    packet = alice.send_to(bob)
    world.settle()
    assert bob.delivered == [packet]
