"""The terms of ETSI GS QKD 004 v2.1.1: status codes, QoS, answers of its three calls; and what a framing has to do.

The standard leaves open how calls cross the network. A ``Framing`` is one way; etsi004_qubip.py is the first. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Protocol
from uuid import UUID

from qtunnel.secret import Secret

MAX_INDEX = 2**32 - 1
"""Indexes are unsigned numbers of 32 bits (clause 6)."""

NULL_KSID = UUID(int=0)
"""In OPEN_CONNECT it asks the KME for a key stream ID of its own making (clause 6)."""


class Call(Enum):
    """The three functions of the interface (clause 6)."""

    OPEN_CONNECT = "OPEN_CONNECT"
    GET_KEY = "GET_KEY"
    CLOSE = "CLOSE"


class Status(IntEnum):
    """The status codes (clause 6)."""

    SUCCESSFUL = 0
    PEER_NOT_CONNECTED = 1
    INSUFFICIENT_KEY = 2
    PEER_NOT_YET_CONNECTED = 3
    NO_QKD_CONNECTION = 4
    KSID_IN_USE = 5
    TIMEOUT = 6
    QOS_NOT_MET = 7
    METADATA_TOO_SMALL = 8

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    Status.SUCCESSFUL: "successful",
    Status.PEER_NOT_CONNECTED: "connected, but the peer is not",
    Status.INSUFFICIENT_KEY: "not enough key available",
    Status.PEER_NOT_YET_CONNECTED: "the peer has not connected to this key stream yet",
    Status.NO_QKD_CONNECTION: "no QKD connection available",
    Status.KSID_IN_USE: "the key stream ID is in use already",
    Status.TIMEOUT: "the KME's own timeout was over",
    Status.QOS_NOT_MET: "the QoS asked for cannot be met",
    Status.METADATA_TOO_SMALL: "more metadata than was asked for",
}


@dataclass(frozen=True, slots=True)
class Qos:
    """What OPEN_CONNECT asks for, and what it answers with (clause 6).

    key_chunk_size: bytes of the chunk at one index. max_bps, min_bps, jitter: bits per second. priority: of this stream
    among those of the KME. timeout: milliseconds that the KME may take for a call. ttl: seconds that a key waits for
    the other end. metadata_mimetype: in which form metadata is wanted.
    """

    key_chunk_size: int
    max_bps: int
    min_bps: int
    jitter: int
    priority: int
    timeout: int
    ttl: int
    metadata_mimetype: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to OPEN_CONNECT. qos, ksid: ``None`` where it has a status alone."""

    status: int
    qos: Qos | None = None
    ksid: UUID | None = None


@dataclass(frozen=True, slots=True)
class Got:
    """The answer to GET_KEY. key: ``None`` where there is none. needed: bytes of metadata, where status 8 tells."""

    status: int
    index: int | None = None
    key: Secret | None = None
    metadata: bytes = b""
    needed: int | None = None


class MalformedError(ValueError):
    """An answer that is not of the framing. Says in words what is wrong, and quotes nothing."""


class Framing(Protocol):
    """How calls and answers look on a connection, on which one answer follows one request.

    Requests come out as bytes. Of an answer ``header_size`` bytes are read first; ``length`` tells from them how many
    follow, and refuses more than ``room`` bytes of key and metadata before any is read. ``opened``, ``got`` and
    ``closed`` parse what follows, of exactly that length. They raise ``MalformedError`` and keep nothing.
    """

    header_size: int

    def open_connect(self, source: str, destination: str, qos: Qos, ksid: UUID) -> bytes: ...

    def get_key(self, ksid: UUID, index: int, metadata_size: int) -> bytes: ...

    def close(self, ksid: UUID) -> bytes: ...

    def length(self, header: bytes | bytearray, call: Call, room: int) -> int: ...

    def opened(self, body: bytes | bytearray) -> Opened: ...

    def got(self, body: bytes | bytearray) -> Got: ...

    def closed(self, body: bytes | bytearray) -> int: ...
