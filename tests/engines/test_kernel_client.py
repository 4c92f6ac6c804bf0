"""Netlink messages of the kernel's WireGuard, written and read back; with a real kernel: tests/kernel."""

from __future__ import annotations

import asyncio
import os
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.engines import kernel_client
from qtunnel.engines.base import PeerSpec
from qtunnel.engines.device import NO_PSK, Device, Line, added, existing, mark_of_psk, removed
from qtunnel.engines.kernel_client import ALLOWED_IPS_AT_ONCE, KernelClient
from qtunnel.errors import EngineError
from qtunnel.secret import Secret

networks = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda pair: IPv4Network(pair, strict=False)),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda pair: IPv6Network(pair, strict=False)),
)
endpoints = st.tuples(st.ip_addresses().map(str), st.integers(1, 65535))


def written(lines: list[Line]) -> list[bytes]:
    found = []
    for message in kernel_client._messages(["WGDEVICE_A_IFNAME", "wg0"], lines):
        message.encode()
        found.append(bytes(message.data))
    return found


def read(messages: list[bytes], *, marks: bool = True) -> Device:
    device = Device()
    for data in messages:
        message = kernel_client._Message(data)
        message.decode()
        kernel_client._read(device, message, marks)
    return device


@given(
    endpoint=st.none() | endpoints,
    allowed=st.lists(networks, max_size=40),
    keepalive=st.none() | st.integers(1, 65535),
    psk=st.binary(min_size=32, max_size=32),
)
def test_what_is_told_of_a_peer_is_what_is_read(
    endpoint: tuple[str, int] | None, allowed: list[IPv4Network | IPv6Network], keepalive: int | None, psk: bytes
) -> None:
    spec = PeerSpec(bytes(range(32)), endpoint, tuple(allowed), keepalive)
    peer = read(written(added(spec, Secret(psk)))).peers[spec.public_key]
    assert (peer.endpoint, peer.persistent_keepalive) == (endpoint, keepalive or 0)
    assert peer.allowed_ips == [str(network) for network in allowed]
    assert peer.psk_mark == mark_of_psk(psk)
    assert (peer.psk_mark == NO_PSK) == (psk == bytes(32))


def test_an_endpoint_keeps_its_zone() -> None:
    spec = PeerSpec(bytes(range(32)), ("fe80::1%3", 51820))
    assert read(written(added(spec, Secret(bytes(32))))).peers[spec.public_key].endpoint == ("fe80::1%3", 51820)


def test_a_peer_is_removed_and_added_again_in_one_message_and_the_rest_follows() -> None:
    allowed = tuple(IPv4Network((i << 8, 24)) for i in range(2 * ALLOWED_IPS_AT_ONCE + 1))
    spec = PeerSpec(bytes(range(32)), None, allowed, 25)
    first, *rest = written([*removed(spec.public_key), *added(spec, Secret(bytes(32)))])
    assert first.count(spec.public_key) == 2
    assert len(rest) == 2
    assert all(len(data) < 2**16 for data in (first, *rest)), "an attribute has 16 bits for its length"
    assert len(read(written(added(spec, Secret(bytes(32))))).peers[spec.public_key].allowed_ips) == len(allowed)


def test_marks_are_told_where_they_were_asked_for_and_keys_never() -> None:
    psk = os.urandom(32)
    device = read(written(added(PeerSpec(bytes(range(32))), Secret(psk))), marks=False)
    assert device.peers[bytes(range(32))].psk_mark == b""
    assert psk not in mark_of_psk(psk)
    assert repr(psk) not in repr(read(written(added(PeerSpec(bytes(range(32))), Secret(psk)))))


@pytest.mark.parametrize("line", [("epoch", 3), ("handshake", "now")])
def test_a_line_that_the_kernel_has_nothing_for_is_refused(line: Line) -> None:
    for lines in ([line], [*existing(bytes(range(32))), line]):
        with pytest.raises(EngineError, match=f"the kernel has no {line[0]}"):
            asyncio.run(KernelClient("wg0").set(lines))
