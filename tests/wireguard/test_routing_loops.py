"""A datagram of our own that comes back, and tunnels in tunnels: what counts as one."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.routing_loops import comes_back, hops_left, may_be_nested, udp_header
from qtunnel.wireguard.session import Keypairs
from tests.wireguard.world import connected, ip_packet

V4: Endpoint = ("192.0.2.7", 5)
V6: Endpoint = ("2001:db8::7", 5, 0, 0)

KEYPAIRS = Keypairs()
KEYPAIRS.current = connected()[1].device.state.sessions.popitem()[1]
KEYPAIRS.previous = [connected(2)[1].device.state.sessions.popitem()[1]]
INDICES = [keypair.remote_index for keypair in KEYPAIRS.held]
DATA = bytes((4, 0, 0, 0))
RECORD = bytes((5, 1, 9, 0))


def of_session(index: int = INDICES[0], head: bytes = DATA) -> bytes:
    """The beginning of a message with that receiver index."""
    return head + index.to_bytes(4, "little")


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
    return bool(at) and comes_back(view, at, 1, endpoint, KEYPAIRS)


@pytest.mark.parametrize("endpoint", [V4, V6])
def test_only_our_datagram_to_the_endpoint_itself_comes_back(endpoint: Endpoint) -> None:
    host = endpoint[0]
    other = host[:-1] + "8"

    def back(to: str, ports: tuple[int, int], *, protocol: int = 17, fragment: int | None = None) -> bool:
        return is_ours(packet(to, ports, protocol=protocol, fragment=fragment, payload=of_session()), endpoint)

    assert back(host, (1, 5))
    assert back(host, (1, 5), fragment=0)
    assert not back(host, (1, 5), fragment=100)
    assert not back(other, (1, 5))
    assert not back(host, (2, 5))
    assert not back(host, (1, 6))
    assert not back(host, (1, 5), protocol=6)


@pytest.mark.parametrize("endpoint", [V4, V6])
@pytest.mark.parametrize("head", [DATA, RECORD])
def test_only_a_datagram_of_our_own_sessions_comes_back(endpoint: Endpoint, head: bytes) -> None:
    for index in INDICES:
        assert is_ours(packet(endpoint[0], (1, 5), payload=of_session(index, head)), endpoint)
        assert not is_ours(packet(endpoint[0], (1, 5), payload=of_session(index ^ 1 << 31, head)), endpoint)
    assert not is_ours(packet(endpoint[0], (1, 5), payload=of_session()[:-1]), endpoint)


def test_ipv4_options_are_stepped_over() -> None:
    assert is_ours(packet(V4[0], (1, 5), options=8, payload=of_session()), V4)
    assert not is_ours(packet(V4[0], (2, 5), options=8, payload=of_session()), V4)


@pytest.mark.parametrize("to", [V4[0], V6[0]])
@pytest.mark.parametrize("fragment", [None, 0])
def test_what_is_cut_short_is_none(to: str, fragment: int | None) -> None:
    whole = packet(to, (1, 5), fragment=fragment, payload=of_session())
    least = 20 if "." in to else 40
    endpoint = V4 if "." in to else V6
    assert is_ours(whole, endpoint)
    for length in range(least, len(whole)):
        assert not is_ours(whole[:length], endpoint)


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


@pytest.mark.parametrize("suite", ["", "record_mode=aes-256-gcm"])
def test_our_own_datagrams_are_stopped_and_those_of_a_host_behind_us_go_on(suite: str) -> None:
    """A gateway that sends all to a server, before a host with a tunnel of its own to that server, both from 51820."""
    world, alice, bob = connected(1, *[suite] * bool(suite))
    world.advance(1)
    alice.set_peer(bob.public, "allowed_ip=0.0.0.0/0")
    world.settle()
    ports = alice.endpoint[1], bob.endpoint[1]
    inner = ip_packet(alice.inner, bob.inner)
    world.history.clear()
    assert (alice.send_record(bob, inner) > 0) is bool(suite)
    alice.send(inner)
    world.settle()
    sent = [data for source, _, data in world.history if source == alice.endpoint]
    assert {data[0] for data in sent} == ({4, 5} if suite else {4})
    for data in sent:
        alice.send(packet(bob.endpoint[0], ports, payload=data))
    assert alice.device.outbox == []
    assert alice.drops == {"endpoint-behind-itself": len(sent)}
    for data in sent:
        theirs = data[:4] + bytes(byte ^ 0xFF for byte in data[4:8]) + data[8:]
        alice.send(packet(bob.endpoint[0], ports, payload=theirs))
        assert alice.device.transport.hops == 56
        assert alice.device.outbox.pop()[0] == bob.endpoint
    assert alice.drops == {"endpoint-behind-itself": len(sent)}
