"""Microseconds that a super-packet of 45 packets of 1,420 bytes costs: ``python -m benchmarks.offload``. Not a test.

The best of several rounds, since other programs on the machine only ever add.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from qtunnel.offload import vnet
from qtunnel.offload.coalesce import Coalescer
from qtunnel.offload.headers import TCP, UDP
from qtunnel.offload.split import Splitter
from tests.offload.reference import Packet
from tests.offload.strategies import TIMESTAMPS

MTU: Final = 1420
ROUNDS: Final = 500
REPEATS: Final = 40


def best(call: Callable[[], object]) -> float:
    """Microseconds of one call."""
    return min(timeit.repeat(call, number=REPEATS, repeat=ROUNDS)) / REPEATS * 1e6


def main() -> None:
    source, received = bytearray(70000), bytearray(100000)
    splitter, coalescer = Splitter(source), Coalescer(received, uso=True)
    for version in (4, 6):
        for protocol, name, options in ((TCP, "TCP", TIMESTAMPS), (UDP, "UDP", b"")):
            shape = Packet(version=version, protocol=protocol, tcp_options=options)
            gso_size = MTU - shape.header_size
            for size, what in ((45 * gso_size, "45 full packets"), (45 * gso_size - 100, "the last shorter")):
                data = replace(shape, payload=bytes(size)).super_packet(gso_size)
                source[: len(data)] = data
                cost = best(partial(splitter.split, 0, len(data), MTU))
                print(f"split     IPv{version} {name}, {what}: {cost:6.2f} us")
                made = splitter.split(0, len(data), MTU)
                received[: 45 * made.stride] = made.buffer[: 45 * made.stride]
                lengths = 45, made.length, made.last_length
                assert len(coalescer.coalesce(0, made.stride, *lengths)) == 1
                cost = best(partial(coalescer.coalesce, 0, made.stride, *lengths))
                print(f"coalesce  IPv{version} {name}, {what}: {cost:6.2f} us")
    data = vnet.ZERO + Packet(payload=bytes(64)).pack()
    source[: len(data)] = data
    print(f"split     one packet of 64 bytes: {best(partial(splitter.split, 0, len(data), MTU)):6.2f} us")
    made = splitter.split(0, len(data), MTU)
    for index in range(45):
        received[index * made.stride : (index + 1) * made.stride] = made.rows[0]
    for count in (1, 45):
        cost = best(partial(coalescer.coalesce, 0, made.stride, count, made.length, made.length))
        print(f"coalesce  {count} of 64 bytes, none to be merged: {cost:6.2f} us")


if __name__ == "__main__":
    main()
