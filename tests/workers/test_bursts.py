"""What a worker makes of a burst, against the same done packet by packet."""

from __future__ import annotations

import struct

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.offload import vnet
from qtunnel.wireguard.messages import DATA_HEADER, MIN_DATA_SIZE, TYPE_DATA
from qtunnel.wireguard.record_burst import ReceiveBuffer, whole_record
from qtunnel.workers.bursts import BurstWorker
from qtunnel.workers.messages import (
    FORGET,
    IN_SIZE,
    NOTHING_MISSING,
    OUT_SIZE,
    REGION,
    RESULT,
    SESSION,
    SLOTS,
    TASK,
    WRITE,
    Kind,
    Result,
    Status,
    Task,
    slot_places,
)
from tests.offload import reference
from tests.offload.reference import TCP, Packet
from tests.offload.strategies import content, super_packets

INDEX, REMOTE = 77, 0xFFFFFFF0
KEYS = [bytes((number,)) * 32 for number in range(4)]
MTU = 1420

MEMORY = memoryview(bytearray(REGION))
WORKER = BurstWorker(MEMORY, udp_segments=True)
"""One for all tests, as in a running engine."""


def learn(worker: BurstWorker, index: int = INDEX, *, suite: int = 2) -> None:
    """A session whose ends have the same keys, so that what it sealed it can open."""
    same = [KEYS[0], KEYS[0], KEYS[2], KEYS[2]]
    assert worker.answer(SESSION.pack(Kind.SESSION, index, suite) + b"".join(same[: 4 if suite else 2])) is None


learn(WORKER)


def ask(task: Task, data: bytes, worker: BurstWorker = WORKER) -> tuple[Result, bytes, list[int]]:
    place, out = slot_places(task.slot)
    MEMORY[place : place + len(data)] = data
    answer = worker.answer(TASK.pack(*task._replace(length=len(data))))
    assert answer is not None
    assert MEMORY[place : place + len(data)] == data  # what went in is still there
    result = Result._make(RESULT.unpack_from(answer))
    writes = [size for (size,) in WRITE.iter_unpack(answer[RESULT.size :])]
    return result, bytes(MEMORY[out : out + result.length]), writes


def seal(data: bytes, *, slot: int = 0, counter: int = 5) -> tuple[Result, bytes]:
    result, sealed, _ = ask(Task(Kind.SEAL_RUN, slot, session=INDEX, counter=counter, remote=REMOTE, mtu=MTU), data)
    return result, sealed


def unsealed(message: bytes, counter: int) -> bytes:
    assert DATA_HEADER.unpack_from(message) == (TYPE_DATA, REMOTE, counter)
    return ChaCha20Poly1305(KEYS[0]).decrypt(struct.pack("<4xQ", counter), message[DATA_HEADER.size :], None)


@given(super_packets(options=False), st.integers(0, 99), st.integers(0, SLOTS - 1), st.integers(0, 2**63))
def test_sealed_packets_are_those_of_the_reference(
    made: tuple[Packet, int], hint: int, slot: int, counter: int
) -> None:
    packet, gso_size = made
    expected = reference.split(packet, gso_size)
    result, sealed = seal(packet.super_packet(gso_size, hint), slot=slot, counter=counter)
    if result.status == Status.ODD:
        assert len(expected) * (len(expected[0]) + 16 + MIN_DATA_SIZE) > OUT_SIZE
        return
    assert (result.status, result.slot, result.messages) == (Status.DONE, slot, len(expected))
    assert result.length == len(sealed)
    messages = [sealed[at : at + result.size] for at in range(0, len(sealed), result.size)]
    found = [unsealed(message, counter + row) for row, message in enumerate(messages)]
    assert [plain[: len(packet)] for plain, packet in zip(found, expected, strict=True)] == expected
    assert all(not any(plain[len(packet) :]) for plain, packet in zip(found, expected, strict=True))


def remote_as_local(sealed: bytes, size: int) -> bytes:
    """The messages as they would come to the session itself."""
    messages = bytearray(sealed)
    for at in range(0, len(messages), size):
        messages[at + 4 : at + 8] = INDEX.to_bytes(4, "little")
    return bytes(messages)


def bulk(segments: int = 40) -> bytes:
    """A TCP super-packet as bulk traffic has it."""
    return Packet(version=4, protocol=TCP, payload=content(1368 * segments, 7), flags=0x10).super_packet(1368, 0)


@pytest.mark.parametrize("segments", [3, 40, 44])
def test_what_was_sealed_is_opened_and_put_together(segments: int) -> None:
    data = bulk(segments)
    result, sealed = seal(data)
    result, output, writes = ask(
        Task(Kind.OPEN_RUN, session=INDEX, size=result.size), remote_as_local(sealed, result.size)
    )
    assert (result.status, result.counter, result.messages) == (Status.DONE, 5, segments)
    assert writes == [len(output)] == [len(data)]
    assert output[vnet.SIZE + 40 :] == data[vnet.SIZE + 40 :]


def test_packets_of_several_flows_keep_their_order() -> None:
    packets = [
        Packet(version=4, protocol=TCP, payload=content(900, number), ports=(number % 2, 80), flags=0x10)
        for number in range(8)
    ]
    sealed = b""
    for row, packet in enumerate(packets):
        plain = reference.split(packet, 900)[0]
        plain += bytes(-len(plain) % 16)
        header = DATA_HEADER.pack(TYPE_DATA, INDEX, row)
        sealed += header + ChaCha20Poly1305(KEYS[0]).encrypt(struct.pack("<4xQ", row), plain, None)
    result, output, writes = ask(Task(Kind.OPEN_RUN, session=INDEX, size=len(sealed) // 8), sealed)
    assert result.status == Status.DONE
    assert len(writes) == 8
    assert output == b"".join(vnet.ZERO + reference.split(packet, 900)[0] for packet in packets)


@given(st.data())
def test_what_is_not_as_it_should_be_is_left_to_the_engine(data: st.DataObject) -> None:
    result, sealed = seal(bulk(8))
    size = result.size
    messages = bytearray(remote_as_local(sealed, size))
    rows = [bytes(messages[at : at + size]) for at in range(0, len(messages), size)]
    kind = data.draw(st.sampled_from(("flipped", "swapped", "doubled", "missing", "short", "session")))
    session = INDEX
    if kind == "flipped":
        at = data.draw(st.integers(0, len(messages) - 1))
        messages[at] ^= 1 << data.draw(st.integers(0, 7))
        sealed = bytes(messages)
    elif kind == "session":
        session = INDEX + 1
    elif kind == "short":
        sealed = bytes(messages[: len(messages) - data.draw(st.integers(1, size - 1))])
    else:
        at = data.draw(st.integers(1, len(rows) - 2))
        rows[at : at + 2] = {
            "swapped": [rows[at + 1], rows[at]],
            "doubled": [rows[at], rows[at]],
            "missing": [rows[at + 1]],
        }[kind]
        sealed = b"".join(rows)
    result, _, _ = ask(Task(Kind.OPEN_RUN, session=session, size=size), sealed)
    assert result.status == Status.ODD


@pytest.mark.parametrize("parity", [0, 1])
def test_a_record_there_and_back(parity: int) -> None:
    items = bulk(40)
    task = Task(Kind.SEAL_RECORD, session=INDEX, size=1440, counter=9, remote=INDEX, parity=parity)
    result, datagrams, _ = ask(task, items)
    assert result.status == Status.DONE
    buffer = ReceiveBuffer(IN_SIZE)
    buffer.view[: len(datagrams)] = datagrams
    record = whole_record(buffer, 0, len(datagrams), 1440)
    assert record is not None
    sealed = bytes(record.buffer[record.start : record.end])
    assert AESGCM(KEYS[2]).decrypt(struct.pack("<4xQ", 9), sealed, None) == items
    result, plain, _ = ask(Task(Kind.OPEN_RECORD, session=INDEX, size=1440), datagrams)
    assert (result.status, result.counter, result.messages) == (Status.DONE, 9, record.expected)
    assert result.missing == NOTHING_MISSING
    assert result.size == len(datagrams)
    assert plain == items
    forged = bytearray(datagrams)
    forged[len(forged) // 2 + 100] ^= 1
    assert ask(Task(Kind.OPEN_RECORD, session=INDEX, size=1440), bytes(forged))[0].status == Status.ODD
    assert ask(Task(Kind.OPEN_RECORD, session=INDEX, size=1440), datagrams[: -2 * 1440])[0].status == Status.ODD
    fewer = datagrams[: 3 * 1440] + datagrams[4 * 1440 :]
    result, plain, _ = ask(Task(Kind.OPEN_RECORD, session=INDEX, size=1440), fewer)
    if parity:
        assert (result.status, result.missing, plain) == (Status.DONE, 3, items)
    else:
        assert result.status == Status.ODD


def test_a_session_without_records_and_one_that_was_forgotten() -> None:
    worker = BurstWorker(MEMORY, udp_segments=True)
    learn(worker, suite=0)
    task = Task(Kind.SEAL_RUN, session=INDEX, mtu=MTU)
    assert ask(task, bulk(), worker)[0].status == Status.DONE
    assert ask(Task(Kind.SEAL_RECORD, session=INDEX, size=1440), bulk(), worker)[0].status == Status.ODD
    assert ask(Task(Kind.OPEN_RECORD, session=INDEX, size=1440), bulk(), worker)[0].status == Status.ODD
    worker.answer(FORGET.pack(Kind.FORGET, INDEX))
    assert ask(task, bulk(), worker)[0].status == Status.ODD


def test_what_is_no_super_packet_is_left_to_the_engine() -> None:
    header = vnet.HEADER.pack(vnet.NEEDS_CSUM, vnet.GSO_TCPV4, 0, 1000, 20, 16)
    assert ask(Task(Kind.SEAL_RUN, session=INDEX, mtu=MTU), header + bytes(2000))[0].status == Status.ODD


def test_keys_for_sending_and_receiving_are_not_mixed_up() -> None:
    worker = BurstWorker(MEMORY, udp_segments=True)
    worker.answer(SESSION.pack(Kind.SESSION, INDEX, 1) + b"".join(KEYS))
    result, sealed, _ = ask(Task(Kind.SEAL_RUN, session=INDEX, mtu=MTU), bulk(1), worker)
    message = sealed[DATA_HEADER.size : result.size]
    assert ChaCha20Poly1305(KEYS[0]).decrypt(bytes(12), message, None)
    with pytest.raises(InvalidTag):
        ChaCha20Poly1305(KEYS[1]).decrypt(bytes(12), message, None)
    header = DATA_HEADER.pack(TYPE_DATA, INDEX, 0)
    plain = reference.split(Packet(version=4, protocol=TCP, payload=bytes(60), flags=0x10), 1368)[0]
    plain += bytes(-len(plain) % 16)
    answer = ask(
        Task(Kind.OPEN_RUN, session=INDEX, size=len(plain) + MIN_DATA_SIZE),
        header + ChaCha20Poly1305(KEYS[1]).encrypt(bytes(12), plain, None),
        worker,
    )
    assert answer[0].status == Status.DONE
