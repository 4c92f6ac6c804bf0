"""What one end alone seals and sends: the other end's network drops it at once, so that it costs next to nothing there.

Both ends of a tunnel on one machine share its processors. This is for what more of them bring to one end.

Run as a file of its own by ``python -I -S sending.py ADDRESS PORT SECONDS`` it is the load: UDP super-packets as large
as the tunnel takes them (UDP_SEGMENT), which cost their sender little.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import sys
import time

UDP_SEGMENT = 103  # linux/udp.h
SIZE = 1372
"""Bytes of payload of each datagram, see measure.UDP_SIZES."""

COUNT = 45
"""Datagrams at once: 62 kB, the super-packets of a fast TCP flow."""

PROBE = 200
"""Bytes up to which the other end gets what is sent: handshakes and keepalives."""


def load(address: str, port: int, seconds: float) -> None:
    """Send as much as the kernel takes."""
    end = time.monotonic() + seconds
    data = memoryview(bytes(SIZE * COUNT))
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", SIZE))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as wire:
        while time.monotonic() < end:
            try:
                wire.sendmsg((data,), control, 0, (address, port))
            except BlockingIOError:
                select.select([], [wire], [], 0.01)
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # dropped in a queue: more than the engine reads
                    raise
                time.sleep(0.0002)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
