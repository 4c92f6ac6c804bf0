"""A numbered UDP stream: the sender and the receiver that counts.

Run as a file of its own by ``python -I -S stream.py send|receive ADDRESS PORT SIZE START STOP [RATE]``; ADDRESS is the
receiver's, SIZE the payload in bytes, START and STOP are monotonic seconds of the machine, RATE packets per second, 0
or absent for as many as the processor gives. Each payload begins with a 64-bit serial number, little endian.

The receiver prints ``ready``, and after STOP, once nothing comes any more, a JSON object: ``received`` (different
serial numbers), ``in_time`` (those that came before STOP), ``duplicates``. The sender prints ``sent``.

One ``send`` for each packet, as an ordinary program does it. The receiver takes what the kernel has joined (UDP_GRO) in
one call: it shares the processors with the engines, and is not what is measured.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import struct
import sys
import time

SERIAL = struct.Struct("<Q")
UDP_GRO = 104  # linux/udp.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
LARGEST = 65536
RECEIVE_BUFFER = 8 << 20
"""Bytes; at 400,000 packets a second of 64 bytes, each accounted with 768, some 25 ms without the processor."""

BATCH = 32
"""Packets between two looks at the clock: 0.1 ms."""

TICK = 0.001
"""Seconds between two bursts of a paced stream."""

MAX_BURST = 128
"""Packets sent at once to make up for a moment without the processor. A TUN's queue holds 500."""

QUIET = 0.3
"""Seconds without a packet after which the receiver takes the stream for over."""

PATIENCE = 3.0
"""Seconds after STOP at which it is over in any case."""

MAX_SERIAL = 1 << 32


def send(wire: socket.socket, size: int, start: float, stop: float, rate: float) -> int:
    """Send; returns how many packets the kernel took."""
    payload = bytearray(size)
    clock, pack = time.monotonic, SERIAL.pack_into
    time.sleep(max(0.0, start - clock()))
    serial = 0
    while (now := clock()) < stop:
        count = BATCH
        if rate:
            count = int((now - start) * rate) - serial
            if count > MAX_BURST:  # what was missed stays unsent
                start += (count - MAX_BURST) / rate
                count = MAX_BURST
            if count < 1:
                time.sleep(TICK)
                continue
        for _ in range(count):
            pack(payload, 0, serial)
            try:
                wire.send(payload)
            except BlockingIOError:
                select.select([], [wire], [], TICK)
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # dropped in a queue: sent and lost
                    raise
            serial += 1
    return serial


class Count:
    """Which serial numbers came."""

    def __init__(self, size: int) -> None:
        self._seen = bytearray()
        self._payload = struct.Struct(f"<Q{size - SERIAL.size}x")
        self.packets = 0

    def take(self, data: memoryview) -> None:
        """One packet, or several that the kernel has joined; anything else is ignored."""
        if len(data) % self._payload.size:
            return
        seen = self._seen
        for (serial,) in self._payload.iter_unpack(data):
            try:
                seen[serial] = 1
            except IndexError:
                if serial >= MAX_SERIAL:
                    continue
                seen.extend(bytes(serial - len(seen) + (1 << 20)))
                seen[serial] = 1
            self.packets += 1

    @property
    def different(self) -> int:
        return self._seen.count(1)


def receive(wire: socket.socket, size: int, stop: float) -> dict[str, int]:
    """Count until the stream is over."""
    count = Count(size)
    buffer = bytearray(LARGEST)
    view = memoryview(buffer)
    clock = time.monotonic
    in_time: int | None = None
    heard = 0.0
    wire.settimeout(QUIET / 5)
    while True:
        try:
            length = wire.recv_into(buffer)
        except TimeoutError:
            length = -1
        now = clock()
        if in_time is None and now >= stop:
            in_time, heard = count.different, now
        if length >= 0:
            count.take(view[:length])
            heard = now
        if in_time is not None and (now - heard > QUIET or now > stop + PATIENCE):
            break
    different = count.different
    return {"received": different, "in_time": in_time, "duplicates": count.packets - different}


def main(arguments: list[str]) -> None:
    role, address, port, size = arguments[0], arguments[1], int(arguments[2]), int(arguments[3])
    start, stop = float(arguments[4]), float(arguments[5])
    rate = float(arguments[6]) if len(arguments) > 6 else 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        if role == "receive":
            try:
                wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            except PermissionError:  # in a user namespace: as much as the machine allows
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            with contextlib.suppress(OSError):  # a kernel without
                wire.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
            wire.bind((address, port))
            print("ready", flush=True)
            print(json.dumps(receive(wire, size, stop)), flush=True)
        else:
            wire.connect((address, port))
            wire.setblocking(False)
            print(json.dumps({"sent": send(wire, size, start, stop, rate)}), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as problem:
        sys.exit(f"stream: {(problem.strerror or str(problem)).lower()}")
