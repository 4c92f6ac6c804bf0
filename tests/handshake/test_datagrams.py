"""What is wrong with a datagram, each thing by its name, in the order in which it is looked for; what is held of those
that are right."""

from __future__ import annotations

import struct

import pytest

from qtunnel.errors import HandshakeError
from qtunnel.handshake import fragments
from qtunnel.handshake.fragments import (
    MAX_MESSAGE,
    MAX_PAYLOAD,
    NO_COOKIE,
    PARTIAL_LIFETIME,
    PARTIALS_PER_SOURCE,
    Fragment,
    Message,
    MessageType,
    Reassembler,
    cut,
    mac,
    mac1_key,
    parse,
)

KEY = mac1_key(b"\x01" * 64)
EXCHANGE = b"\xe5" * 16
FULL = b"f" * MAX_PAYLOAD


def datagram(
    payload: bytes = b"bytes", *, kind: int = 1, version: int = 2, suite: int = 3, index: int = 0, count: int = 1,
    length: int = 5, key: bytes = KEY,
) -> bytes:  # fmt: skip
    """With a right mac1, whatever else it is."""
    data = struct.pack(">BBHBBH16s", kind, version, suite, index, count, length, EXCHANGE) + payload
    return data + mac(key, data) + NO_COOKIE


def refused(made: bytes, reason: str, words: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        parse(made, KEY, lambda kind, exchange: False)
    assert (caught.value.reason, caught.value.detail) == (reason, words)


NUMBERS = "fragment numbers that do not fit each other, the length or the size"
SIZE = "not the size of a datagram of the handshake"
ELSEWHERE = mac1_key(b"\x02" * 64)


@pytest.mark.parametrize(
    ("made", "reason", "words"),
    [
        (datagram(b"", count=0, length=0), "malformed", SIZE),
        (datagram(FULL + b"!", count=2, length=MAX_MESSAGE), "malformed", SIZE),
        (datagram(index=1), "malformed", NUMBERS),
        (datagram(index=2, count=2, length=MAX_PAYLOAD + 5), "malformed", NUMBERS),
        (datagram(FULL, count=3, length=5), "malformed", NUMBERS),
        (datagram(count=0, length=0), "malformed", NUMBERS),
        (datagram(FULL, count=57, length=MAX_MESSAGE), "malformed", NUMBERS),
        (datagram(length=4), "malformed", NUMBERS),
        (datagram(length=6), "malformed", NUMBERS),
        (datagram(FULL[:-1], count=2, length=MAX_PAYLOAD + 5), "malformed", NUMBERS),
        (datagram(b"four", index=1, count=2, length=MAX_PAYLOAD + 5), "malformed", NUMBERS),
        (datagram(kind=0, key=ELSEWHERE), "malformed", "unknown message type"),
        (datagram(kind=5), "malformed", "unknown message type"),
        (datagram(kind=2, key=ELSEWHERE), "exchange", "belongs to no exchange that is under way"),
        (datagram(kind=4), "exchange", "belongs to no exchange that is under way"),
        (datagram(version=3, key=ELSEWHERE), "mac1", "not made for this gateway's identity"),
        (datagram(version=3), "version", "peer speaks version 3 of the handshake, this is 2"),
        (datagram(version=1), "version", "peer speaks version 1 of the handshake, this is 2"),
    ],
)
def test_what_is_wrong_is_named_and_what_costs_least_is_looked_at_first(made: bytes, reason: str, words: str) -> None:
    refused(made, reason, words)


def test_right_ones_are_taken_apart() -> None:
    assert parse(datagram(), KEY) == Fragment(MessageType.INIT, 3, EXCHANGE, 0, 1, 5, b"bytes")
    last = datagram(index=1, count=2, length=MAX_PAYLOAD + 5)
    assert parse(last, KEY) == Fragment(MessageType.INIT, 3, EXCHANGE, 1, 2, MAX_PAYLOAD + 5, b"bytes")
    full = datagram(FULL, count=2, length=MAX_PAYLOAD + 5)
    assert len(full) == fragments.MAX_DATAGRAM
    assert parse(full, KEY).payload == FULL
    assert parse(datagram(b"1", length=1), KEY).payload == b"1"


@pytest.mark.parametrize("kind", MessageType)
def test_the_exchange_is_asked_for_of_all_but_first_messages(kind: MessageType) -> None:
    asked: list[tuple[MessageType, bytes]] = []

    def known(which: MessageType, exchange: bytes) -> bool:
        asked.append((which, exchange))
        return True

    assert parse(datagram(kind=kind), KEY, known).type is kind
    assert asked == ([] if kind is MessageType.INIT else [(kind, EXCHANGE)])
    assert parse(datagram(kind=kind), KEY).type is kind, "nobody to ask"


def pieces(exchange: int = 1, size: int = 3000) -> list[Fragment]:
    message = Message(MessageType.INIT, 3, exchange.to_bytes(16, "big"), bytes(size))
    return [parse(one, KEY) for one in cut(message, KEY)]


def test_a_piece_that_comes_again_costs_none_of_the_others() -> None:
    reassembler, (one, two, three) = Reassembler(), pieces()
    for piece in (one, two, one, two, one):
        assert reassembler.add("peer", piece, 0.0) is None
    assert reassembler.add("peer", three, 0.0) is not None


def test_of_one_source_the_oldest_gives_way() -> None:
    reassembler = Reassembler()
    made = [pieces(exchange) for exchange in range(PARTIALS_PER_SOURCE + 1)]
    for number, (one, _, _) in enumerate(made):
        reassembler.add("peer", one, float(number))
        reassembler.add("other", one, float(number)) if number == 0 else None
    assert len(reassembler) == PARTIALS_PER_SOURCE + 1
    for number, (_, two, three) in list(enumerate(made))[::-1]:
        assert reassembler.add("peer", two, 5.0) is None
        assert (reassembler.add("peer", three, 5.0) is not None) == (number > 0)
    assert reassembler.add("other", made[0][1], 5.0) is None
    assert reassembler.add("other", made[0][2], 5.0) is not None, "that of another source is left alone"


def test_what_is_held_has_so_many_bytes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "PARTIAL_BYTES", 2 * MAX_PAYLOAD)
    reassembler = Reassembler()
    for number in range(2):
        reassembler.add(number, pieces()[0], 0.0)
    assert len(reassembler) == 2
    reassembler.add(2, pieces()[0], 0.0)
    assert {source for source, _, _ in reassembler._partials} == {1, 2}


def test_a_part_waits_for_its_time_and_no_longer() -> None:
    for late, whole in ((PARTIAL_LIFETIME, True), (PARTIAL_LIFETIME + 0.01, False)):
        reassembler, (one, two, three) = Reassembler(), pieces()
        reassembler.add("peer", one, 100.0)
        reassembler.add("other", one, 105.0)
        assert reassembler.add("peer", two, 100.0 + late) is None
        assert (reassembler.add("peer", three, 100.0 + late) is not None) == whole
        assert reassembler.add("other", two, 106.0 + late) is None
        assert len(reassembler) == 1 + (not whole)
