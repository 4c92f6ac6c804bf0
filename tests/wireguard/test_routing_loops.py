"""A datagram of our own that comes back: what counts as one."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.routing_loops import comes_back

V4: Endpoint = ("192.0.2.7", 5)
V6: Endpoint = ("2001:db8::7", 5, 0, 0)


def packet(
    to: str, ports: tuple[int, int], *, protocol: int = 17, fragment: int | None = None, options: int = 0
) -> bytes:
    """An IP packet with the two ports; fragment: its offset in units of 8 bytes."""
    address = ipaddress.ip_address(to)
    body = struct.pack(">HHHH", *ports, 8, 0)
    if address.version == 4:
        head = bytearray(20 + options)
        head[0] = 0x40 | len(head) // 4
        head[6:8] = (0x2000 | fragment if fragment is not None else 0).to_bytes(2, "big")
        head[9] = protocol
        head[16:20] = address.packed
        return bytes(head) + body
    extra = b"" if fragment is None else bytes((protocol, 0)) + (fragment << 3 | 1).to_bytes(2, "big") + bytes(4)
    return (
        bytes((0x60, *bytes(5), protocol if fragment is None else 44, 64)) + bytes(16) + address.packed + extra + body
    )


@pytest.mark.parametrize("endpoint", [V4, V6])
def test_only_our_datagram_to_the_endpoint_itself_comes_back(endpoint: Endpoint) -> None:
    host = endpoint[0]
    other = host[:-1] + "8"

    def back(to: str, ports: tuple[int, int], *, protocol: int = 17, fragment: int | None = None) -> bool:
        return comes_back(memoryview(packet(to, ports, protocol=protocol, fragment=fragment)), 1, endpoint)

    assert back(host, (1, 5))
    assert back(host, (1, 5), fragment=0)
    assert not back(host, (1, 5), fragment=100)
    assert not back(other, (1, 5))
    assert not back(host, (2, 5))
    assert not back(host, (1, 6))
    assert not back(host, (1, 5), protocol=6)


def test_ipv4_options_are_stepped_over() -> None:
    assert comes_back(memoryview(packet(V4[0], (1, 5), options=8)), 1, V4)
    assert not comes_back(memoryview(packet(V4[0], (2, 5), options=8)), 1, V4)


@pytest.mark.parametrize("to", [V4[0], V6[0]])
@pytest.mark.parametrize("fragment", [None, 0])
def test_what_is_cut_short_is_none(to: str, fragment: int | None) -> None:
    whole = packet(to, (1, 5), fragment=fragment)
    least = 20 if "." in to else 40
    endpoint = V4 if "." in to else V6
    for length in range(least, len(whole) - 4):
        assert not comes_back(memoryview(whole[:length]), 1, endpoint)
