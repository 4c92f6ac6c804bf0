"""What a KME reads and writes of ETSI GS QKD 004 v2.1.1, in the framing of the QUBIP project (docs/sources/etsi004.md).

Pure. Of a request all bytes have to be there, and none more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from uuid import UUID

VERSION = (1, 0, 1)
HEADER = struct.Struct("!BBBbI")
_QOS = struct.Struct("!7I256s")
_NUMBER = struct.Struct("!I")
_GET = struct.Struct("!16sII")

MAX_BODY = 4096
"""Bytes of a request: two URIs of 1 kB, QoS, a stream."""


class Service(IntEnum):
    OPEN_CONNECT = 2
    GET_KEY = 4
    CLOSE = 8


class Status(IntEnum):
    """The status codes (clause 6)."""

    SUCCESSFUL = 0
    PEER_NOT_CONNECTED = 1
    INSUFFICIENT_KEY = 2
    PEER_NOT_YET_CONNECTED = 3
    NO_QKD_CONNECTION = 4
    KSID_IN_USE = 5
    QOS_NOT_MET = 7
    METADATA_TOO_SMALL = 8


class MalformedError(ValueError):
    """A request that is not of the framing."""


@dataclass(frozen=True, slots=True)
class Qos:
    """chunk: bytes at one index; ttl: seconds that a key waits for the other end; rest: as it came."""

    chunk: int
    ttl: int
    rest: tuple[int, int, int, int, int]
    mimetype: bytes

    def pack(self) -> bytes:
        return _QOS.pack(self.chunk, *self.rest, self.ttl, self.mimetype)

    def within(self, least: int, most: int, ttl: int) -> Qos:
        """The nearest that a KME has: chunks of ``least`` to ``most`` bytes, at most ``ttl``."""
        return replace(self, chunk=min(max(self.chunk, least), most), ttl=min(self.ttl, ttl))


@dataclass(frozen=True, slots=True)
class Open:
    source: str
    destination: str
    qos: Qos
    ksid: UUID


@dataclass(frozen=True, slots=True)
class Get:
    """room: bytes of metadata that the caller takes."""

    ksid: UUID
    index: int
    room: int


def header(data: bytes) -> tuple[Service, int]:
    """Service and length of the body; raises ``MalformedError``."""
    *version, service, size = HEADER.unpack(data)
    if version[0] != VERSION[0] or size > MAX_BODY:
        raise MalformedError
    try:
        return Service(service), size
    except ValueError:
        raise MalformedError from None


def parse_open(body: bytes) -> Open:
    try:
        source, destination, rest = body.split(b"\0", 2)
        if len(rest) != _QOS.size + 16:
            raise MalformedError
        chunk, *others, ttl, mimetype = _QOS.unpack(rest[: _QOS.size])
        qos = Qos(chunk, ttl, (others[0], others[1], others[2], others[3], others[4]), mimetype)
        return Open(source.decode("ascii"), destination.decode("ascii"), qos, UUID(bytes=rest[-16:]))
    except ValueError:
        raise MalformedError from None


def parse_get(body: bytes) -> Get:
    try:
        ksid, index, room = _GET.unpack(body)
    except struct.error:
        raise MalformedError from None
    return Get(UUID(bytes=ksid), index, room)


def parse_close(body: bytes) -> UUID:
    if len(body) != 16:
        raise MalformedError
    return UUID(bytes=body)


def answer(service: Service, body: bytes) -> bytes:
    return HEADER.pack(*VERSION, service + 1, len(body)) + body


def status(code: Status) -> bytes:
    return _NUMBER.pack(code)


def opened(code: Status, qos: Qos, ksid: UUID) -> bytes:
    return _NUMBER.pack(code) + qos.pack() + ksid.bytes


def metadata_needs(size: int) -> bytes:
    return _NUMBER.pack(Status.METADATA_TOO_SMALL) + _NUMBER.pack(size)


def got(index: int, chunk: memoryview, metadata: bytes) -> bytearray:
    """With the key in it: to be wiped by whoever sends it."""
    body = bytearray(struct.pack("!III", Status.SUCCESSFUL, index, len(chunk)))
    body += chunk
    body += _NUMBER.pack(len(metadata)) + metadata
    return body
