"""What the engine and a worker say to each other, each message one datagram of a SOCK_SEQPACKET pair; little-endian.

Bursts themselves lie in memory that both have: SLOTS places of each worker, with room for what goes in and what comes
out. A worker takes its messages in order.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from qtunnel.wireguard.session import RECORD_SUITES

SLOTS: Final = 4
"""Bursts that one worker has at once: one in work, one that waits for it, two that wait for their turn to go on."""

IN_SIZE: Final = 98_304
"""Bytes of what is handed out: 64 datagrams of 1,500 bytes, a record's items, a super-packet with its vnet header."""

OUT_SIZE: Final = 131_072
"""Bytes of what comes of it: a record has MAX_BUFFER, 81,920, and with parity at most half as much again."""

SLOT_SIZE: Final = IN_SIZE + OUT_SIZE
REGION: Final = SLOTS * SLOT_SIZE
"""Bytes of memory of one worker."""

KEY_SIZE: Final = 32
MAX_MESSAGE: Final = 4096


class Kind(IntEnum):
    """The first byte of a message to a worker."""

    SESSION = 1
    FORGET = 2
    SEAL_RUN = 3
    OPEN_RUN = 4
    SEAL_RECORD = 5
    OPEN_RECORD = 6


class Status(IntEnum):
    """The first byte of an answer."""

    DONE = 1
    ODD = 2
    """Not what a worker can do; the engine has to look at it itself."""
    BROKEN = 3
    """The same, and nobody thought of it; behind it in ASCII the name of the exception that it made."""
    FAILED = 4
    """The worker ends; behind it in ASCII the name of the exception that it met."""


class Task(NamedTuple):
    """A burst to work on.

    slot: where it lies; length: its bytes. session: local index. size: bytes of a datagram but the last. counter: of
    the first message, or of the record. remote: receiver index of the peer. mtu: of the tunnel, to pad to. parity: 1
    for a record with a parity datagram.
    """

    kind: int
    slot: int = 0
    length: int = 0
    session: int = 0
    size: int = 0
    counter: int = 0
    remote: int = 0
    mtu: int = 0
    parity: int = 0


NOTHING_MISSING: Final = 255


class Result(NamedTuple):
    """What became of it.

    length: bytes of what came out. size: of each datagram of it but the last, or of all that a record came in.
    messages: how many, or the fragments of a record. counter: of the first message, or of the record. missing: the
    fragment of a record that was healed. Behind it, for OPEN_RUN, the length in bytes of each write that the packets
    make, one after the other in the slot.
    """

    status: int
    slot: int
    length: int = 0
    size: int = 0
    messages: int = 0
    counter: int = 0
    missing: int = NOTHING_MISSING


TASK: Final = struct.Struct("<BBIIIQIIB")
RESULT: Final = struct.Struct("<BBIIIQB")
SESSION: Final = struct.Struct("<BIB")
"""kind, local index, and which suite of RECORD_SUITES, from 1 on; behind it the keys for sending and receiving, then
those of the records where there is a suite."""

FORGET: Final = struct.Struct("<BI")
WRITE: Final = struct.Struct("<I")

SUITES: Final = tuple(RECORD_SUITES)


def slot_places(slot: int) -> tuple[int, int]:
    """Where in its region the place of ``slot`` begins, and where the room for what comes out."""
    start = slot * SLOT_SIZE
    return start, start + IN_SIZE
