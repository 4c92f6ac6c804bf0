"""Datagrams of the handshake: a message cut to at most 1,232 bytes each, every one with a mac1 of its own.

1,232 bytes are what passes every IPv6 path without fragmentation (1,280 less IPv6 and UDP headers).
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import IntEnum

from qtunnel.crypto.kdf import Label, sha512
from qtunnel.errors import HandshakeError

VERSION = 2
MAX_DATAGRAM = 1232
EXCHANGE_ID_SIZE = 16
MAC_SIZE = 16
_HEADER = struct.Struct("!BBHBBH16s")  # type, version, suite, fragment, fragments, message length, exchange id
OVERHEAD = _HEADER.size + 2 * MAC_SIZE
MAX_PAYLOAD = MAX_DATAGRAM - OVERHEAD
NO_COOKIE = bytes(MAC_SIZE)
"""mac2 of who has no cookie."""
MAX_MESSAGE = 65535
"""Bytes, as the header has 16 bits for them."""
MAX_FRAGMENTS = -(-MAX_MESSAGE // MAX_PAYLOAD)
"""56: more than FrodoKEM-1344, the largest KEM whose keys are sent, needs beside ML-KEM-1024."""
FEW_FRAGMENTS = 8
"""9 kB: what the longest messages of the numbered suites take; more is kept only of a suite that a peer here has."""

PARTIALS_PER_SOURCE = 4
"""A peer has one exchange each way and one that is being replaced."""
PARTIALS = 1024
"""All sources together, enough for 1,000 peers that start at once."""
PARTIAL_BYTES = PARTIALS * FEW_FRAGMENTS * MAX_PAYLOAD
"""9.6 MB for all that is held of them: as many whole messages of the numbered suites."""
PARTIAL_LIFETIME = 10.0
"""Seconds. Longer than the largest delay between two retransmissions, so that fragments of both add up."""


class MessageType(IntEnum):
    """The four messages. The numbers are those of the wire."""

    INIT = 1
    RESPONSE = 2
    COMMIT = 3
    COMMITTED = 4


_TYPES = {one.value: one for one in MessageType}


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message, put together again."""

    type: MessageType
    suite: int
    exchange: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Fragment:
    """One datagram, checked as far as it can be alone."""

    type: MessageType
    suite: int
    exchange: bytes
    index: int
    count: int
    length: int
    payload: bytes


def mac1_key(identity_id: bytes) -> bytes:
    """The key of mac1 towards the owner of that identity: 32 bytes that everybody who knows the identity can make."""
    return sha512(Label.HANDSHAKE_MAC1.value, identity_id)[:32]


def mac(key: bytes, data: bytes | bytearray | memoryview) -> bytes:
    """The MAC of mac1, mac2 and cookies: HMAC-SHA-512, the first 16 bytes."""
    return hmac.digest(key, data, "sha512")[:MAC_SIZE]


def cut(message: Message, key: bytes) -> list[bytes]:
    """The datagrams of a message, with mac1 under the receiver's ``mac1_key`` and mac2 zero."""
    count = max(1, -(-len(message.body) // MAX_PAYLOAD))
    if len(message.body) > MAX_MESSAGE:
        raise ValueError(f"a message has at most {MAX_MESSAGE} bytes, not {len(message.body)}")
    datagrams = []
    for index in range(count):
        header = _HEADER.pack(message.type, VERSION, message.suite, index, count, len(message.body), message.exchange)
        data = header + message.body[index * MAX_PAYLOAD : (index + 1) * MAX_PAYLOAD]
        datagrams.append(data + mac(key, data) + NO_COOKIE)
    return datagrams


def parse(datagram: bytes, key: bytes, known: Callable[[MessageType, bytes], bool] | None = None) -> Fragment:
    """One fragment whose mac1 is right under our own ``mac1_key``; raises ``HandshakeError``.

    What costs least comes first, as most of a flood ends there: sizes and numbers against each other, then whether the
    exchange is one of ours (``known``, for all but first messages), then mac1. None of it gets an answer, so a scanner
    learns nothing.
    """
    size = len(datagram)
    if not OVERHEAD < size <= MAX_DATAGRAM:
        raise HandshakeError("malformed", "not the size of a datagram of the handshake")
    kind, version, suite, index, count, length, exchange = _HEADER.unpack_from(datagram)
    if index >= count or count != -(-length // MAX_PAYLOAD):  # so count is at most MAX_FRAGMENTS
        raise HandshakeError("malformed", "fragment numbers that do not fit each other, the length or the size")
    end = size - 2 * MAC_SIZE
    if end - _HEADER.size != (MAX_PAYLOAD if index < count - 1 else length - (count - 1) * MAX_PAYLOAD):
        raise HandshakeError("malformed", "fragment numbers that do not fit each other, the length or the size")
    type_ = _TYPES.get(kind)
    if type_ is None:
        raise HandshakeError("malformed", "unknown message type")
    if known is not None and type_ is not MessageType.INIT and not known(type_, exchange):
        raise HandshakeError("exchange", "belongs to no exchange that is under way")
    if not hmac.compare_digest(mac(key, datagram[:end]), datagram[end : end + MAC_SIZE]):
        raise HandshakeError("mac1", "not made for this gateway's identity")
    if version != VERSION:
        raise HandshakeError("version", f"peer speaks version {version} of the handshake, this is {VERSION}")
    return Fragment(type_, suite, exchange, index, count, length, datagram[_HEADER.size : end])


@dataclass(slots=True)
class _Partial:
    started: float
    shape: tuple[int, int, int]
    pieces: dict[int, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces.values()))


class Reassembler:
    """Puts messages together; bounded per source address and in all, the oldest goes first."""

    def __init__(self) -> None:
        self._partials: dict[tuple[Hashable, bytes, int], _Partial] = {}
        self._by_source: dict[Hashable, list[tuple[Hashable, bytes, int]]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._partials)

    def add(self, source: Hashable, fragment: Fragment, now: float) -> Message | None:
        """The whole message when this was its last missing piece. now: monotonic seconds."""
        if fragment.count == 1:
            return Message(fragment.type, fragment.suite, fragment.exchange, fragment.payload)
        self._expire(now)
        key = (source, fragment.exchange, int(fragment.type))
        shape = (fragment.suite, fragment.count, fragment.length)
        partial = self._partials.get(key)
        if partial is not None and partial.shape != shape:
            # One of the two is forged, nobody knows which: start again from the newest.
            self._drop(key)
            partial = None
        if partial is None:
            partial = self._make_room(key, now, shape)
        held = partial.pieces.get(fragment.index)
        if held is None or held != fragment.payload:
            if held is not None:
                # Somebody's fragment is forged, nobody knows whose: start again from the newest.
                self._bytes -= partial.size
                partial.pieces.clear()
            partial.pieces[fragment.index] = fragment.payload
            self._bytes += len(fragment.payload)
        if len(partial.pieces) < fragment.count:
            while self._bytes > PARTIAL_BYTES:
                self._drop(next(iter(self._partials)))
            return None
        self._drop(key)
        body = b"".join(partial.pieces[index] for index in range(fragment.count))
        return Message(fragment.type, fragment.suite, fragment.exchange, body)

    def _make_room(self, key: tuple[Hashable, bytes, int], now: float, shape: tuple[int, int, int]) -> _Partial:
        mine = self._by_source.get(key[0], [])
        if len(mine) >= PARTIALS_PER_SOURCE:
            self._drop(mine[0])
        if len(self._partials) >= PARTIALS:
            self._drop(next(iter(self._partials)))
        partial = self._partials[key] = _Partial(now, shape)
        self._by_source.setdefault(key[0], []).append(key)
        return partial

    def _drop(self, key: tuple[Hashable, bytes, int]) -> None:
        self._bytes -= self._partials.pop(key).size
        mine = self._by_source[key[0]]
        mine.remove(key)
        if not mine:
            del self._by_source[key[0]]

    def _expire(self, now: float) -> None:
        # Insertion order is age, so the first that is young enough ends the search.
        while self._partials:
            key = next(iter(self._partials))
            if now - self._partials[key].started <= PARTIAL_LIFETIME:
                break
            self._drop(key)
