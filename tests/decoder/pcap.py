"""UDP datagrams out of a capture file of tcpdump (pcap, libpcap's savefile format, not pcapng)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = {b"\xd4\xc3\xb2\xa1": ("<", 1e-6), b"\xa1\xb2\xc3\xd4": (">", 1e-6), b"\x4d\x3c\xb2\xa1": ("<", 1e-9)}
"""First bytes: order of the bytes, and what a step of the second field of a time is worth in seconds."""
ETHERNET, RAW = 1, 101
"""Link types: a header of 14 bytes with the protocol at its end; an IP packet without any."""
UDP = 17


class CaptureError(Exception):
    """The file is no capture that this reads."""


@dataclass(frozen=True)
class Datagram:
    """A UDP datagram: ``time`` in seconds since 1970, ends as (address, port)."""

    time: float
    source: tuple[str, int]
    target: tuple[str, int]
    payload: bytes


def read_capture(path: Path) -> list[Datagram]:
    """All UDP datagrams of the file, in its order; CaptureError where one is cut short or in IP fragments."""
    content = path.read_bytes()
    if content[:4] not in MAGIC or len(content) < 24:
        raise CaptureError(f"{path} is no pcap file")
    order, unit = MAGIC[content[:4]]
    link = struct.unpack_from(order + "I", content, 20)[0] & 0xFFFF
    if link not in (ETHERNET, RAW):
        raise CaptureError(f"{path} has link type {link}: capture on one interface, not on `any`")
    return [found for time, frame in _frames(content, order, unit) for found in _datagrams(time, frame, link)]


def _frames(content: bytes, order: str, unit: float) -> Iterator[tuple[float, bytes]]:
    at = 24
    while at < len(content):
        seconds, parts, kept, size = struct.unpack_from(order + "IIII", content, at)
        if kept != size:
            raise CaptureError(f"a packet of {size} bytes was kept in part: capture with -s 0")
        yield seconds + parts * unit, content[at + 16 : at + 16 + kept]
        at += 16 + kept


def _datagrams(time: float, frame: bytes, link: int) -> Iterator[Datagram]:
    if link == ETHERNET:
        if frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
            return
        frame = frame[14:]
    found = inner(frame)
    if found is not None and found[0] == UDP:
        _, source, target, segment = found
        ports = struct.unpack_from(">HHH", segment)
        yield Datagram(time, (source, ports[0]), (target, ports[1]), segment[8 : ports[2]])


def inner(packet: bytes) -> tuple[int, str, str, bytes] | None:
    """Protocol, source, target and what follows the header of an IP packet; None where it is none."""
    if packet and packet[0] >> 4 == 4:
        size, fragment = struct.unpack_from(">H2xH", packet, 2)
        if fragment & 0x3FFF:
            raise CaptureError("a packet is in IP fragments")
        source, target = (str(ipaddress.IPv4Address(packet[at : at + 4])) for at in (12, 16))
        return packet[9], source, target, packet[4 * (packet[0] & 15) : size]
    if packet and packet[0] >> 4 == 6:
        source, target = (str(ipaddress.IPv6Address(packet[at : at + 16])) for at in (8, 24))
        return packet[6], source, target, packet[40 : 40 + int.from_bytes(packet[4:6], "big")]
    return None
