"""The pinger's packets and its count."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.sandbox.pinger import HEADER, SILENCE, Tally, checksum, echo_reply, echo_request


def reply_to(request: bytes) -> bytes:
    """The IPv4 packet that answers, as a kernel makes it: type 0 and a new checksum."""
    kind, code, _, identifier, sequence = HEADER.unpack_from(request)
    assert (kind, code) == (8, 0)
    bare = HEADER.pack(0, 0, 0, identifier, sequence) + request[HEADER.size :]
    message = HEADER.pack(0, 0, checksum(bare), identifier, sequence) + request[HEADER.size :]
    return bytes([0x45]) + bytes(19) + message


def test_the_checksum_is_that_of_rfc_1071() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")  # the example of section 3: the sum is ddf2
    assert checksum(data) == ~0xDDF2 & 0xFFFF
    assert checksum(b"\x01") == ~0x0100 & 0xFFFF


@given(identifier=st.integers(0, 0xFFFF), serial=st.integers(0, (1 << 64) - 1))
def test_a_reply_is_recognised_by_its_serial_number(identifier: int, serial: int) -> None:
    request = echo_request(identifier, serial)
    assert len(request) == 56
    assert checksum(request) == 0
    reply = reply_to(request)
    assert echo_reply(reply, identifier) == serial
    assert echo_reply(reply, identifier ^ 1) is None
    assert echo_reply(bytes(20) + request, identifier) is None


@given(st.binary(max_size=100))
def test_garbage_is_no_reply(packet: bytes) -> None:
    assert echo_reply(packet, 7) is None


@given(position=st.integers(20, 75), bit=st.integers(0, 7))
def test_a_flipped_bit_is_no_reply(position: int, bit: int) -> None:
    packet = bytearray(reply_to(echo_request(7, 1)))
    packet[position] ^= 1 << bit
    assert echo_reply(bytes(packet), 7) is None


def test_an_ipv4_header_with_options_is_skipped() -> None:
    reply = reply_to(echo_request(7, 5))
    assert echo_reply(bytes([0x46]) + bytes(23) + reply[20:], 7) == 5


def test_a_late_answer_counts_and_a_duplicate_does_not() -> None:
    tally = Tally()
    first, second = tally.send(0.0), tally.send(0.01)
    tally.answer(first, 0.001)
    tally.answer(first, 0.002)
    tally.answer(99, 0.002)
    assert tally.report() == {"sent": 2, "answered": 1, "overdue": 0, "rtt_ms": 1.0}
    tally.age(3.0)
    assert tally.report()["overdue"] == 1
    assert tally.outstanding == 0
    tally.answer(second, 3.0)
    assert tally.report() == {"sent": 2, "answered": 2, "overdue": 0, "rtt_ms": 2990.0}
    assert tally.gaps() == []


def test_quantiles_are_of_all_answers() -> None:
    tally = Tally()
    assert tally.quantiles() == {"shortest_ms": None, "p50_ms": None, "p99_ms": None}
    for number in range(100):
        tally.answer(tally.send(0.0), (100 - number) / 1000)
    assert tally.quantiles() == {"shortest_ms": 1.0, "p50_ms": 51.0, "p99_ms": 100.0}


def test_gaps_are_runs_of_what_was_never_answered() -> None:
    tally = Tally()
    for serial in range(8):
        tally.send(serial / 10)
    for serial in (0, 3, 7):
        tally.answer(serial, 1.0)
    tally.age(2.25)
    assert tally.gaps() == [(0.1, 0.2, 2), (0.4, 0.6, 3)]


def test_a_silence_lasts_from_answer_to_answer() -> None:
    tally = Tally()
    for _ in range(3):
        tally.send(0.0)
    tally.answer(0, 0.1)
    tally.answer(1, 0.1 + SILENCE / 2)
    tally.answer(2, 5.0)
    assert tally.silences == [(0.1 + SILENCE / 2, 5.0)]
    tally.hush(9.0)
    assert tally.silences[-1] == (5.0, 9.0)


def test_the_header_is_eight_bytes() -> None:
    assert HEADER.size == struct.calcsize("!BBHHH") == 8
