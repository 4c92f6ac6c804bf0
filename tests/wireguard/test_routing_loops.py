"""A datagram of our own that comes back, and tunnels in tunnels: what counts as one."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.routing_loops import comes_back, hops_left, may_be_nested, udp_header
from tests.wireguard.world import connected

V4: Endpoint = ("192.0.2.7", 5)
V6: Endpoint = ("2001:db8::7", 5, 0, 0)


def packet(
    to: str,
    ports: tuple[int, int],
    *,
    protocol: int = 17,
    fragment: int | None = None,
    options: int = 0,
    hops: int = 64,
    payload: bytes = b"",
) -> bytes:
    """An IP packet with the two ports; fragment: its offset in units of 8 bytes."""
    address = ipaddress.ip_address(to)
    body = struct.pack(">HHHH", *ports, 8, 0) + payload
    if address.version == 4:
        head = bytearray(20 + options)
        head[0] = 0x40 | len(head) // 4
        head[6:8] = (0x2000 | fragment if fragment is not None else 0).to_bytes(2, "big")
        head[8] = hops
        head[9] = protocol
        head[16:20] = address.packed
        return bytes(head) + body
    extra = b"" if fragment is None else bytes((protocol, 0)) + (fragment << 3 | 1).to_bytes(2, "big") + bytes(4)
    return (
        bytes((0x60, *bytes(5), protocol if fragment is None else 44, hops)) + bytes(16) + address.packed + extra + body
    )


def is_ours(whole: bytes, endpoint: Endpoint) -> bool:
    """Whether it was sent from our port 1 to the endpoint."""
    view = memoryview(whole)
    at = udp_header(view)
    return bool(at) and comes_back(view, at, 1, endpoint)


@pytest.mark.parametrize("endpoint", [V4, V6])
def test_only_our_datagram_to_the_endpoint_itself_comes_back(endpoint: Endpoint) -> None:
    host = endpoint[0]
    other = host[:-1] + "8"

    def back(to: str, ports: tuple[int, int], *, protocol: int = 17, fragment: int | None = None) -> bool:
        return is_ours(packet(to, ports, protocol=protocol, fragment=fragment), endpoint)

    assert back(host, (1, 5))
    assert back(host, (1, 5), fragment=0)
    assert not back(host, (1, 5), fragment=100)
    assert not back(other, (1, 5))
    assert not back(host, (2, 5))
    assert not back(host, (1, 6))
    assert not back(host, (1, 5), protocol=6)


def test_ipv4_options_are_stepped_over() -> None:
    assert is_ours(packet(V4[0], (1, 5), options=8), V4)
    assert not is_ours(packet(V4[0], (2, 5), options=8), V4)


@pytest.mark.parametrize("to", [V4[0], V6[0]])
@pytest.mark.parametrize("fragment", [None, 0])
def test_what_is_cut_short_is_none(to: str, fragment: int | None) -> None:
    whole = packet(to, (1, 5), fragment=fragment)
    least = 20 if "." in to else 40
    endpoint = V4 if "." in to else V6
    for length in range(least, len(whole) - 4):
        assert not is_ours(whole[:length], endpoint)


DATA = bytes((4, 0, 0, 0))
RECORD = bytes((5, 1, 9, 0))


def hops(whole: bytes) -> int | None:
    view = memoryview(whole)
    return hops_left(view, udp_header(view))


@pytest.mark.parametrize("to", [V4[0], V6[0]])
@pytest.mark.parametrize("payload", [DATA, RECORD])
@pytest.mark.parametrize("fragment", [None, 0])
def test_each_tunnel_takes_hops_from_the_datagrams_of_another(to: str, payload: bytes, fragment: int | None) -> None:
    came, passed = 255, 0
    while came > 0:
        left = hops(packet(to, (1, 5), hops=came, payload=payload, fragment=fragment))
        assert left is not None
        came, passed = left, passed + 1
    assert passed == 8


@pytest.mark.parametrize("to", [V4[0], V6[0]])
@pytest.mark.parametrize(
    "payload",
    [b"", DATA[:3], b"\x04\0\0\1", b"\x04\1\0\0", b"\x05\1\1\1", b"\x05\1\1\0", b"\x05\0\0\0", b"\1\0\0\0", b"@ABC"],
)
def test_other_datagrams_keep_the_hops_of_the_host(to: str, payload: bytes) -> None:
    assert hops(packet(to, (1, 5), hops=1, payload=payload)) is None


@pytest.mark.parametrize("to", [V4[0], V6[0]])
@pytest.mark.parametrize("kind", [1, 4, 5, 200])
@pytest.mark.parametrize("shape", ["plain", "fragment", "options", "empty"])
def test_a_quick_look_lets_through_what_a_longer_one_would(to: str, kind: int, shape: str) -> None:
    whole = packet(
        to,
        (1, 5),
        fragment=0 if shape == "fragment" else None,
        options=8 if shape == "options" else 0,
        payload=b"" if shape == "empty" else bytes((kind, 0, 0, 0)),
    )
    view = memoryview(bytes(3) + whole)
    at = udp_header(view[3:])
    if at and hops_left(view[3:], at) is not None:
        assert may_be_nested(view, 3, len(whole))
    if shape == "plain":
        assert may_be_nested(view, 3, len(whole)) == (kind in (4, 5))


def test_a_tunnel_in_a_tunnel_goes_on_with_fewer_hops_until_none_are_left() -> None:
    _, alice, bob = connected()
    for came, left in ((64, 56), (9, 1)):
        alice.send(packet(bob.inner, (1, 5), hops=came, payload=DATA))
        assert alice.device.transport.hops == left
        assert alice.device.outbox.pop()[0] == bob.endpoint
    alice.send(packet(bob.inner, (1, 5), hops=8, payload=DATA))
    assert alice.device.outbox == []
    assert alice.drops == {"too-many-tunnels-in-tunnels": 1}
    alice.send(packet(bob.inner, (1, 5), hops=8, payload=b"a query"))
    assert alice.device.transport.hops == 0, "the host's own"
    assert alice.device.outbox.pop()[0] == bob.endpoint
