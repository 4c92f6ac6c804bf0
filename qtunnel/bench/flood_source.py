"""Sends prepared UDP datagrams from many forged addresses at a steady rate.

Run as a file of its own by ``python -I -S flood_source.py ADDRESS PORT RATE SECONDS FILE [SOURCE]``; FILE holds the
payloads, each behind its length as u16, big-endian, which are sent in turns. Every packet has a source of its own in
10.128.0.0/9, or SOURCE and a port of its own. Needs CAP_NET_RAW. Prints ``ready``, and at the end a JSON object:
``sent``, ``seconds``. SIGTERM ends it early.

Packets are made beforehand and go to the kernel 32 at a time (sendmmsg(2)): the rate is the kernel's, not Python's.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import socket
import struct
import sys
import time
from pathlib import Path

IP = struct.Struct("!BBHHHBBH4s4s")
UDP = struct.Struct("!HHHH")
LENGTH = struct.Struct("!H")
SOURCES = 0x0A800000  # 10.128.0.0/9
PACKETS = 8192
"""Different packets: 10 MB, so that not everything comes from the processor's cache."""
AT_ONCE = 32
BEHIND = 0.02
"""Seconds of delay that are caught up with; more would be a burst, not a rate."""
MAX_PACKETS = 20_000_000
MAX_SECONDS = 600.0


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p), ("name_size", ctypes.c_uint32), ("vectors", ctypes.POINTER(_Vector)),
        ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]  # fmt: skip


class _Message(ctypes.Structure):
    _fields_ = [("header", _Header), ("sent", ctypes.c_uint)]


def payloads(data: bytes) -> list[bytes]:
    """What the file holds."""
    found, at = [], 0
    while at < len(data):
        (size,) = LENGTH.unpack_from(data, at)
        found.append(data[at + LENGTH.size : at + LENGTH.size + size])
        at += LENGTH.size + size
    return found


def packet(payload: bytes, target: bytes, port: int, source: int, source_port: int) -> bytes:
    """IPv4 and UDP around it, RFC 791 and 768; the kernel fills the header's checksum, and UDP has none."""
    size = UDP.size + len(payload)
    header = IP.pack(0x45, 0, IP.size + size, 0, 0, 64, socket.IPPROTO_UDP, 0, source.to_bytes(4, "big"), target)
    return header + UDP.pack(source_port, port, size, 0) + payload


def main(address: str, port: int, rate: float, seconds: float, file: str, source: str = "") -> None:
    rng = random.Random(1)  # noqa: S311  # forged addresses are no secret
    target = socket.inet_aton(address)
    bodies = payloads(Path(file).read_bytes())
    forged = int.from_bytes(socket.inet_aton(source), "big") if source else 0
    packets = [
        packet(
            bodies[number % len(bodies)], target, port, forged or SOURCES | rng.getrandbits(23),
            rng.randrange(1024, 65536),
        )
        for number in range(PACKETS)
    ]  # fmt: skip
    name = ctypes.create_string_buffer(struct.pack("=H", socket.AF_INET) + bytes(2) + target + bytes(8))
    buffers = [ctypes.create_string_buffer(one, len(one)) for one in packets]
    vectors = (_Vector * PACKETS)(*(_Vector(ctypes.addressof(one), len(one)) for one in buffers))
    messages = (_Message * PACKETS)()
    for number, message in enumerate(messages):
        message.header.name, message.header.name_size = ctypes.addressof(name), 16
        message.header.vectors, message.header.count = ctypes.pointer(vectors[number]), 1
    send = ctypes.CDLL(None, use_errno=True).sendmmsg
    ends: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ends.append(number))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        descriptor, size, base = sock.fileno(), ctypes.sizeof(_Message), ctypes.addressof(messages)
        print("ready", flush=True)
        start, sent, missed = time.monotonic(), 0, 0
        while not ends and sent < MAX_PACKETS:
            now = time.monotonic() - start
            if now >= min(seconds, MAX_SECONDS):
                break
            due = int(now * rate) - missed - sent
            if due < AT_ONCE:
                time.sleep(AT_ONCE / rate / 2)
                continue
            if due > rate * BEHIND + AT_ONCE:
                missed += due - int(rate * BEHIND)
            if send(descriptor, ctypes.c_void_p(base + sent % PACKETS * size), AT_ONCE, 0) < 0:
                number = ctypes.get_errno()
                sys.exit(f"sendmmsg: {os.strerror(number).lower()}")
            sent += AT_ONCE
        print(json.dumps({"sent": sent, "seconds": time.monotonic() - start}), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), *sys.argv[5:])
    except OSError as problem:
        sys.exit(f"flood: {(problem.strerror or str(problem)).lower()}")
