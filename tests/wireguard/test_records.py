"""Records: cut and put together again, in order or not, with losses, doubles and forgeries."""

from __future__ import annotations

import contextlib
import random
import struct
from itertools import groupby

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qtunnel.wireguard.record_burst import ReceiveBuffer, Record, stretches, whole_record
from qtunnel.wireguard.record_cut import RecordCutter
from qtunnel.wireguard.record_format import (
    HEADER,
    HEADER_SIZE,
    MAX_BUFFER,
    MAX_COUNT,
    MAX_COUNTER,
    MIN_SIZE,
    PARITY,
    TAG_SIZE,
    capacity,
    datagram_size,
    fragments,
)
from qtunnel.wireguard.record_join import MAX_NEWER, MAX_PARTIAL, JoinBuffers, RecordJoiner

AEAD = AESGCM(bytes(range(32)))
INDEX = 0xA1B2C3D4
SIZES = st.sampled_from([MIN_SIZE, 1312, 1448, 8968])


def plain(length: int) -> memoryview:
    return memoryview(bytearray(random.Random(length).randbytes(length)))


def pieces(datagrams: memoryview, size: int) -> list[bytes]:
    return [bytes(datagrams[at : at + size]) for at in range(0, len(datagrams), size)]


def cut(length: int, size: int, counter: int = 0, *, parity: bool = False) -> list[bytes]:
    datagrams = RecordCutter(size).cut(AEAD.encrypt_into, plain(length), INDEX, counter, parity=parity)
    return pieces(datagrams, len(datagrams) // (1 + parity) if fragments(length, size) == 1 else size)


def opened(record: Record) -> bytes:
    return AEAD.decrypt(struct.pack("<4xQ", record.counter), bytes(record.buffer[record.start : record.end]), None)


def joiner() -> RecordJoiner:
    return RecordJoiner(lambda counter: False, lambda: ReceiveBuffer(MAX_BUFFER))


def join(datagrams: list[bytes], to: RecordJoiner | None = None) -> list[bytes]:
    """The plaintexts of all records that these datagrams complete."""
    to = to or joiner()
    done = [to.add(memoryview(data)) for data in datagrams]
    return [opened(record) for record in done if record is not None]


def received(datagrams: list[bytes], offset: int = 24) -> tuple[ReceiveBuffer, int]:
    data = b"".join(datagrams)
    buffer = ReceiveBuffer(offset + len(data))
    buffer.view[offset:] = data
    return buffer, len(data)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int]:
    """(bytes of plaintext, datagram size), around the edges of a datagram too."""
    size = draw(SIZES)
    limit = capacity(MAX_COUNT, size)
    edges = st.integers(1, min(MAX_COUNT, MAX_BUFFER // size)).map(lambda count: capacity(count, size))
    near = edges.flatmap(lambda edge: st.integers(edge - 20, edge + 20))
    return draw((near | st.integers(1, limit)).map(lambda length: max(1, min(limit, length)))), size


@given(shapes(), st.integers(0, MAX_COUNTER), st.booleans())
def test_every_datagram_has_its_header_and_size(shape: tuple[int, int], counter: int, parity: bool) -> None:
    length, size = shape
    datagrams = cut(length, size, counter, parity=parity)
    count = fragments(length, size)
    last = length + TAG_SIZE + HEADER_SIZE * count - (count - 1) * size
    assert HEADER_SIZE < last <= size
    full = size if count > 1 else last
    sizes = [full] * (count + 1) if parity else [full] * (count - 1) + [last]
    assert [len(data) for data in datagrams] == sizes
    numbers = [*range(count), PARITY] if parity else range(count)
    for number, data in zip(numbers, datagrams, strict=True):
        assert HEADER.unpack_from(data) == (5, number, count, 0, INDEX, counter | last << 48)


@given(shapes(), st.booleans())
def test_a_burst_in_one_piece_is_one_record(shape: tuple[int, int], parity: bool) -> None:
    length, size = shape
    datagrams = cut(length, size, 7, parity=parity)
    buffer, total = received(datagrams)
    record = whole_record(buffer, 24, total, len(datagrams[0]))
    assert record is not None
    assert (record.counter, opened(record)) == (7, bytes(plain(length)))


@settings(deadline=None)
@given(shapes(), st.data())
def test_a_burst_with_one_loss_is_healed_in_place(shape: tuple[int, int], data: st.DataObject) -> None:
    length, size = shape
    datagrams = cut(length, size, 7, parity=True)
    lost = data.draw(st.integers(0, len(datagrams) - 1))
    rest = datagrams[:lost] + datagrams[lost + 1 :]
    buffer, total = received(rest)
    record = whole_record(buffer, 24, total, len(rest[0]))
    assert record is not None
    assert opened(record) == bytes(plain(length))
    assert record.missing == (-1 if lost == len(datagrams) - 1 else lost)


@settings(deadline=None)
@given(st.lists(st.tuples(shapes(), st.booleans()), min_size=1, max_size=6), st.data())
def test_records_in_a_burst_are_found(records: list[tuple[tuple[int, int], bool]], data: st.DataObject) -> None:
    """Of several records, all of whose datagrams have one size, some may be missing; stretches are what is left."""
    size = records[0][0][1]
    stream = []
    for counter, ((length, _), parity) in enumerate(records):
        datagrams = cut(min(length, capacity(MAX_COUNT, size)), size, counter, parity=parity)
        stream += [(counter, one) for one in datagrams if len(one) == size and data.draw(st.integers(0, 9))]
    assume(stream)
    buffer, total = received([one for _, one in stream])
    found = stretches(buffer, 24, total, size)
    assert [length // size for _, length in found] == [
        len(list(group)) for _, group in groupby(stream, lambda one: one[0])
    ]
    assert [start for start, _ in found] == [24 + sum(length for _, length in found[:at]) for at in range(len(found))]


@given(st.binary(min_size=1, max_size=400), st.integers(1, 64))
def test_stretches_of_anything_are_all_of_it(data: bytes, size: int) -> None:
    buffer = ReceiveBuffer(len(data) + 64)
    buffer.view[: len(data)] = data
    found = stretches(buffer, 0, len(data), size)
    assert [start for start, _ in found] + [len(data)] == [0, *(start + length for start, length in found)]


@settings(deadline=None)
@given(shapes(), st.booleans(), st.data())
def test_stretches_join_as_datagrams_do(shape: tuple[int, int], parity: bool, data: st.DataObject) -> None:
    """A record that comes in several bursts."""
    length, size = shape
    datagrams = cut(length, size, parity=parity)
    to = joiner()
    texts: list[bytes] = []
    while datagrams and not texts:
        count = data.draw(st.integers(1, len(datagrams)))
        unit = len(datagrams[0])
        burst, datagrams = b"".join(datagrams[:count]), datagrams[count:]
        record = to.add_stretch(memoryview(burst), unit, burst[1::unit])
        texts += [opened(record)] if record is not None else []
    assert texts == [bytes(plain(length))]


@given(shapes(), st.booleans(), st.randoms(use_true_random=False))
def test_any_order_and_doubles(shape: tuple[int, int], parity: bool, chance: random.Random) -> None:
    length, size = shape
    datagrams = cut(length, size, parity=parity)
    shuffled = datagrams + chance.sample(datagrams, k=len(datagrams) // 2)
    chance.shuffle(shuffled)
    delivered: set[int] = set()
    to = RecordJoiner(lambda counter: counter in delivered, lambda: ReceiveBuffer(MAX_BUFFER))
    texts = []
    for data in shuffled:
        record = to.add(memoryview(data))
        if record is not None:
            delivered.add(record.counter)
            texts.append(opened(record))
    assert texts == [bytes(plain(length))]


@given(shapes(), st.data())
def test_parity_heals_one_loss_and_no_more(shape: tuple[int, int], data: st.DataObject) -> None:
    length, size = shape
    datagrams = cut(length, size, parity=True)
    lost = data.draw(st.integers(0, len(datagrams) - 1))
    rest = datagrams[:lost] + datagrams[lost + 1 :]
    assert join(rest) == [bytes(plain(length))]
    if len(rest) > 2:
        assert join(rest[:-1]) == []


def test_without_parity_a_loss_is_a_loss() -> None:
    datagrams = cut(20_000, 1448)
    to = joiner()
    assert join(datagrams[:3] + datagrams[4:], to) == []
    for counter in range(1, MAX_PARTIAL + 1):  # these push it out, each with more fragments
        assert join(cut(40_000, 1448, counter)[:-1], to) == []
    assert join(datagrams[3:4], to) == []


def test_forged_beginnings_push_out_each_other() -> None:
    datagrams = cut(20_000, 1448)
    to = joiner()
    assert join(datagrams[:3], to) == []
    for counter in range(1, MAX_NEWER):
        assert join(cut(40_000, 1448, counter)[:1], to) == []
    assert join(datagrams[3:], to) == [bytes(plain(20_000))]


def test_what_will_never_be_whole_is_not_in_the_way_for_long() -> None:
    """Rich ones that wait for ever, and new ones of which two at a time are under way."""
    to = joiner()
    for counter in range(1000, 1000 + MAX_PARTIAL):
        assert join(cut(60_000, 1448, counter)[:-1], to) == []
    whole = 0
    rest: list[bytes] = []
    for counter in range(2 * MAX_NEWER):
        datagrams = cut(20_000, 1448, counter)
        whole += len(join([*datagrams[:-2], *rest], to))
        rest = datagrams[-2:]
    assert whole > MAX_NEWER - 2 * MAX_PARTIAL


def test_a_forged_claim_of_a_counter_is_another_record() -> None:
    datagrams = cut(20_000, 1448, 5)
    for forged in (cut(30_000, 1448, 5)[:1], cut(19_000, 1448, 5)[-1:]):
        to = joiner()
        assert join(forged, to) == []
        assert 5 in to
        assert 6 not in to
        assert join(datagrams, to) == [bytes(plain(20_000))]


def counts(to: RecordJoiner, datagrams: list[bytes]) -> tuple[int, int]:
    """Fragments expected and received, of what is authentic."""
    for data in datagrams:
        record = to.add(memoryview(data))
        if record is not None:
            to._seen = lambda counter: True
            to.authentic(record)
    return to.counters.expected, to.counters.received


def test_counts_what_arrived_and_what_should_have() -> None:
    datagrams = cut(20_000, 1448, parity=True)
    fragments = len(datagrams) - 1
    assert counts(joiner(), datagrams) == (fragments, fragments)
    assert counts(joiner(), datagrams[:-1]) == (fragments, fragments)
    assert counts(joiner(), datagrams[:3] + datagrams[4:]) == (fragments, fragments - 1)
    late = [*datagrams[:3], *datagrams[4:], datagrams[3], datagrams[3], datagrams[5]]
    assert counts(joiner(), late) == (fragments, fragments)


def test_nothing_counts_that_is_not_whole() -> None:
    assert counts(joiner(), cut(20_000, 1448)[:-1]) == (0, 0)


def test_memory_is_bounded() -> None:
    made = []

    def make() -> ReceiveBuffer:
        made.append(ReceiveBuffer(MAX_BUFFER))
        return made[-1]

    to = RecordJoiner(lambda counter: False, make)
    for counter in range(1000):
        to.add(memoryview(cut(5000, 1448, counter)[0]))
    assert len(made) == MAX_PARTIAL


def test_memory_of_all_sessions_is_bounded_and_comes_back() -> None:
    buffers = JoinBuffers(most=3)
    first, second, third = (RecordJoiner(lambda counter: False, buffers.make) for _ in range(3))
    records = [cut(5000, 1448, counter) for counter in range(9)]
    for to, begun in ((first, records[:4]), (second, records[4:5])):
        for datagrams in begun:
            assert to.add(memoryview(datagrams[0])) is None
    assert [number in first for number in range(4)] == [False, True, True, True], "the oldest gave way to its own"
    assert 4 not in second, "nothing is left for another session"
    del first
    for datagrams, to in ((records[5], second), (records[6], third)):
        assert join(datagrams[::-1], to) == [bytes(plain(5000))], "until that one is over"


@given(st.binary(max_size=3000) | st.binary(min_size=17, max_size=3000).map(lambda data: b"\5" + data))
def test_bytes_that_are_no_datagram(data: bytes) -> None:
    to = joiner()
    record = to.add(memoryview(data))
    if record is not None:
        with pytest.raises(InvalidTag):
            opened(record)


@settings(deadline=None)
@given(shapes(), st.data())
def test_a_forged_datagram_is_at_most_a_loss(shape: tuple[int, int], data: st.DataObject) -> None:
    """Whatever is changed in one datagram, no other plaintext comes out, and the next record is whole."""
    length, size = shape
    datagrams = cut(length, size)
    which = data.draw(st.integers(0, len(datagrams) - 1))
    forged = bytearray(datagrams[which])
    positions = st.integers(0, len(forged) - 1).filter(lambda at: not 4 <= at < 8)  # the index: another session
    at = data.draw(positions)
    forged[at] ^= data.draw(st.integers(1, 255))
    stream = [*datagrams[:which], bytes(forged), *datagrams[which + 1 :]]
    to = joiner()
    records = []
    for piece in stream:
        record = to.add(memoryview(piece))
        if record is not None:
            try:
                records.append(opened(record))
            except InvalidTag:
                records.append(b"")
    assert set(records) <= {b"", bytes(plain(length))}
    assert join(cut(length, size, 99), to) == [bytes(plain(length))]
    buffer, total = received(stream)
    whole = whole_record(buffer, 24, total, size)
    if whole is not None:
        with contextlib.suppress(InvalidTag):
            assert opened(whole) == bytes(plain(length))  # a header in the middle is not needed


def test_other_bursts_are_left_as_they_are() -> None:
    datagrams = cut(30_000, 1448)
    swapped = [*datagrams[:2], datagrams[3], datagrams[2], *datagrams[4:]]
    healed = cut(30_000, 1448, parity=True)
    two_lost = [*healed[:2], *healed[4:]]
    jumbled = [healed[1], healed[0], *healed[3:]]
    bursts = (datagrams[1:], datagrams[:-1], datagrams[:3] + datagrams[4:], datagrams[1::-1], swapped)
    for burst in (*bursts, two_lost, jumbled, healed[-1:] * 2, [*healed, healed[-1]]):
        buffer, total = received(burst)
        before = bytes(buffer.bytes)
        assert whole_record(buffer, 24, total, 1448) is None
        assert buffer.bytes == before


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("short", [HEADER_SIZE + 1, 116, 1440])
def test_a_burst_whose_last_datagram_is_short_though_it_is_not_the_records_last(first: int, short: int) -> None:
    numbers = range(first, first + 3)
    head = [HEADER.pack(5, number, 10, 0, INDEX, 7 | 1448 << 48) for number in numbers]
    burst = head[0].ljust(1448, b"x") + head[1].ljust(1448, b"x") + head[2].ljust(short, b"x")
    joining = joiner()
    assert joining.add_stretch(memoryview(burst), 1448, bytes(numbers)) is None
    rest = [HEADER.pack(5, number, 10, 0, INDEX, 7 | 1448 << 48).ljust(1448, b"x") for number in range(10)]
    record = None
    for datagram in rest:
        record = joining.add(memoryview(bytearray(datagram))) or record
    assert record is not None
    assert (record.expected, record.missing) == (10, -1)


def test_datagrams_from_elsewhere_add_nothing_to_a_record() -> None:
    joining = joiner()
    real = cut(9_000, 1448, 5)
    forged = bytearray(real[0])
    forged[200] ^= 1
    assert joining.add(memoryview(forged), "mallory") is None
    made = [record for datagram in real if (record := joining.add(memoryview(bytearray(datagram)), "peer"))]
    assert len(made) == 1
    assert opened(made[0]) == plain(9_000)


def test_a_burst_of_forged_datagrams_is_never_larger_than_a_record_may_be() -> None:
    """Two datagrams of 60,000 bytes that say they are one record, or 64 of the usual size."""
    for count, size in ((2, 60_000), (64, 1448)):
        heads = [HEADER.pack(5, number, count, 0, INDEX, size << 48) for number in range(count)]
        buffer, total = received([head.ljust(size, b"x") for head in heads])
        assert whole_record(buffer, 24, total, size) is None


@pytest.mark.parametrize("length", [0, capacity(MAX_COUNT, 1448) + 1])
def test_what_does_not_fit(length: int) -> None:
    with pytest.raises(ValueError, match="cannot be made"):
        RecordCutter(1448).cut(AEAD.encrypt_into, plain(length), INDEX, 0, parity=False)


def test_a_counter_that_is_used_up() -> None:
    with pytest.raises(ValueError, match="cannot be made"):
        RecordCutter(1448).cut(AEAD.encrypt_into, plain(9), INDEX, MAX_COUNTER + 1, parity=False)


def test_a_full_packet_fits_into_datagrams_of_usual_sizes() -> None:
    for limit in (1280 + 32, 1420 + 32, 8920 + 32, 40_936 + 32, 50_000 + 32, 65_455 + 32):
        assert capacity(MAX_COUNT, datagram_size(limit)) >= 65_535 + 10
    assert datagram_size(600) == 0


def test_any_aead_will_do() -> None:
    aead = ChaCha20Poly1305(bytes(32))
    datagrams = pieces(RecordCutter(1448).cut(aead.encrypt_into, plain(9000), INDEX, 3, parity=False), 1448)
    to = joiner()
    record = [to.add(memoryview(data)) for data in datagrams][-1]
    assert record is not None
    ciphertext = bytes(record.buffer[record.start : record.end])
    assert aead.decrypt(struct.pack("<4xQ", 3), ciphertext, None) == bytes(plain(9000))
