"""Holds back every packet that is routed into a TUN device, and puts it back where it came from.

Run as a file of its own by ``python -I -S delay.py INTERFACE SECONDS``. It makes the TUN device, prints ``ready``, and
goes on until it is ended. netem would do this in the kernel, but not every kernel has it.

Super-packets pass in one piece (IFF_VNET_HDR with TSO and USO): what the link cuts is not this program's affair, and
one read and write for 64 kB let it carry what the engines send. It goes before them at the processors, as a link would.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

# linux/if_tun.h, linux/prctl.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
PR_SET_TIMERSLACK = 29

LARGEST = 65536 + 64
"""Bytes: an IP packet and the header of virtio_net before it."""

BATCH = 64
"""Packets read before those that are due go on: some 0.2 ms."""

MOST_HELD = 256 << 20
"""Bytes held back at most, 2 Gbit/s for a second; what is beyond is dropped, as in a full queue."""


def open_tun(name: str) -> int:
    """A TUN device that takes super-packets, as far as the kernel allows."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
    try:
        fcntl.ioctl(tun, TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6)
    except OSError:  # before Linux 6.2
        fcntl.ioctl(tun, TUNSETOFFLOAD, tcp)
    return tun


def run(tun: int, delay: float) -> None:
    """Hold back each packet for ``delay`` seconds; in order, as all wait equally long."""
    waiting: deque[tuple[float, bytes]] = deque()
    held = 0
    clock = time.monotonic
    while True:
        now = clock()
        while waiting and waiting[0][0] <= now:
            _, packet = waiting.popleft()
            held -= len(packet)
            try:
                os.write(tun, packet)
            except OSError:
                continue  # a link that is down: dropped, as a router would
        select.select([tun], [], [], max(0.0, waiting[0][0] - clock()) if waiting else None)
        for _ in range(BATCH):
            try:
                packet = os.read(tun, LARGEST)
            except BlockingIOError:
                break
            if held + len(packet) <= MOST_HELD:
                held += len(packet)
                waiting.append((clock() + delay, packet))


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # wake up when asked to, not 50 us later
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        device = open_tun(sys.argv[1])
        print("ready", flush=True)
        run(device, float(sys.argv[2]))
    except OSError as problem:
        sys.exit(f"delay: {(problem.strerror or str(problem)).lower()}")
