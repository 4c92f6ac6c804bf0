"""Message tables: exact lengths, exact types, zero reserved bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.tai64n import tai64n
from qtunnel.wireguard.messages import CookieReply, Initiation, MessageError, Response, message_type
from qtunnel.wireguard.tai64n import GRANULARITY, TimestampSource

index = st.integers(0, (1 << 32) - 1)


def raw(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


messages = st.one_of(
    st.builds(Initiation, index, raw(32), raw(48), raw(28), raw(16), raw(16)),
    st.builds(Response, index, index, raw(32), raw(16), raw(16), raw(16)),
    st.builds(CookieReply, index, raw(24), raw(32)),
)
SIZES = {Initiation: 148, Response: 92, CookieReply: 64}


@given(messages)
def test_round_trip(message: Initiation | Response | CookieReply) -> None:
    packed = message.pack()
    assert len(packed) == SIZES[type(message)]
    assert type(message).unpack(packed) == message


@given(messages, st.integers(-148, 148))
def test_other_lengths_are_refused(message: Initiation | Response | CookieReply, change: int) -> None:
    packed = message.pack()
    wrong = packed[:change] if change < 0 else packed + bytes(change)
    if len(wrong) != len(packed):
        with pytest.raises(MessageError):
            type(message).unpack(wrong)


@given(messages, st.integers(0, 3), st.integers(1, 255))
def test_type_and_reserved_bytes_are_exact(
    message: Initiation | Response | CookieReply, position: int, flip: int
) -> None:
    packed = bytearray(message.pack())
    packed[position] ^= flip
    with pytest.raises(MessageError):
        type(message).unpack(packed)


def test_type_of_short_datagrams() -> None:
    assert [message_type(b"\x04\0\0\0"[:size]) for size in range(5)] == [0, 0, 0, 0, 4]


def test_timestamps_follow_the_clock_and_never_go_back() -> None:
    source = TimestampSource()
    now = 1_700_000_000_123_456_789
    first = source.next(now)
    assert first == tai64n(now - now % GRANULARITY)
    assert first[:8].hex() == f"{(1 << 62) + 10 + 1_700_000_000:016x}"
    second = source.next(now - 3600 * 10**9)
    third = source.next(now)
    assert first < second < third < source.next(now + 10**9)
