"""Where a peer is believed to be: moved by what proves it, not by what anybody can send again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from qtunnel.config import load_config
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.settings import load_public
from qtunnel.daemon.transport import Address, source_of
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from qtunnel.rekey.model import Heard
from tests.config.conftest import MINIMAL
from tests.config.conftest import site as site  # the files that MINIMAL names
from tests.config.conftest import write as write


def test_an_offer_gives_an_address_only_where_none_is_known(write: Callable[[str], Path]) -> None:
    async def test() -> None:
        config, events = load_config(write(MINIMAL), environ={}), EventStream()
        tunnel = Tunnel(config, Identity.load(config.node.identity), load_public(config), events, lambda peer: None)
        endpoints = Endpoints(config, tunnel, events)
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
