"""The four messages (white paper section 5.4) as tables: little-endian, the type in one byte and three zero bytes.

A message of another length, or with reserved bytes that are not zero, is no message.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

Bytes = bytes | bytearray | memoryview

TYPE_INITIATION: Final = 1
TYPE_RESPONSE: Final = 2
TYPE_COOKIE_REPLY: Final = 3
TYPE_DATA: Final = 4

MAC_SIZE: Final = 16
TAG_SIZE: Final = 16

INITIATION: Final = struct.Struct("<II32s48s28s16s16s")
RESPONSE: Final = struct.Struct("<III32s16s16s16s")
COOKIE_REPLY: Final = struct.Struct("<II24s32s")
DATA_HEADER: Final = struct.Struct("<IIQ")
"""type, receiver index, counter; then the sealed packet."""

MIN_DATA_SIZE: Final = DATA_HEADER.size + TAG_SIZE
"""Bytes of a keepalive, the smallest data message."""


class MessageError(Exception):
    """Bytes that are not a message of the type they claim."""


def message_type(data: Bytes) -> int:
    """The type word of a datagram, 0 where it is too short to have one."""
    return int.from_bytes(data[:4], "little") if len(data) >= 4 else 0


def _unpack(layout: struct.Struct, kind: int, data: Bytes) -> tuple[int | bytes, ...]:
    if len(data) != layout.size:
        raise MessageError(f"message type {kind} has {layout.size} bytes, not {len(data)}")
    fields = layout.unpack(data)
    if fields[0] != kind:
        raise MessageError(f"type {fields[0]} where {kind} is expected")
    return fields[1:]


@dataclass(frozen=True, slots=True)
class Initiation:
    """First message, 148 bytes; ``static`` and ``timestamp`` are sealed."""

    sender: int
    ephemeral: bytes
    static: bytes
    timestamp: bytes
    mac1: bytes = bytes(MAC_SIZE)
    mac2: bytes = bytes(MAC_SIZE)

    def pack(self) -> bytes:
        return INITIATION.pack(
            TYPE_INITIATION, self.sender, self.ephemeral, self.static, self.timestamp, self.mac1, self.mac2
        )

    @classmethod
    def unpack(cls, data: Bytes) -> Self:
        return cls(*_unpack(INITIATION, TYPE_INITIATION, data))  # type: ignore[arg-type]  # the layout gives the types


@dataclass(frozen=True, slots=True)
class Response:
    """Second message, 92 bytes; ``empty`` is the tag of an empty payload."""

    sender: int
    receiver: int
    ephemeral: bytes
    empty: bytes
    mac1: bytes = bytes(MAC_SIZE)
    mac2: bytes = bytes(MAC_SIZE)

    def pack(self) -> bytes:
        return RESPONSE.pack(
            TYPE_RESPONSE, self.sender, self.receiver, self.ephemeral, self.empty, self.mac1, self.mac2
        )

    @classmethod
    def unpack(cls, data: Bytes) -> Self:
        return cls(*_unpack(RESPONSE, TYPE_RESPONSE, data))  # type: ignore[arg-type]  # the layout gives the types


@dataclass(frozen=True, slots=True)
class CookieReply:
    """The answer under load, 64 bytes: a cookie sealed for whoever sent the message it answers."""

    receiver: int
    nonce: bytes
    cookie: bytes

    def pack(self) -> bytes:
        return COOKIE_REPLY.pack(TYPE_COOKIE_REPLY, self.receiver, self.nonce, self.cookie)

    @classmethod
    def unpack(cls, data: Bytes) -> Self:
        return cls(*_unpack(COOKIE_REPLY, TYPE_COOKIE_REPLY, data))  # type: ignore[arg-type]  # the layout gives the types
