"""ETSI GS QKD 004 in the framing of QUBIP: a KME's answers to our driver, requests to the simulated KME, metadata,
key_IDs."""

from __future__ import annotations

from uuid import UUID

from qtunnel.drivers.etsi004_answers import MOST_CHUNK, objection, parse_key_id, refusal, told
from qtunnel.drivers.etsi004_qubip import HEADER, NUMBER, VERSION, QubipFraming, pack_qos, unpack_qos
from qtunnel.drivers.etsi004_terms import Call, MalformedError, Qos
from qtunnel.simulator import etsi004_messages as server
from tests.fuzz.draw import Draw, document, spoiled
from tests.fuzz.target import Target, say

FRAMING = QubipFraming()
KSID = UUID("c42fe0b3-dfa7-4872-b170-9d3b63b1f841")
CALLS = (Call.OPEN_CONNECT, Call.GET_KEY, Call.CLOSE)


def draw_qos(draw: Draw) -> Qos:
    numbers = [draw.choice((32, 0, 2**32 - 1, 90, 3000, draw.number(0, 2**32 - 1))) for _ in range(7)]
    return Qos(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6],
               draw.choice(("application/json", "", "x" * 255)))  # fmt: skip


def draw_body(draw: Draw, call: Call) -> bytes:
    status = NUMBER.pack(draw.choice((0, 0, 1, 2, 5, 7, 8, draw.number(0, 2**32 - 1))))
    if call is Call.OPEN_CONNECT:
        body = status + draw.choice((pack_qos(draw_qos(draw)) + KSID.bytes, b""))
    elif call is Call.GET_KEY:
        chunk, metadata = bytes(draw.choice((32, 0, 100))), draw.piece(30)
        key = NUMBER.pack(draw.number(0, 2**32 - 1)) + NUMBER.pack(len(chunk)) + chunk
        body = status + draw.choice((key + NUMBER.pack(len(metadata)) + metadata, NUMBER.pack(40), b""))
    else:
        body = status
    return spoiled(draw, body, 2) if draw.flag() else body


def answer(data: bytes) -> None:
    """A header says how long the body is, within bounds; a body of that length is read, or refused without a word of
    it."""
    draw = Draw(data)
    call, room = draw.choice(CALLS), draw.choice((64, 0, MOST_CHUNK))
    body = draw_body(draw, call) if draw.flag() else draw.rest()
    header = HEADER.pack(*VERSION, {Call.OPEN_CONNECT: 3, Call.GET_KEY: 5, Call.CLOSE: 9}[call], len(body))
    size = FRAMING.length(spoiled(draw, header, 1)[:8].ljust(8, b"\0"), call, room)
    assert size <= max(304, room + 16)
    if call is Call.OPEN_CONNECT:
        opened = FRAMING.opened(body)
        if opened.qos is not None:
            assert unpack_qos(pack_qos(opened.qos)) == opened.qos
            say(objection(draw_qos(draw), opened.qos) or "")
        status = opened.status
    elif call is Call.GET_KEY:
        got = FRAMING.got(bytearray(body))
        assert got.key is None or len(got.key) + len(got.metadata) + 16 == len(body)
        say(told(got.metadata) or "")
        status = got.status
    else:
        status = FRAMING.closed(body)
    if status:
        say(str(refusal("place", call, status, lost=1, remedy="wait")))


def request(data: bytes) -> None:
    """What the simulated KME reads: what our driver writes, or ``MalformedError``."""
    draw = Draw(data)
    qos = draw_qos(draw)
    made = draw.choice((
        FRAMING.open_connect("qkd://a", "qkd://b", qos, KSID), FRAMING.get_key(KSID, draw.number(0, 2**32 - 1), 64),
        FRAMING.close(KSID),
    ))  # fmt: skip
    spoilt = spoiled(draw, made, 2) if draw.flag() else made
    spoilt = draw.rest() if draw.flag(4) else spoilt
    service, size = server.header(spoilt[:8].ljust(8, b"\0"))
    assert size <= server.MAX_BODY
    body = spoilt[8:]
    if service is server.Service.OPEN_CONNECT:
        opened = server.parse_open(body)
        assert (opened.source, opened.destination) == ("qkd://a", "qkd://b") or spoilt != made
        assert len(server.opened(server.Status.SUCCESSFUL, opened.qos.within(16, 4096, 3600), opened.ksid)) == 304
    elif service is server.Service.GET_KEY:
        assert server.parse_get(body).ksid == KSID or spoilt != made
    else:
        assert server.parse_close(body) == KSID or spoilt != made


def metadata(data: bytes) -> None:
    say(told(document(data, {"hops": 3, "age": 1})) or "")


def key_id(data: bytes) -> None:
    """A key_ID that the peer names is a place within bounds, written as it was read, or none of this driver's."""
    text = data.decode("latin-1")
    if data[:1] >= b"\x80":
        draw = Draw(data[1:])
        numbers = (0, 1, 17, 32, 65_536, 65_537, 2**32 - 1, 2**32, draw.number(0, 2**34))
        text = f"{draw.choice((KSID, UUID(int=0)))}:{draw.choice(numbers)}:{draw.choice(numbers)}"
        text = spoiled(draw, text.encode(), 2).decode("latin-1")
    place = parse_key_id(text)
    if place is not None:
        assert str(place) == text
        assert place.chunks(32) * place.chunk >= 32
        place.fits(2**16)


TARGETS = {
    "answer": Target(answer, (MalformedError,), 400),
    "request": Target(request, (server.MalformedError,), 400),
    "metadata": Target(metadata, (), 300, (b'"hops":', b"hops")),
    "key_id": Target(key_id, (), 100, (str(KSID).encode(), b":0:32", b":17:")),
}
