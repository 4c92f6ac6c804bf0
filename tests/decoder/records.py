"""Section 10 of docs/protocol.md: datagrams of record mode, and what is in a record."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tests.decoder.contents import MalformedError

TYPE, PARITY, HEADER = 5, 255, 16
LEAST, MOST, IN_ALL = 1040, 40960, 81920
AEADS = ("aes-256-gcm", "chacha20-poly1305")
CONTROL, KINDS = 255, {1: "report", 2: "question"}
GSO = {0: "", 1: "tcpv4", 4: "tcpv6", 5: "udp_l4"}


@dataclass(frozen=True)
class Fragment:
    """Section 10.2: a datagram, with its header."""

    number: int
    count: int
    receiver: int
    counter: int
    last: int
    content: bytes

    @staticmethod
    def read(content: bytes) -> Fragment:
        number, count, reserved, receiver, low, high, last = struct.unpack_from("<xBBBIIHH", content)
        if not 1 <= count <= 64 or (number >= count and number != PARITY) or reserved or last <= HEADER:
            raise MalformedError(f"datagram {number} of a record of {count}")
        return Fragment(number, count, receiver, low | high << 32, last, content)


@dataclass(frozen=True)
class Packet:
    """A packet item: its virtio_net_hdr's fields that tell of segments, and the IP packet."""

    gso: str
    ecn: bool
    segment: int
    content: bytes


@dataclass(frozen=True)
class Control:
    """Section 10.3: next, expected, received, delivered, spoiled."""

    kind: str
    numbers: Sequence[int]


@dataclass
class Record:
    """A record that was opened; ``healed`` where a fragment had to be made of the parity."""

    counter: int
    aead: str
    fragments: int
    items: list[Packet | Control]
    healed: bool
    parity: bool = False
    """Whether its parity came, and was that of its fragments."""


@dataclass
class _Held:
    pieces: dict[int, bytes] = field(default_factory=dict)
    opened: Record | None = None


Cipher = AESGCM | ChaCha20Poly1305


class Records:
    """Puts fragments together, and opens what is whole."""

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], _Held] = {}

    @property
    def incomplete(self) -> int:
        """Records of which something came, but not enough."""
        return sum(held.opened is None for held in self._held.values())

    def feed(self, source: object, fragment: Fragment, ciphers: Mapping[str, Cipher]) -> Record | None:
        """The record, with the datagram that makes it whole."""
        key = (source, fragment.receiver, fragment.counter, fragment.count, fragment.last)
        held = self._held.setdefault(key, _Held())
        held.pieces[fragment.number] = fragment.content
        if held.opened is not None:
            if fragment.number == PARITY:
                held.opened.parity = _parity(fragment, held.pieces) == fragment.content[HEADER:]
                if not held.opened.parity:
                    raise MalformedError("a parity that is not that of its fragments")
            return None
        missing = [number for number in range(fragment.count) if number not in held.pieces]
        if len(missing) > (PARITY in held.pieces):
            return None
        if missing:
            held.pieces[missing[0]] = _healed(fragment, held.pieces, missing[0])
        plain, aead = _opened(fragment, held.pieces, ciphers)
        held.opened = Record(fragment.counter, aead, fragment.count, read_items(plain), bool(missing))
        return held.opened


def _size(fragment: Fragment, pieces: Mapping[int, bytes]) -> int:
    """D, as all datagrams but the last have it, and the parity."""
    sizes = {len(content) for number, content in pieces.items() if number != fragment.count - 1 or fragment.count == 1}
    size = sizes.pop() if len(sizes) == 1 else 0
    most = size > MOST or size * fragment.count > IN_ALL
    if most or (fragment.count > 1 and (size % 8 or size < LEAST)) or fragment.last > size:
        raise MalformedError("datagrams of a record do not have the sizes that they may have")
    if len(pieces.get(fragment.count - 1, bytes(size))) not in (size, fragment.last):
        raise MalformedError("the last datagram of a record has another size")
    return size


def _parity(fragment: Fragment, pieces: Mapping[int, bytes]) -> bytes:
    size = _size(fragment, pieces)
    total = 0
    for number in range(fragment.count):
        if number in pieces:
            total ^= int.from_bytes(pieces[number].ljust(size, b"\x00")[HEADER:], "big")
    return total.to_bytes(size - HEADER, "big")


def _healed(fragment: Fragment, pieces: Mapping[int, bytes], missing: int) -> bytes:
    others = int.from_bytes(_parity(fragment, pieces), "big") ^ int.from_bytes(pieces[PARITY][HEADER:], "big")
    size = _size(fragment, pieces)
    return bytes(HEADER) + others.to_bytes(size - HEADER, "big")


def _opened(fragment: Fragment, pieces: Mapping[int, bytes], ciphers: Mapping[str, Cipher]) -> tuple[bytes, str]:
    size, count = _size(fragment, pieces), fragment.count
    last = pieces[count - 1]
    if any(last[fragment.last :]):
        raise MalformedError("the last datagram of a record is filled up with something else than zeros")
    body = bytearray(b"".join(pieces[number] for number in range(count - 1)) + last[: fragment.last])
    for at in range(1, count):
        body[at * size : at * size + HEADER] = body[at * HEADER : (at + 1) * HEADER]
    nonce = bytes(4) + struct.pack("<Q", fragment.counter)
    for aead, cipher in ciphers.items():
        try:
            return cipher.decrypt(nonce, bytes(body[HEADER * count :]), b""), aead
        except InvalidTag:
            continue
    raise MalformedError("a record that is not authentic")


def read_items(plain: bytes) -> list[Packet | Control]:
    """Section 10.3."""
    items: list[Packet | Control] = []
    while plain:
        if plain[0] == CONTROL:
            kind, size = struct.unpack_from("<xBH", plain)
            if kind in KINDS:
                items.append(Control(KINDS[kind], struct.unpack_from("<5Q", plain, 4)))
            plain = plain[4 + size :]
            continue
        flags, gso, _, segment = struct.unpack_from("<BBHH", plain)
        if flags & ~3 or gso & 0x7F not in GSO:
            raise MalformedError("a packet with a header of virtio that may not be")
        packet = plain[10:]
        if packet[0] >> 4 == 4:
            size = int.from_bytes(packet[2:4], "big")
        elif packet[0] >> 4 == 6:
            size = 40 + int.from_bytes(packet[4:6], "big")
        else:
            raise MalformedError("an item that is no IP packet")
        if len(packet) < size:
            raise MalformedError("a packet that is longer than its record")
        items.append(Packet(GSO[gso & 0x7F], bool(gso & 0x80), segment, packet[:size]))
        plain = packet[size:]
    return items
