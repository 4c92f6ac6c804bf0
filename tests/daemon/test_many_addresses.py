"""A name that leads to several addresses: which of them is used, and when another one has its turn."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from qtunnel.config import SocketAddress, load_config
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.settings import load_public
from qtunnel.daemon.transport import Address, HandshakeSockets
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from qtunnel.rekey.model import Heard
from tests.config.conftest import site as site  # the files that MINIMAL names
from tests.config.conftest import write as write
from tests.daemon.resolving import NAMED, Names, started
from tests.daemon.resolving import names as names

BOTH = "2001:db8::7 192.0.2.7"
PLAIN = f"""
plain_peers:
  - name: phone
    protection: wireguard-only
    public_key: {b64encode(bytes(range(32))).decode()}
    endpoint: phone.example
    allowed_ips: [10.77.0.9/32]
"""


def host(endpoints: Endpoints, peer: str = "bob") -> str | None:
    address = endpoints.of(peer)
    return None if address is None else address.host


async def attempts(endpoints: Endpoints, number: int) -> list[str | None]:
    """Where so many attempts go, of which each comes to nothing."""
    found = []
    for _ in range(number):
        found.append(host(endpoints))
        endpoints.doubt("bob")  # in the middle of it
        await endpoints.look_again()
        assert host(endpoints) == found[-1], "an answer may be on its way, and what follows it goes there"
        endpoints.in_vain("bob")
        await endpoints.look_again()
    return found


@pytest.mark.parametrize(
    ("versions", "expected"), [((4,), "192.0.2.7"), ((6,), "2001:db8::7"), ((4, 6), "2001:db8::7")]
)
def test_the_first_address_that_there_is_a_socket_for(
    write: Callable[[str], Path], names: Names, versions: tuple[int, ...], expected: str
) -> None:
    async def test() -> None:
        names.host = BOTH
        told: list[tuple[str, object]] = []
        endpoints, tunnel = await started(write(NAMED), told, versions)
        assert host(endpoints) == expected
        assert tunnel._specs["bob"].endpoint == (expected, 51820)
        assert told == []

    asyncio.run(test())


@pytest.mark.parametrize(
    ("leads", "versions", "advice"),
    [
        ("2001:db8::7 2001:db8::8", (4,), "no socket for IPv6: set [::]:51821 under node.listen"),
        ("192.0.2.7", (6,), "no socket for IPv4: set 0.0.0.0:51821 under node.listen"),
    ],
)
def test_a_name_without_an_address_that_there_is_a_socket_for_is_told_with_what_to_do(
    write: Callable[[str], Path], names: Names, leads: str, versions: tuple[int, ...], advice: str
) -> None:
    async def test() -> None:
        names.host = leads
        told: list[tuple[str, object]] = []
        endpoints, _ = await started(write(NAMED), told, versions)
        ((kind, detail),) = told
        assert kind == "endpoint.unresolved"
        assert f"it leads to {leads.replace(' ', ', ')} alone" in str(detail)
        assert advice in str(detail)
        endpoints._events = EventStream()
        with endpoints._events.subscribe() as events:
            await endpoints.look_again()
            await endpoints.look_again()
            assert host(endpoints) is None
            names.host = BOTH
            await endpoints.look_again()
            assert host(endpoints) in BOTH.split()
            names.host = leads
            endpoints.doubt("bob")
            await endpoints.look_again()
            assert host(endpoints) in BOTH.split(), "it may come back"
            endpoints._events.close()
            assert [event.kind async for event in events] == ["endpoint.unresolved"], "once for each time"

    asyncio.run(test())


def test_where_a_name_led_is_no_place_to_go_without_a_socket_for_it(write: Callable[[str], Path], names: Names) -> None:
    async def test() -> None:
        names.host = "2001:db8::7"
        path = write(NAMED)
        await started(path, [], (4, 6))
        names.host = None
        assert host((await started(path, [], (4,)))[0]) is None
        assert host((await started(path, [], (4, 6)))[0]) == "2001:db8::7"

    asyncio.run(test())


def test_each_address_has_its_attempts_until_the_peer_speaks(write: Callable[[str], Path], names: Names) -> None:
    async def test() -> None:
        first, second, third, fourth = (f"192.0.2.{number}" for number in range(1, 5))
        names.host = " ".join((first, second, third, fourth))
        endpoints, tunnel = await started(write(NAMED), [])
        silent = {"bob"}
        endpoints._unanswered = silent.__contains__
        assert await attempts(endpoints, 5) == [first, second, third, fourth, first]
        assert tunnel._specs["bob"].endpoint == (second, 51820), "and WireGuard goes there too"
        silent.clear()
        await endpoints.look_again()
        endpoints.doubt("bob")
        await endpoints.look_again()
        assert host(endpoints) == second, "what works stays"
        silent.add("bob")
        assert await attempts(endpoints, 2) == [second, first], "what was in vain then may be none now"

    asyncio.run(test())


def test_a_silent_daemon_moves_no_session_from_an_address_that_its_name_still_has(
    write: Callable[[str], Path], names: Names
) -> None:
    async def test() -> None:
        names.host = "192.0.2.1 192.0.2.2"
        endpoints, tunnel = await started(write(NAMED), [])
        endpoints._unanswered = lambda peer: True
        tunnel.epoch_in_place = lambda peer: 7  # type: ignore[method-assign]
        assert await attempts(endpoints, 3) == ["192.0.2.1", "192.0.2.2", "192.0.2.1"], "the handshake looks for it"
        assert tunnel._specs["bob"].endpoint == ("192.0.2.1", 51820)
        names.host = "192.0.2.3"
        endpoints.doubt("bob")
        await endpoints.look_again()
        assert tunnel._specs["bob"].endpoint == ("192.0.2.3", 51820), "it is not there any more"

    asyncio.run(test())


def test_another_port_is_another_place_where_nothing_was_tried_yet(write: Callable[[str], Path], names: Names) -> None:
    async def test() -> None:
        names.host = "192.0.2.1 192.0.2.2 192.0.2.3"
        endpoints, _ = await started(write(NAMED), [])
        endpoints._unanswered = lambda peer: True
        assert await attempts(endpoints, 1) == ["192.0.2.1"]
        config = load_config(write(NAMED.replace("    endpoint", "    handshake_port: 9\n    endpoint")), environ={})
        endpoints.change(config, load_public(config), ())
        await endpoints.settle()
        assert endpoints.of("bob") == Address("192.0.2.2", 9)
        assert await attempts(endpoints, 2) == ["192.0.2.2", "192.0.2.1"]

    asyncio.run(test())


def test_a_name_server_that_shuffles_keeps_no_address_from_its_turn(write: Callable[[str], Path], names: Names) -> None:
    async def test() -> None:
        names.host = "192.0.2.1 192.0.2.2 192.0.2.3"
        endpoints, _ = await started(write(NAMED), [])
        endpoints._unanswered = lambda peer: True
        found = []
        for order in ("3 1 2", "2 3 1", "3 2 1"):
            names.host = " ".join(f"192.0.2.{number}" for number in order.split())
            found += await attempts(endpoints, 1)
        assert sorted(map(str, found)) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]

    asyncio.run(test())


def test_a_single_address_and_one_that_the_name_does_not_have(write: Callable[[str], Path], names: Names) -> None:
    async def test() -> None:
        names.host = "192.0.2.1"
        endpoints, _ = await started(write(NAMED), [])
        endpoints._unanswered = lambda peer: True
        assert await attempts(endpoints, 3) == ["192.0.2.1"] * 3
        endpoints.heard(Heard("bob", proven=True), Address("192.0.2.99", 40000, 0))
        assert endpoints._tried == {}, "it speaks"
        endpoints.in_vain("bob")
        await endpoints.look_again()
        assert endpoints.of("bob") == Address("192.0.2.1", 51821)
        endpoints.in_vain("nobody")
        await endpoints.look_again()

    asyncio.run(test())


def test_an_idle_plain_peer_is_not_led_from_one_address_to_the_other(
    write: Callable[[str], Path], names: Names
) -> None:
    """Nor does it take a socket of ours to reach one."""

    async def test() -> None:
        names.host = BOTH
        endpoints, _ = await started(write(NAMED + PLAIN), [])
        assert (host(endpoints), host(endpoints, "phone")) == ("192.0.2.7", "2001:db8::7")
        for _ in range(3):
            endpoints.doubt("phone")
            await endpoints.look_again()
            assert host(endpoints, "phone") == "2001:db8::7"
        names.host = "192.0.2.8 2001:db8::7"
        endpoints.doubt("phone")
        await endpoints.look_again()
        assert host(endpoints, "phone") == "192.0.2.8", "the name says that first"

    asyncio.run(test())


def test_a_datagram_arrives_where_only_the_second_address_has_a_socket(
    write: Callable[[str], Path], names: Names
) -> None:
    """As the daemon puts it together, with sockets of the kernel's."""

    async def test() -> None:
        names.host = "::1 127.0.0.1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.settimeout(20)
            port = peer.getsockname()[1]
            path = write(NAMED.replace("endpoint", f"handshake_port: {port}\n    endpoint"))
            config = load_config(path, environ={})
            identity, public, events = Identity.load(config.node.identity), load_public(config), EventStream()
            tunnel = Tunnel(config, identity, public, events, lambda peer: None)
            sockets = HandshakeSockets(
                [SocketAddress(ip_address("127.0.0.1"), 0)], lambda datagrams, expected: None, lambda *marked: None
            )
            await sockets.open()
            endpoints = Endpoints(config, tunnel, events, lambda peer: False, sockets.versions)
            endpoints.change(config, public, ())
            await endpoints.settle()
            address = endpoints.of("bob")
            assert address is not None
            assert sockets.send(b"first", address)
            assert await asyncio.to_thread(peer.recv, 100) == b"first"
            sockets.close()

    asyncio.run(test())
