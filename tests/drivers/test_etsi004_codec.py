"""The framing of etsi004: what is packed is read back, and of anything else no answer is made."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.drivers import etsi004_answers as answers
from qtunnel.drivers.etsi004_answers import Place, objection, parse_key_id, refusal, told
from qtunnel.drivers.etsi004_qubip import ANSWERS, QubipFraming, pack_qos, unpack_qos
from qtunnel.drivers.etsi004_terms import NULL_KSID, Call, MalformedError, Opened, Qos, Status
from qtunnel.errors import (
    KeyRequestRejectedError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
)

Result = TypeVar("Result")

FRAMING = QubipFraming()
KSID = uuid.UUID("c42fe0b3-dfa7-4872-b170-9d3b63b1f841")
ASKED = Qos(32, 10_000, 0, 0, 0, 4000, 3600, "application/json")

numbers = st.integers(0, 2**32 - 1)
mimetypes = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=255)
qualities = st.builds(Qos, *[numbers] * 7, mimetypes)
ksids = st.uuids()
bodies = st.binary(max_size=400)


def test_the_messages_byte_by_byte() -> None:
    """From the framing's description: header, then the fields in their order."""
    qos = bytes.fromhex("000000200000271000000000000000000000000000000fa000000e10")
    mime = b"application/json" + bytes(240)
    body = b"qkd://alice\0qkd://bob\0" + qos + mime + bytes(16)
    assert FRAMING.open_connect("qkd://alice", "qkd://bob", ASKED, NULL_KSID) == (
        b"\1\0\1\2" + len(body).to_bytes(4, "big") + body
    )
    assert FRAMING.get_key(KSID, 17, 1024) == b"\1\0\1\4\0\0\0\x18" + KSID.bytes + b"\0\0\0\x11\0\0\4\0"
    assert FRAMING.close(KSID) == b"\1\0\1\x08\0\0\0\x10" + KSID.bytes
    assert FRAMING.opened(bytes(4) + qos + mime + KSID.bytes) == Opened(0, ASKED, KSID)
    got = FRAMING.got(bytes(7) + b"\x11" + b"\0\0\0\2" + b"\xaa\xbb" + b"\0\0\0\1" + b"m")
    assert (got.status, got.index, got.metadata) == (0, 17, b"m")
    assert got.key is not None
    assert bytes(got.key.reveal()) == b"\xaa\xbb"


@given(qualities)
def test_qos_is_read_back(qos: Qos) -> None:
    assert len(pack_qos(qos)) == 284
    assert unpack_qos(pack_qos(qos)) == qos


@given(qualities, ksids, st.sampled_from([0, 1, 7]))
def test_an_opened_stream_is_read_back(qos: Qos, ksid: uuid.UUID, status: int) -> None:
    body = struct.pack("!I", status) + pack_qos(qos) + ksid.bytes
    assert FRAMING.opened(body) == Opened(status, qos, ksid)
    for wrong in (body[:-1], body + b"\0", body[4:]):
        with pytest.raises(MalformedError):
            FRAMING.opened(wrong)


@given(numbers, st.binary(max_size=64), st.binary(max_size=64))
def test_a_chunk_is_read_back_and_only_in_its_exact_length(index: int, chunk: bytes, metadata: bytes) -> None:
    body = struct.pack("!III", 0, index, len(chunk)) + chunk + struct.pack("!I", len(metadata)) + metadata
    got = FRAMING.got(bytearray(body))
    assert got.key is not None
    assert (got.index, bytes(got.key.reveal()), got.metadata) == (index, chunk, metadata)
    for wrong in (body[:-1], body + b"\0"):
        with pytest.raises(MalformedError):
            FRAMING.got(wrong)


def refused_or(parse: Callable[..., Result], *given: object) -> Result | None:
    """What parsing gives, or ``None`` where it is refused in words."""
    try:
        return parse(*given)
    except MalformedError as error:
        said = str(error)
    assert said.isprintable()
    return None


@given(st.sampled_from([Call.OPEN_CONNECT, Call.GET_KEY, Call.CLOSE]), st.binary(min_size=8, max_size=8), numbers)
def test_any_header_is_refused_or_has_a_length_that_is_bounded(call: Call, header: bytes, room: int) -> None:
    for candidate in (header, bytes([1, 0, 1, ANSWERS[call]]) + header[4:]):
        length = refused_or(FRAMING.length, candidate, call, room)
        if length is not None:
            assert candidate[0] == 1
            assert candidate[3] == ANSWERS[call]
            assert 4 <= length <= max(304, 16 + room)


@given(bodies, st.integers(0, 10))
def test_any_body_is_parsed_or_refused(body: bytes, status: int) -> None:
    for candidate in (body, struct.pack("!I", status) + body):
        for parse in (FRAMING.opened, FRAMING.got, FRAMING.closed):
            refused_or(parse, candidate)


@given(st.data())
def test_one_wrong_byte_in_the_lengths_is_seen(data: st.DataObject) -> None:
    body = bytearray(struct.pack("!III", 0, 1, 32) + bytes(range(32)) + struct.pack("!I", 3) + b"abc")
    at = data.draw(st.sampled_from([*range(8, 12), *range(44, 48)]))
    body[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MalformedError):
        FRAMING.got(body)


@given(ksids.filter(lambda ksid: ksid != NULL_KSID), numbers, st.integers(16, 65_536))
def test_a_place_is_read_back_from_its_key_id(ksid: uuid.UUID, index: int, chunk: int) -> None:
    place = Place(ksid, index, chunk)
    assert parse_key_id(str(place)) == place
    assert len(str(place)) <= 64
    assert parse_key_id(str(place) + " ") is None
    assert parse_key_id(str(place).upper().replace("A", "G")) is None or not any(c.isalpha() for c in str(ksid))


@given(st.text(max_size=80))
def test_any_text_is_no_place_or_one_that_says_the_same(text: str) -> None:
    place = parse_key_id(text)
    assert place is None or str(place) == text


@pytest.mark.parametrize(
    ("chunk", "size", "count"), [(32, 32, 1), (16, 32, 2), (16, 33, 3), (64, 32, 1), (64, 65, 2), (16, 1, 1)]
)
def test_how_many_chunks_a_key_takes(chunk: int, size: int, count: int) -> None:
    assert Place(KSID, 0, chunk).chunks(size) == count
    assert Place(KSID, 2**32 - count, chunk).fits(size)
    assert not Place(KSID, 2**32 - count + 1, chunk).fits(size)


def test_every_status_of_every_call_has_an_error_and_words() -> None:
    assert [status.value for status in Status] == list(range(9))
    kinds = {2: KeySourceUnavailableError, 3: KeySourceUnavailableError, 4: KeySourceUnavailableError,
             6: KeySourceTimeoutError, 8: KeyRequestRejectedError}  # fmt: skip
    for status in range(12):
        error = refusal("metro", Call.GET_KEY, status, lost=1)
        assert type(error) is kinds.get(status, KeySourceProtocolError)
        assert f"status {status}" in str(error)
        assert ("which the standard does not have for this call" in str(error)) is (status not in kinds)
        assert status > 8 or Status(status).words in str(error)
        assert error.lost == 1
    kinds = {1: KeySourceUnavailableError, 4: KeySourceUnavailableError, 5: KeySourceUnavailableError,
             6: KeySourceTimeoutError, 7: KeyRequestRejectedError}  # fmt: skip
    for status in range(12):
        error = refusal("metro", Call.OPEN_CONNECT, status, remedy="do this")
        assert type(error) is kinds.get(status, KeySourceProtocolError)
        assert error.lost == 0
        assert str(error).endswith("; do this") is (status in kinds)


@given(qualities)
def test_what_is_taken_can_be_used(offered: Qos) -> None:
    if objection(ASKED, offered) is None:
        assert answers.LEAST_CHUNK <= offered.key_chunk_size <= answers.MOST_CHUNK
        assert offered.ttl >= answers.LEAST_TTL
        assert 0 < offered.timeout <= ASKED.timeout
    assert objection(ASKED, ASKED) is None


@pytest.mark.parametrize(
    ("metadata", "said"),
    [(b'{"age": 3, "hops": 0}', "keys come directly"), (b'{"hops": 2}', "keys come over 2 hops"), (b"", None),
     (b'{"hops": true}', None), (b'{"hops": -1}', None), (b"[" * 10_000, None), (b'"\xff"', None), (b"3", None)],
)  # fmt: skip
def test_metadata_in_words(metadata: bytes, said: str | None) -> None:
    assert told(metadata) == said
