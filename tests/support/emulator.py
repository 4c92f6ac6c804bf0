"""A link between two network namespaces that loses, delays, reorders, duplicates, corrupts and cuts what it is told.

Run as a file of its own by ``python -I -S emulator.py SEED NETNS INTERFACE NETNS INTERFACE``: makes a TAP in each of
the namespaces, prints ``{}`` and carries frames between the two until standard input ends. netem would do this in the
kernel, but not every kernel has it. A line on standard input is a JSON object of ``Impairment``'s fields; its answer is
a line with what became of the frames since the one before. ARP is only ever cut.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from dataclasses import asdict, dataclass, field

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000  # linux/sched.h
LARGEST = 65536
ETHERNET, IPV4, UDP = 14, b"\x08\x00", 17
QUEUE = 0.1
"""Seconds of the rate that wait at most; what is beyond is dropped, as in a router's queue."""


@dataclass
class Impairment:
    """Shares of the frames from 0 to 1; late_s: at most how long a reordered one is held back; delay_s: of all; rate:
    bits per second in each direction, 0 for any."""

    lose: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    late_s: float = 0.02
    delay_s: float = 0.0
    rate: float = 0.0
    cut: bool = False


@dataclass
class Fate:
    """How many frames went which way."""

    passed: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0
    queue_full: int = 0
    cut: int = 0


def open_tap(namespace: str, interface: str) -> int:
    """Of that name, in that namespace, which this process is in from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(place, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(place)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", interface.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def corrupted(frame: bytes, at: float) -> bytes:
    """A bit of the payload is another; where it is UDP, the checksum says that it has none (RFC 768), or the kernel
    would drop what an attacker would not let it drop. at: 0 <= at < 1, where."""
    changed = bytearray(frame)
    header = (frame[ETHERNET] & 15) * 4
    begin = ETHERNET + header + 8
    if begin >= len(frame):
        return frame
    changed[begin + int(at * (len(frame) - begin))] ^= 1 << int(at * 1000) % 8
    if frame[ETHERNET + 9] == UDP:
        changed[begin - 2 : begin] = b"\0\0"
    return bytes(changed)


@dataclass
class Emulator:
    """Two TAPs, each the other's way out."""

    taps: tuple[int, int]
    chance: random.Random
    now: Impairment = field(default_factory=Impairment)
    fate: Fate = field(default_factory=Fate)
    _waiting: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    _number: int = 0
    _free: dict[int, float] = field(default_factory=dict)

    def obey(self, line: str) -> str:
        self.now, before = Impairment(**json.loads(line)), self.fate
        self.fate = Fate()
        return json.dumps(asdict(before))

    def run(self) -> None:
        left, right = self.taps
        other = {left: right, right: left}
        commands = sys.stdin.fileno()
        while True:
            wait = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            ready, _, _ = select.select([left, right, commands], [], [], wait)
            for tap in ready:
                if tap != commands:
                    self._carry(tap, other[tap])
                    continue
                line = sys.stdin.readline()
                if not line:
                    return
                print(self.obey(line), flush=True)
            present = time.monotonic()
            while self._waiting and self._waiting[0][0] <= present:
                _, _, tap, frame = heapq.heappop(self._waiting)
                write(tap, frame)

    def _carry(self, tap: int, out: int) -> None:
        for _ in range(64):
            try:
                frame = os.read(tap, LARGEST)
            except (BlockingIOError, OSError):
                return
            self.take(frame, out)

    def take(self, frame: bytes, out: int) -> None:
        """One frame on its way to ``out``."""
        now, fate, chance = self.now, self.fate, self.chance.random
        if now.cut:
            fate.cut += 1
            return
        if frame[12:14] != IPV4:
            write(out, frame)
            return
        if now.lose and chance() < now.lose:
            fate.lost += 1
            return
        if now.corrupt and chance() < now.corrupt:
            fate.corrupted += 1
            frame = corrupted(frame, chance())
        due = present = time.monotonic()
        if now.rate:
            free = max(present, self._free.get(out, 0.0))
            if free - present > QUEUE:
                fate.queue_full += 1
                return
            due = self._free[out] = free + len(frame) * 8 / now.rate
        due += now.delay_s
        if now.reorder and chance() < now.reorder:
            fate.reordered += 1
            due += now.late_s * chance()
        fate.passed += 1
        self._send(out, frame, due, present)
        if now.duplicate and chance() < now.duplicate:
            fate.duplicated += 1
            self._send(out, frame, due + 0.01 * chance(), present)

    def _send(self, out: int, frame: bytes, due: float, present: float) -> None:
        if due <= present and not self._waiting:
            write(out, frame)
            return
        self._number += 1
        heapq.heappush(self._waiting, (due, self._number, out, frame))


def write(tap: int, frame: bytes) -> None:
    try:
        os.write(tap, frame)
    except OSError:
        return  # a link that is down: dropped, as by a cable


if __name__ == "__main__":
    ends = list(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    (first, second) = [open_tap(name, interface) for name, interface in ends]
    print("{}", flush=True)
    Emulator((first, second), random.Random(int(sys.argv[1]))).run()
