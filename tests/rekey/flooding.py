"""A hub that others flood and a gateway that wants to be heard there, without a network."""

from __future__ import annotations

from collections.abc import Hashable

from qtunnel.rekey.limits import LOAD_FRAGMENTS
from qtunnel.rekey.node import RekeyNode
from tests.rekey.gateways import datagrams, junk, node, now, settings


def source_of(address: Hashable) -> Hashable:
    """What stands before the colon; the port comes after it."""
    return str(address).split(":")[0]


def load_up(hub: RekeyNode, at: float, *, expected: bool = False, to: str = "hub") -> None:
    """First fragments with a valid mac1 from as many forged addresses."""
    first = junk(3000, to)[0]
    for number in range(LOAD_FRAGMENTS + 1):
        hub.receive(first, f"forged-{number}:1", now(at), expected=expected)
    hub.take_replies()
    hub.take_effects()


def pair() -> tuple[RekeyNode, RekeyNode]:
    """The hub, and b, which knows where it is."""
    return node("hub", settings("b", has_endpoint=False), source_of=source_of), node("b", settings("hub"))


def offered(b: RekeyNode, at: float) -> list[bytes]:
    """The datagrams of the first message that b makes now."""
    assert b.rekey_now("hub", now(at))
    return datagrams(b.take_effects(), "hub")


def replies(hub: RekeyNode) -> list[bytes]:
    return [datagram for datagram, _ in hub.take_replies()]
