"""What whoever is on the path, or an end that lies, does in the simulation: messages of its own, and changed ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import Offer
from qtunnel.rekey.model import Effect, FetchById
from qtunnel.tai64n import tai64n
from qtunnel.terms import KeyRef
from tests.rekey.simulation import Host, Simulation


def tamper(simulation: Simulation, change: Callable[[str, bytes], bytes | None]) -> None:
    """Every datagram passes through ``change``, which gets its receiver; None is a loss."""
    deliver = simulation._deliver

    def changed(receiver: str, sender: str, datagram: bytes) -> None:
        result = change(receiver, datagram)
        if result is not None:
            deliver(receiver, sender, result)

    simulation._deliver = changed  # type: ignore[method-assign]  # the attacker on the path


def offer_from(simulation: Simulation, name: str, **changes: object) -> list[bytes]:
    """Datagrams of a first message that host ``name`` itself could have made, with whatever content."""
    host = simulation.hosts[name]
    settings = simulation.settings[name]
    offer = Offer(tai64n(simulation.clock().unix_ns), host.memory.epoch + 1, settings.policy, 0, (), ())
    offer = replace(offer, **changes)  # type: ignore[arg-type]  # fields of Offer by name
    exchange = simulation.rng.randbytes(16)
    initiator = Initiator(
        host.node.local, settings.public, settings.suite, exchange, offer, simulation.rng.randbytes,
        pairing=settings.pairing,
    )  # fmt: skip
    message = Message(MessageType.INIT, settings.suite.id, exchange, initiator.message)
    return cut(message, mac1_key(settings.public.id))


def send(simulation: Simulation, name: str, datagrams: list[bytes], address: str = "mallory") -> list[str | None]:
    """Hand them to the peer of ``name``. Who was heard by each."""
    peer = simulation.hosts[simulation.hosts[name].peer]
    heard = [peer.node.receive(datagram, address, simulation.clock()) for datagram in datagrams]
    return [None if its is None else its.peer for its in heard]


def effects(host: Host) -> list[Effect]:
    return host.node.take_effects()


def fetches(found: list[Effect]) -> list[FetchById]:
    return [effect for effect in found if isinstance(effect, FetchById)]


def unknown_key(simulation: Simulation) -> list[bytes]:
    """An offer of a key that no KME has."""
    key = KeyRef("metro", simulation.rng.randbytes(8).hex(), 32)
    simulation.now += 0.1  # later than any before it
    return offer_from(simulation, "a", keys=(key,))
