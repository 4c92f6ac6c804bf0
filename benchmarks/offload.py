"""Microseconds that a super-packet of 45 packets of 1,420 bytes costs: ``python -m benchmarks.offload``. Not a test.

The best of several rounds, since other programs on the machine only ever add.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from functools import partial
from typing import Final

from qtunnel.offload.split import Splitter
from tests.offload.reference import Packet
from tests.offload.strategies import TIMESTAMPS

MTU: Final = 1420
ROUNDS: Final = 15
REPEATS: Final = 1000


def best(call: Callable[[], object]) -> float:
    """Microseconds of one call."""
    return min(timeit.repeat(call, number=REPEATS, repeat=ROUNDS)) / REPEATS * 1e6


def main() -> None:
    buffer = bytearray(70000)
    splitter = Splitter(buffer)
    for version in (4, 6):
        for protocol, name, options in ((6, "TCP", TIMESTAMPS), (17, "UDP", b"")):
            shape = Packet(version=version, protocol=protocol, tcp_options=options)
            gso_size = MTU - shape.header_size
            for size, what in ((45 * gso_size, "45 full packets"), (45 * gso_size - 100, "the last shorter")):
                packet = Packet(version=version, protocol=protocol, tcp_options=options, payload=bytes(size))
                data = packet.super_packet(gso_size)
                buffer[: len(data)] = data
                cost = best(partial(splitter.split, 0, len(data), MTU))
                print(f"split    IPv{version} {name} {what}: {cost:6.2f} us")
    data = Packet(payload=bytes(64)).super_packet(1400)
    buffer[: len(data)] = data
    buffer[1] = 0
    print(f"split    one packet of 64 bytes: {best(lambda: splitter.split(0, len(data), MTU)):6.2f} us")


if __name__ == "__main__":
    main()
