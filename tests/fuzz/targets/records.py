"""Record mode: what is inside a record, datagrams of records and parity put together, a device that gets them."""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qtunnel.wireguard.packets import ip_length
from qtunnel.wireguard.record_burst import ReceiveBuffer, Record, stretches, whole_record
from qtunnel.wireguard.record_cut import RecordCutter
from qtunnel.wireguard.record_format import MAX_BUFFER, MAX_COUNTER, fragments
from qtunnel.wireguard.record_join import MAX_PARTIAL, RecordJoiner
from qtunnel.wireguard.record_link import RecordLink
from qtunnel.wireguard.record_plain import VNET_HEADER, PlainError, Report, take_items
from tests.fuzz.draw import Draw, spoiled
from tests.fuzz.target import Target
from tests.wireguard.test_record_mode import agreed
from tests.wireguard.world import End, ip_packet

AEAD = AESGCM(bytes(32))
INDEX = 0xA1B2C3D4
SIZE = 1448
LENGTHS = (1, 100, 1416, 1417, 3000, 20_000, 65_545)
_nonce = struct.Struct("<4xQ").pack


def plain(data: bytes) -> None:
    """Items are found one after the other, whole, and in their order; a report is written as it was read."""
    packets: list[memoryview] = []
    try:
        reports = take_items(memoryview(data), packets)
    finally:
        assert sum(map(len, packets)) <= len(data)
        for packet in packets:
            assert ip_length(packet, VNET_HEADER, len(packet) - VNET_HEADER) == len(packet) - VNET_HEADER
    for report in reports:
        assert report.pack() in data


def _content(length: int) -> memoryview:
    return memoryview(bytes(range(256)) * (length // 256 + 1))[:length]


def _datagrams(length: int, counter: int, *, parity: bool, size: int = SIZE) -> list[bytes]:
    whole = RecordCutter(size).cut(AEAD.encrypt_into, _content(length), INDEX, counter, parity=parity)
    step = len(whole) // (1 + parity) if fragments(length, size) == 1 else size
    return [bytes(whole[at : at + step]) for at in range(0, len(whole), step)]


STOCK = {
    (length, counter, parity): _datagrams(length, counter, parity=parity)
    for length in LENGTHS
    for counter in range(3)
    for parity in (False, True)
}
"""Made once: cutting takes most of the time otherwise."""


def _stream(draw: Draw) -> tuple[list[bytes], set[tuple[int, int]]]:
    """Datagrams of a few records, some lost, doubled, swapped, forged; and which records they are of."""
    stream: list[bytes] = []
    records = set()
    for counter in range(draw.number(1, 3)):
        length, parity = draw.choice(LENGTHS), draw.flag()
        stream += STOCK[length, counter, parity]
        records.add((counter, length))
    for _ in range(draw.number(0, 6)):
        at = draw.number(0, 255) % len(stream)
        match draw.number(0, 4):
            case 0:
                del stream[at]
            case 1:
                stream.insert(draw.number(0, 255) % len(stream), stream[at])
            case 2:
                stream.append(stream.pop(at))
            case 3:
                stream[at] = spoiled(draw, stream[at][:16], 1)[:16].ljust(16, b"\0") + stream[at][16:]
            case _:
                stream[at] = spoiled(draw, stream[at], 1)
        stream = stream or [b"\5"]
    return stream, records


def _opened(record: Record, records: set[tuple[int, int]]) -> None:
    """What opens is what was sealed."""
    ciphertext = bytes(record.buffer[record.start : record.end])
    try:
        text = AEAD.decrypt(_nonce(record.counter), ciphertext, None)
    except InvalidTag:
        return
    assert (record.counter, len(text)) in records
    assert text == _content(len(text))


def join(data: bytes) -> None:
    """Datagrams one by one, or in bursts: no other plaintext comes out than went in, and memory is bounded."""
    draw = Draw(data)
    stream, records = _stream(draw)
    made: list[ReceiveBuffer] = []

    def make() -> ReceiveBuffer:
        made.append(ReceiveBuffer(MAX_BUFFER))
        return made[-1]

    joiner = RecordJoiner(lambda counter: False, make)
    while stream:
        count = draw.choice((1, 1, 2, 5, 64))
        burst, stream = stream[:count], stream[count:]
        if len(burst) > 1 and len({len(one) for one in burst[:-1]}) == 1 and len(burst[-1]) <= len(burst[0]):
            unit, together = len(burst[0]), b"".join(burst)
            found = [joiner.add_stretch(memoryview(bytearray(together)), unit, together[1::unit])] if unit > 16 else []
        else:
            found = [joiner.add(memoryview(bytearray(one)), draw.number(0, 1)) for one in burst]
        for record in found:
            if record is not None:
                _opened(record, records)
                joiner.authentic(record)
        assert len(made) <= MAX_PARTIAL
        assert joiner.counters.received <= joiner.counters.expected
    joiner.late(draw.number(0, 3), bytes([draw.number(0, 255)]))


def burst(data: bytes) -> None:
    """What came in one piece, as the kernel gives it: stretches are all of it, and a record in place is one that was
    sealed, or none, with nothing changed."""
    draw = Draw(data)
    stream, records = _stream(draw)
    size = len(stream[0]) or 1
    together = draw.take(draw.number(0, 40)) if draw.flag(8) else b"".join(stream)[:MAX_BUFFER]
    if not together:
        return
    offset = draw.choice((0, 24))
    buffer = ReceiveBuffer(offset + len(together))
    buffer.view[offset:] = together
    found = stretches(buffer, offset, len(together), size)
    assert [start for start, _ in found] + [offset + len(together)] == [offset, *(at + length for at, length in found)]
    for start, length in found:
        if min(size, length) <= 16:
            continue
        before = bytes(buffer.bytes)
        record = whole_record(buffer, start, length, size)
        if record is None:
            assert buffer.bytes == before
        else:
            assert start <= record.start <= record.end <= start + length
            _opened(record, records)


def _items(draw: Draw, sender: End, receiver: End) -> bytes:
    """What alice puts into a record: packets, reports, or anything."""
    parts = []
    for _ in range(draw.number(0, 5)):
        packet = ip_packet(draw.choice((sender.inner, "10.77.0.9")), receiver.inner, bytes(draw.number(0, 600)))
        header = draw.choice((bytes(VNET_HEADER), draw.take(VNET_HEADER)))
        counts = [draw.choice((0, 1, 2, 10, 2**48, 2**64 - 1)) for _ in range(5)]
        report = Report(counts[0], counts[1], counts[2], counts[3], counts[4], draw.flag()).pack()
        parts.append(draw.choice((header + packet, report, header + spoiled(draw, packet), draw.piece(60))))
    return b"".join(parts)


def device(data: bytes) -> None:
    """Records sealed by a peer, whatever is inside, whole or in part, and its reports: bob's books stay sound."""
    draw = Draw(data)
    world, alice, bob = agreed()
    peer, its = alice.peer(bob), bob.peer(alice)
    for _ in range(8):
        if not draw.left:
            break
        keypair = peer.keypairs.current
        if keypair is None or keypair.records is None:
            break
        content = _items(draw, alice, bob) or b"\xff\1"
        keys = keypair.records
        following = keys.send_counter
        keys.send_counter = min(draw.choice((following, following, following + 2, 0, MAX_COUNTER)), MAX_COUNTER)
        cutter, parity = RecordCutter(SIZE), draw.flag()
        whole = cutter.cut(keys.seal, memoryview(content), keypair.remote_index, keys.send_counter, parity=parity)
        keys.send_counter = min(keys.send_counter + 1, MAX_COUNTER)
        step = len(whole) // (1 + parity) if fragments(len(content), SIZE) == 1 else SIZE
        stream = [bytes(whole[at : at + step]) for at in range(0, len(whole), step)]
        if draw.flag(3):
            del stream[draw.number(0, 255) % len(stream)]
        if draw.flag(3) and stream:
            stream[0] = spoiled(draw, stream[0], 1)
        together = b"".join(stream) + draw.piece(20)
        unit = max(17, len(stream[0]) if stream else step)
        if together:
            buffer = ReceiveBuffer(len(together))
            buffer.view[:] = together
            for _, packets in bob.device.records.open_burst(
                buffer, 0, len(together), unit, alice.endpoint, world.now
            ):  # fmt: skip
                for packet in packets:
                    size = len(packet) - VNET_HEADER
                    assert ip_length(packet, VNET_HEADER, size) == size
        if draw.flag():
            bob.send_record(alice, ip_packet(bob.inner, alice.inner))
        world.collect()
        world.wire.clear()
        world.advance(draw.choice((0.0, 0.1, 3.5)))
        assert len(world.history) < 10_000
        assert its.records.state.value in bob.get()
    assert bob.get().endswith("errno=0\n\n")


def link(data: bytes) -> None:
    """Any reports at any time: the state machine has no transition that is not in its table, and numbers stay
    finite."""
    draw = Draw(data)
    its, now, sent = RecordLink(), 0.0, 0
    its.set_suite("aes-256-gcm", now)
    its.use_session(1)
    counts = [0] * 5
    while draw.left:
        now += draw.choice((0.0, 0.05, 0.1, 1.0, 3.0, 100.0))
        match draw.number(0, 5):
            case 0 | 1:
                steps = (0, 1, 10, 1000, 50_000, 2**40, -1)
                counts = [min(2**64 - 1, max(0, count + draw.choice(steps))) for count in counts]
                sent = max(sent, counts[0]) if draw.flag() else sent
                its.reported(
                    Report(counts[0], counts[1], counts[2], counts[3], counts[4]), sent, now, draw.number(0, 2**32)
                )
            case 2:
                sent += 1
                its.data_sent(sent, now)
            case 3:
                its.probe_due(now)
                its.silent(sent, now)
            case 4:
                its.rest(draw.number(0, 2**20), now)
            case _:
                its.set_suite(draw.choice(("", "aes-256-gcm", "chacha20-poly1305")), now)
                its.use_session(draw.number(1, 3))
        assert 0 <= its.sizer.loss <= 1
        assert 1 <= its.sizer.count <= 64
        assert bool(its.suite) or not its.active


TARGETS = {
    "plain": Target(plain, (PlainError,), 600),
    "join": Target(join, (), 64),
    "burst": Target(burst, (), 64),
    "device": Target(device, (), 400),
    "link": Target(link, (), 300),
}
