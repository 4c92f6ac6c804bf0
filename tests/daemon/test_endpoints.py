"""Where a peer is believed to be: moved by what proves it, not by what anybody can send again."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qtunnel.config import load_config
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.resolver import Resolver
from qtunnel.daemon.settings import load_public
from qtunnel.daemon.transport import Address, source_of
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from qtunnel.rekey.model import Heard
from tests.config.conftest import MINIMAL
from tests.config.conftest import site as site  # the files that MINIMAL names
from tests.config.conftest import write as write
from tests.daemon.resolving import NAMED, Names, slow, started
from tests.daemon.resolving import names as names


def test_an_offer_gives_an_address_only_where_none_is_known(write: Callable[[str], Path]) -> None:
    async def test() -> None:
        config, events = load_config(write(MINIMAL), environ={}), EventStream()
        tunnel = Tunnel(config, Identity.load(config.node.identity), load_public(config), events, lambda peer: None)
        endpoints = Endpoints(config, tunnel, events, lambda peer: False, lambda: {4})
        first, second = Address("192.0.2.1", 51821, 0), Address("192.0.2.2", 51821, 0)
        endpoints.heard(Heard("bob", proven=False), first)
        endpoints.heard(Heard("bob", proven=False), second)
        assert endpoints.of("bob") == first
        endpoints.heard(Heard("bob", proven=True), second)
        assert endpoints.of("bob") == second

    asyncio.run(test())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%2", "fe80::2%2", True),
    ],
)
def test_a_source_is_what_one_sender_has_of_the_addresses(one: str, other: str, same: bool) -> None:
    assert (source_of(Address(one, 1, 0)) == source_of(Address(other, 2, 1))) == same


def test_a_name_that_does_not_resolve_at_the_start_leads_where_it_led_before(
    write: Callable[[str], Path], names: Names
) -> None:
    path = write(NAMED)
    told: list[tuple[str, object]] = []

    async def test() -> None:
        assert (await started(path, told))[0].of("bob") is None
        names.host = "192.0.2.7"
        await started(path, told)
        names.host = None
        told.clear()
        endpoints, tunnel = await started(path, told)
        assert endpoints.of("bob") == Address("192.0.2.7", 51821)
        assert tunnel._specs["bob"].endpoint == ("192.0.2.7", 51820), "and WireGuard goes there too"
        ((kind, detail),) = told
        assert kind == "endpoint.unresolved"
        assert "meanwhile at 192.0.2.7" in str(detail)
        names.host = "192.0.2.8"
        await endpoints._look_up()
        assert endpoints.of("bob") == Address("192.0.2.8", 51821), "until it resolves"

    asyncio.run(test())


def test_where_another_name_led_is_no_place_for_this_one(write: Callable[[str], Path], names: Names) -> None:
    async def test() -> None:
        names.host = "192.0.2.7"
        await started(write(NAMED), [])
        names.host = None
        assert (await started(write(NAMED.replace("gw.example", "new.example")), []))[0].of("bob") is None

    asyncio.run(test())


def test_an_address_in_the_configuration_is_not_remembered(write: Callable[[str], Path]) -> None:
    path = write(NAMED.replace("gw.example", "192.0.2.7"))
    asyncio.run(started(path, []))
    assert "place" not in (path.parent / "state" / "peers.json").read_text()


def test_nobody_waits_at_the_end_for_a_resolver_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    answered: list[bool] = []

    def silent(*_: object, **__: object) -> list[tuple[object, ...]]:
        answered.append(free.wait(20))
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", silent)

    async def test() -> None:
        with pytest.raises(TimeoutError):
            await Resolver().resolve("gw.example", 1, 0.05)

    asyncio.run(test())
    assert answered == [], "the end of the event loop waited for it"
    free.set()


def test_look_ups_are_bounded_and_give_their_place_back(monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    monkeypatch.setattr("qtunnel.daemon.resolver.AT_ONCE", 2)
    names.host = "192.0.2.7"

    async def test() -> None:
        resolver = Resolver()
        found = await asyncio.gather(*(resolver.resolve("gw.example", port, 10.0) for port in range(1, 9)))
        assert [address.port for (address,) in found] == list(range(1, 9))
        names.host = None
        for _ in range(4):
            with pytest.raises(socket.gaierror):
                await resolver.resolve("gw.example", 1, 10.0)

    asyncio.run(test())


def test_a_reload_leaves_look_ups_of_other_peers_alone(write: Callable[[str], Path], names: Names) -> None:
    async def test() -> None:
        path = write(NAMED)
        endpoints, _ = await started(path, [])
        names.host = "192.0.2.7"
        task = await slow(endpoints, names)
        for _ in range(2):  # each reload makes all configurations anew
            config = load_config(path, environ={})
            endpoints.change(config, load_public(config), ())
        names.go.set()
        await task
        assert endpoints.of("bob") == Address("192.0.2.7", 51821)

    asyncio.run(test())


@pytest.mark.parametrize("what", ["name", "port", "peer"])
def test_a_reload_that_changes_a_place_has_no_use_for_a_look_up_of_before(
    write: Callable[[str], Path], names: Names, what: str
) -> None:
    async def test() -> None:
        path = write(NAMED)
        endpoints, _ = await started(path, [])
        names.host = "192.0.2.7"
        task = await slow(endpoints, names)
        after = {
            "name": ("gw.", "new."),
            "port": ("    endpoint", "    handshake_port: 9\n    endpoint"),
            "peer": ("", ""),
        }
        config = load_config(write(NAMED.replace(*after[what])), environ={})
        endpoints.change(config, load_public(config), {"bob"} if what == "peer" else ())
        names.go.set()
        await task
        assert endpoints.of("bob") is None
        names.host = "192.0.2.8"
        await endpoints.settle()
        assert endpoints.of("bob") == Address("192.0.2.8", 9 if what == "port" else 51821)

    asyncio.run(test())


def test_a_name_is_looked_up_again_and_again_until_its_peer_speaks(write: Callable[[str], Path], names: Names) -> None:
    async def test() -> None:
        names.host = "192.0.2.7"
        endpoints, _ = await started(write(NAMED), [])
        silent = {"bob"}
        endpoints._unanswered = silent.__contains__
        for host in ("192.0.2.7", "192.0.2.8", "192.0.2.9"):
            names.host = host
            await endpoints.look_again()
            assert endpoints.of("bob") == Address(host, 51821)
        silent.clear()
        names.host = "192.0.2.10"
        await endpoints.look_again()
        assert endpoints.of("bob") == Address("192.0.2.9", 51821)
        assert len(names.asked) == 4

    asyncio.run(test())


def test_an_address_in_the_configuration_is_not_looked_up_again_and_again(
    write: Callable[[str], Path], names: Names
) -> None:
    async def test() -> None:
        names.host = "192.0.2.7"
        endpoints, _ = await started(write(NAMED.replace("gw.example", "192.0.2.7")), [])
        endpoints._unanswered = lambda peer: True
        await endpoints.look_again()
        assert len(names.asked) == 1

    asyncio.run(test())


def test_what_a_peer_proves_during_a_look_up_goes_before_what_its_name_says(
    write: Callable[[str], Path], names: Names
) -> None:
    async def test() -> None:
        names.host = "192.0.2.7"
        endpoints, _ = await started(write(NAMED), [])
        endpoints.doubt("bob")
        task = await slow(endpoints, names)
        endpoints.heard(Heard("bob", proven=True), moved := Address("192.0.2.99", 40000, 0))
        names.go.set()
        await task
        assert endpoints.of("bob") == moved

    asyncio.run(test())


def test_what_a_reload_writes_reaches_the_engine_though_the_peer_speaks_meanwhile(
    write: Callable[[str], Path], names: Names
) -> None:
    async def test() -> None:
        names.host = "192.0.2.7"
        endpoints, tunnel = await started(write(NAMED), [])
        tunnel.epoch_in_place = lambda peer: 7  # type: ignore[method-assign]
        changed = NAMED.replace("    endpoint", "    wireguard_port: 999\n    endpoint")
        config = load_config(write(changed), environ={})
        endpoints.change(config, load_public(config), ())
        task = await slow(endpoints, names)
        endpoints.heard(Heard("bob", proven=True), Address("192.0.2.7", 51821, 0))
        names.go.set()
        await task
        assert tunnel._specs["bob"].endpoint == ("192.0.2.7", 999)
        assert endpoints._rewritten == set()

    asyncio.run(test())
