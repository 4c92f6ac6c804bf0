"""Who has stolen a gateway's own static X25519 key forges first messages to it in any peer's name, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from qtunnel.errors import HandshakeError
from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key, parse
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import Offer
from qtunnel.identity import Identity
from qtunnel.rekey.model import FetchById, Notice, Send
from qtunnel.rekey.timing import PENDING_LIMIT
from qtunnel.secret import Secret
from qtunnel.tai64n import tai64n
from qtunnel.terms import KeyRef
from tests.rekey.attacks import effects, send
from tests.rekey.simulation import Simulation
from tests.rekey.test_rekey import CLEAN, PREFERRED, done, rekeys

PAIRING = b"p" * 32


def forge(
    simulation: Simulation, keys: tuple[KeyRef, ...] = (), pairing: Secret | None = None
) -> tuple[Initiator, list[bytes]]:
    """A first message to b in a's name, made of b's X25519 key and of what is public of a; and who made it."""
    a, b = (simulation.hosts[name].node.local for name in "ab")
    with_the_stolen_key = SimpleNamespace(exchange=lambda _: b.dh.exchange(a.public.x25519))
    posing = cast(Identity, SimpleNamespace(public=a.public, dh=with_the_stolen_key, kem=b.kem))
    suite, exchange = simulation.settings["a"].suite, simulation.rng.randbytes(16)
    offer = Offer(
        tai64n(simulation.clock().unix_ns),
        simulation.hosts["a"].memory.epoch + 1,
        simulation.settings["a"].policy,
        0,
        (),
        keys,
    )
    made = Initiator(posing, b.public, suite, exchange, offer, simulation.rng.randbytes, pairing=pairing)
    return made, cut(Message(MessageType.INIT, suite.id, exchange, made.message), mac1_key(b.public.id))


def test_it_is_answered_and_what_comes_back_is_of_no_use_without_the_peers_keys() -> None:
    simulation = Simulation(1, CLEAN, policy_a=PREFERRED, policy_b=PREFERRED)
    done(simulation, 2)
    b = simulation.hosts["b"]
    before, installs = rekeys(simulation), b.engine.installs
    effects(b)
    forger, datagrams = forge(simulation)
    assert "a" in send(simulation, "a", datagrams)  # authentic by X25519 alone: a forgery is not told from a's own
    answers = [effect for effect in effects(b) if isinstance(effect, Send)]
    assert [answer.address for answer in answers] == ["mallory"]
    key = mac1_key(simulation.hosts["a"].node.local.public.id)
    body = b"".join(parse(datagram, key).payload for effect in answers for datagram in effect.datagrams)
    with pytest.raises(HandshakeError) as refused:
        forger.read_response(body, {}, {}, lambda answer: None)
    assert refused.value.reason == "authentication"  # se and skem_i are a's
    simulation.run_for(PENDING_LIMIT + 1)
    done(simulation, 2)
    assert simulation.agreed
    assert b.engine.installs - installs == rekeys(simulation) - before, "an epoch that no rekey of a's and b's made"


def test_a_key_offered_in_the_peers_name_costs_a_call_and_no_key_of_the_peers() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    b = simulation.hosts["b"]
    before = rekeys(simulation), simulation.kme.delivered
    effects(b)
    send(simulation, "a", forge(simulation, (KeyRef("metro", "made-up", 32),))[1])
    assert len([effect for effect in effects(b) if isinstance(effect, FetchById)]) == 1
    done(simulation, 3)
    assert simulation.kme.delivered - before[1] == rekeys(simulation) - before[0]


@pytest.mark.parametrize("guess", [None, b"q" * 32])
def test_a_pairing_secret_stops_it(guess: bytes | None) -> None:
    simulation = Simulation(1, CLEAN, policy_a=PREFERRED, policy_b=PREFERRED, pairing=Secret(PAIRING))
    done(simulation)
    b = simulation.hosts["b"]
    effects(b)
    forged = forge(simulation, pairing=None if guess is None else Secret(guess))[1]
    assert set(send(simulation, "a", forged)) == {None}
    found = effects(b)
    assert not [effect for effect in found if isinstance(effect, Send | FetchById)]
    assert [effect.fields["reason"] for effect in found if isinstance(effect, Notice)] == ["authentication"]
