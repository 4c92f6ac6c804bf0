"""Datagrams: cut and put together in any order, bounded, and nothing passes without a right mac1."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.errors import HandshakeError
from qtunnel.handshake import fragments
from qtunnel.handshake.fragments import (
    FEW_FRAGMENTS,
    MAX_DATAGRAM,
    MAX_FRAGMENTS,
    MAX_MESSAGE,
    MAX_PAYLOAD,
    PARTIAL_BYTES,
    PARTIAL_LIFETIME,
    PARTIALS,
    PARTIALS_PER_SOURCE,
    Message,
    MessageType,
    Reassembler,
    cut,
    mac1_key,
    parse,
)

KEY = mac1_key(b"\x01" * 64)
messages = st.builds(
    Message,
    st.sampled_from(MessageType),
    st.integers(0, 65535),
    st.binary(min_size=16, max_size=16),
    st.integers(1, MAX_MESSAGE).map(lambda size: random.Random(size).randbytes(size)),
)


@given(messages, st.randoms(use_true_random=False))
def test_any_order_with_duplicates_gives_the_message(message: Message, rng: random.Random) -> None:
    datagrams = cut(message, KEY)
    assert all(len(datagram) <= MAX_DATAGRAM for datagram in datagrams)
    *early, last = rng.sample(datagrams, len(datagrams))
    reassembler = Reassembler()
    for datagram in early + early:
        assert reassembler.add("peer", parse(datagram, KEY), 0.0) is None
    assert reassembler.add("peer", parse(last, KEY), 0.0) == message
    assert len(reassembler) == 0


@given(messages, st.data())
def test_a_changed_datagram_is_refused(message: Message, data: st.DataObject) -> None:
    datagram = bytearray(cut(message, KEY)[0])
    at = data.draw(st.integers(0, len(datagram) - fragments.MAC_SIZE - 1))  # the last 16 bytes are mac2
    datagram[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(HandshakeError):
        parse(bytes(datagram), KEY)


@given(st.binary(max_size=1300))
def test_any_bytes_give_nothing_but_a_handshake_error(data: bytes) -> None:
    with pytest.raises(HandshakeError):
        parse(data, KEY)


@given(st.binary(min_size=24, max_size=1200))
def test_whoever_can_make_mac1_gets_no_further_than_an_error(data: bytes) -> None:
    datagram = data + fragments.mac(KEY, data) + bytes(16)
    try:
        parse(datagram, KEY)
    except HandshakeError as error:
        assert error.reason in ("malformed", "version")  # noqa: PT017  # both outcomes are right


def test_a_datagram_for_somebody_else_is_refused() -> None:
    message = Message(MessageType.INIT, 1, bytes(16), b"x")
    with pytest.raises(HandshakeError, match="mac1"):
        parse(cut(message, mac1_key(b"\x02" * 64))[0], KEY)


def test_truncated_and_overlong_datagrams_are_refused() -> None:
    datagram = cut(Message(MessageType.INIT, 1, bytes(16), bytes(3000)), KEY)[0]
    for wrong in (datagram[:-1], datagram + b"\0", datagram[: fragments.OVERHEAD], b""):
        with pytest.raises(HandshakeError):
            parse(wrong, KEY)


def test_a_message_too_long_for_its_header_is_a_defect() -> None:
    assert len(cut(Message(MessageType.INIT, 1, bytes(16), bytes(MAX_MESSAGE)), KEY)) == MAX_FRAGMENTS == 56
    with pytest.raises(ValueError, match="at most"):
        cut(Message(MessageType.INIT, 1, bytes(16), bytes(MAX_MESSAGE + 1)), KEY)


def first_of(exchange: int) -> fragments.Fragment:
    return parse(cut(Message(MessageType.INIT, 1, exchange.to_bytes(16, "big"), bytes(3000)), KEY)[0], KEY)


def test_one_source_cannot_fill_the_memory() -> None:
    reassembler = Reassembler()
    for exchange in range(100):
        reassembler.add("flood", first_of(exchange), 0.0)
    assert len(reassembler) == PARTIALS_PER_SOURCE


def test_all_sources_together_cannot_fill_the_memory() -> None:
    reassembler = Reassembler()
    fragment = first_of(1)
    for source in range(PARTIALS + 100):
        reassembler.add(source, fragment, 0.0)
    assert len(reassembler) == PARTIALS


def test_long_messages_take_the_place_of_several_short_ones() -> None:
    """What is held is bounded in bytes as well; the oldest gives way, and the books are right to the byte."""
    reassembler = Reassembler()
    long = [parse(one, KEY) for one in cut(Message(MessageType.INIT, 1, bytes(16), bytes(MAX_MESSAGE)), KEY)]
    whole = (len(long) - 1) * MAX_PAYLOAD
    for source in range(3 * PARTIAL_BYTES // whole):
        for fragment in long[:-1]:
            assert reassembler.add(source, fragment, 0.0) is None
        assert reassembler._bytes == sum(partial.size for partial in reassembler._partials.values()) <= PARTIAL_BYTES
    assert len(reassembler) == PARTIAL_BYTES // whole < PARTIALS
    assert 0 not in {source for source, _, _ in reassembler._partials}
    assert PARTIALS * FEW_FRAGMENTS * MAX_PAYLOAD == PARTIAL_BYTES, "short ones are bounded by their number alone"
    assert reassembler.add(source, long[-1], 0.0) is not None
    forged = cut(Message(MessageType.INIT, 1, bytes(16), b"\xff" * MAX_MESSAGE), KEY)
    reassembler.add(source - 1, parse(forged[0], KEY), 0.0)
    for other in range(source):
        reassembler.add(other, long[0], PARTIAL_LIFETIME + 1)
    assert reassembler._bytes == sum(partial.size for partial in reassembler._partials.values())


def test_partial_messages_are_forgotten() -> None:
    reassembler = Reassembler()
    reassembler.add("a", first_of(1), 0.0)
    reassembler.add("b", first_of(2), PARTIAL_LIFETIME + 0.1)
    assert len(reassembler) == 1


def test_a_forged_fragment_costs_no_more_than_a_lost_one() -> None:
    message = Message(MessageType.INIT, 1, bytes(16), bytes(3000))
    forged = cut(Message(MessageType.INIT, 1, bytes(16), b"\xff" * 3000), KEY)
    datagrams = cut(message, KEY)
    reassembler = Reassembler()
    reassembler.add("peer", parse(forged[0], KEY), 0.0)
    assert all(reassembler.add("peer", parse(datagram, KEY), 0.0) is None for datagram in datagrams[:2])
    assert reassembler.add("peer", parse(datagrams[2], KEY), 0.0) in (message, None)
    found = [reassembler.add("peer", parse(datagram, KEY), 1.0) for datagram in datagrams]  # the retransmission
    assert message in found


def test_fragments_of_different_shape_are_not_mixed_and_the_newest_goes_on() -> None:
    """A forged fragment that comes first must not keep the true message out."""
    forged = cut(Message(MessageType.INIT, 1, bytes(16), bytes(2000)), KEY)
    message = Message(MessageType.INIT, 1, bytes(16), bytes(3000))
    reassembler = Reassembler()
    assert reassembler.add("peer", parse(forged[0], KEY), 0.0) is None
    *early, last = cut(message, KEY)
    for datagram in early:
        assert reassembler.add("peer", parse(datagram, KEY), 0.0) is None
    assert reassembler.add("peer", parse(last, KEY), 0.0) == message
    assert len(reassembler) == 0
