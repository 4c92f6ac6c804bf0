"""The framing of ETSI GS QKD 004 that the QUBIP project's open implementation speaks. Pure.

Numbers are big-endian. A message is a header (version 1.0.1 in three bytes, the service in one, the body's length in
four) and a body:

- 2, OPEN_CONNECT: source, NUL, destination, NUL, QoS, key stream ID. Answer 3: status, and where the stream is open, or
  a counter-proposal is made, QoS and key stream ID.
- 4, GET_KEY: key stream ID, index, room for metadata. Answer 5: status; with 0 index, length of the chunk, chunk,
  length of the metadata, metadata; with 8 the room that the metadata needs.
- 8, CLOSE: key stream ID. Answer 9: status.

QoS are seven numbers (chunk size in bytes, max_bps, min_bps, jitter, priority, timeout in ms, TTL in s) and a MIME type
in 256 bytes, filled up with NUL. A key stream ID has 16 bytes, all other numbers have four.
"""

from __future__ import annotations

import struct
from dataclasses import astuple
from uuid import UUID

from qtunnel.drivers.etsi004_terms import Call, Got, MalformedError, Opened, Qos, Status
from qtunnel.secret import Secret

VERSION = (1, 0, 1)
HEADER = struct.Struct("!BBBbI")
QOS = struct.Struct("!7I256s")
NUMBER = struct.Struct("!I")
KSID_SIZE = 16
OPEN_SIZE = NUMBER.size + QOS.size + KSID_SIZE
GOT_SIZE = 4 * NUMBER.size
"""Bytes of a GET_KEY answer besides chunk and metadata."""

REQUESTS = {Call.OPEN_CONNECT: 2, Call.GET_KEY: 4, Call.CLOSE: 8}
ANSWERS = {Call.OPEN_CONNECT: 3, Call.GET_KEY: 5, Call.CLOSE: 9}

_WITH_STREAM = (Status.SUCCESSFUL, Status.PEER_NOT_CONNECTED, Status.QOS_NOT_MET)


class QubipFraming:
    """A ``Framing``."""

    header_size = HEADER.size

    def open_connect(self, source: str, destination: str, qos: Qos, ksid: UUID) -> bytes:
        uris = source.encode("ascii") + b"\0" + destination.encode("ascii") + b"\0"
        return _message(Call.OPEN_CONNECT, uris + pack_qos(qos) + ksid.bytes)

    def get_key(self, ksid: UUID, index: int, metadata_size: int) -> bytes:
        return _message(Call.GET_KEY, ksid.bytes + NUMBER.pack(index) + NUMBER.pack(metadata_size))

    def close(self, ksid: UUID) -> bytes:
        return _message(Call.CLOSE, ksid.bytes)

    def length(self, header: bytes | bytearray, call: Call, room: int) -> int:
        major, minor, patch, service, size = HEADER.unpack(header)
        if major != VERSION[0]:
            raise MalformedError(f"the answer is of version {major}.{minor}.{patch}, or of another protocol")
        if service != ANSWERS[call]:
            raise MalformedError(f"the answer is of service {service} where {ANSWERS[call]} is expected")
        most = {Call.OPEN_CONNECT: OPEN_SIZE, Call.GET_KEY: GOT_SIZE + room, Call.CLOSE: NUMBER.size}[call]
        if not NUMBER.size <= size <= most:
            raise MalformedError(f"the answer has {size} bytes where {NUMBER.size} to {most} are possible")
        return int(size)

    def opened(self, body: bytes | bytearray) -> Opened:
        status = _status(body)
        if len(body) == OPEN_SIZE:
            if status not in _WITH_STREAM:
                raise MalformedError(f"a key stream stands beside status {status}")
            qos = unpack_qos(bytes(body[NUMBER.size : NUMBER.size + QOS.size]))
            return Opened(status, qos, UUID(bytes=bytes(body[-KSID_SIZE:])))
        if len(body) != NUMBER.size or status == Status.SUCCESSFUL:
            raise MalformedError(f"{len(body)} bytes stand beside status {status}")
        return Opened(status)

    def got(self, body: bytes | bytearray) -> Got:
        status = _status(body)
        if status == Status.SUCCESSFUL:
            return _got(body)
        if status == Status.METADATA_TOO_SMALL and len(body) == 2 * NUMBER.size:
            return Got(status, needed=NUMBER.unpack_from(body, NUMBER.size)[0])
        if len(body) != NUMBER.size:
            raise MalformedError(f"{len(body)} bytes stand beside status {status}")
        return Got(status)

    def closed(self, body: bytes | bytearray) -> int:
        if len(body) != NUMBER.size:
            raise MalformedError(f"the answer has {len(body)} bytes where {NUMBER.size} are expected")
        return _status(body)


def pack_qos(qos: Qos) -> bytes:
    """The 284 bytes of a QoS; raises ``ValueError`` where a number or the MIME type does not fit."""
    *numbers, mimetype = astuple(qos)
    encoded = mimetype.encode("ascii")
    if len(encoded) > 255 or not all(0 <= number < 2**32 for number in numbers):
        raise ValueError("a number of the QoS has more than 32 bits, or its MIME type more than 255 characters")
    return QOS.pack(*numbers, encoded)


def unpack_qos(data: bytes) -> Qos:
    """A QoS of 284 bytes; raises ``MalformedError``."""
    chunk, most, least, jitter, priority, timeout, ttl, raw = QOS.unpack(data)
    mimetype, _, rest = raw.partition(b"\0")
    if rest.strip(b"\0") or not mimetype.isascii() or not mimetype.decode("ascii").isprintable():
        raise MalformedError("the MIME type of the metadata is not text that NUL fills up")
    return Qos(chunk, most, least, jitter, priority, timeout, ttl, mimetype.decode("ascii"))


def _message(call: Call, body: bytes) -> bytes:
    return HEADER.pack(*VERSION, REQUESTS[call], len(body)) + body


def _status(body: bytes | bytearray) -> int:
    if len(body) < NUMBER.size:
        raise MalformedError("the answer has no status")
    return int(NUMBER.unpack_from(body)[0])


def _got(body: bytes | bytearray) -> Got:
    if len(body) < GOT_SIZE:
        raise MalformedError(f"an answer with a chunk has {len(body)} bytes")
    _, index, size = struct.unpack_from("!III", body)
    if size > len(body) - GOT_SIZE:
        raise MalformedError(f"a chunk of {size} bytes stands in an answer of {len(body)}")
    start = 3 * NUMBER.size
    end = start + size
    (metadata_size,) = NUMBER.unpack_from(body, end)
    if metadata_size != len(body) - GOT_SIZE - size:
        raise MalformedError(f"a chunk of {size} bytes and metadata of {metadata_size} in an answer of {len(body)}")
    with memoryview(body) as view:  # so that the chunk is not copied on its way
        key = Secret(view[start:end])
        return Got(Status.SUCCESSFUL, index, key, bytes(view[end + NUMBER.size :]))
