"""TCP and UDP packets of every shape, for property tests."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from tests.offload.reference import TCP, UDP, Packet

TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(range(8))


def content(size: int, seed: int) -> bytes:
    """Bytes that differ, without the cost of drawing each; seed 0 gives zeros, 1 gives ones (the odd sums)."""
    if seed < 2:
        return (b"\xff" if seed else b"\x00") * size
    return random.Random(seed).randbytes(size)


def u(bits: int) -> st.SearchStrategy[int]:
    """Unsigned numbers, the greatest more often than chance has it: counters wrap there."""
    top = (1 << bits) - 1
    return st.one_of(st.integers(0, top), st.integers(max(0, top - 20), top))


@st.composite
def super_packets(draw: st.DrawFn, options: bool = True) -> tuple[Packet, int]:
    """A packet with payload, and a segment size; ``options``: IPv4 options and IPv6 extension headers too."""
    version = draw(st.sampled_from((4, 6)))
    protocol = draw(st.sampled_from((TCP, UDP)))
    gso_size = draw(st.one_of(st.integers(1, 64), st.integers(65, 1460), st.sampled_from((1368, 1380, 1400, 8900))))
    most = min(60000, gso_size * 50)
    size = draw(st.one_of(st.integers(1, most), st.integers(1, max(1, most // gso_size)).map(lambda n: n * gso_size)))
    ip_options = b""
    if options and draw(st.integers(0, 3)) == 0:
        # 8 bytes: an IPv6 destination options header with PadN, or as many of IPv4's "no operation"
        ip_options = bytes((protocol, 0, 1, 4, 0, 0, 0, 0)) if version == 6 else b"\x01" * 8
    return (
        Packet(
            version=version,
            protocol=protocol,
            payload=content(min(size, most), draw(st.integers(0, 99))),
            source=draw(st.binary(max_size=16)),
            destination=draw(st.binary(max_size=16)),
            ports=(draw(u(16)), draw(u(16))),
            traffic_class=draw(u(8)),
            hop_limit=draw(u(8)),
            identification=draw(u(16)),
            dont_fragment=draw(st.booleans()),
            flow_label=draw(u(20)),
            ip_options=ip_options,
            sequence=draw(u(32)),
            acknowledgment=draw(u(32)),
            flags=draw(u(8)),
            window=draw(u(16)),
            urgent=draw(u(16)),
            tcp_options=draw(st.sampled_from((b"", TIMESTAMPS, b"\x01" * 40))),
        ),
        gso_size,
    )
