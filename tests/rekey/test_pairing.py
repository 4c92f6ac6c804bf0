"""A pairing secret makes the first message authentic by more than X25519."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qtunnel.handshake.fragments import MessageType
from qtunnel.rekey.model import FetchById, Notice, Send
from qtunnel.rekey.states import InState
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef
from tests.rekey.attacks import effects, offer_from, send, tamper
from tests.rekey.simulation import Simulation
from tests.rekey.test_rekey import CLEAN, done, rekeys

PAIRING = b"p" * 32
NEWS = (KeyRef("metro", "key-forged", 32),)


def paired(a: bytes | None = PAIRING, b: bytes | None = PAIRING) -> Simulation:
    simulation = Simulation(1, CLEAN)
    for name, secret in (("a", a), ("b", b)):
        pairing = None if secret is None else Secret(secret)
        simulation.settings[name] = replace(simulation.settings[name], pairing=pairing)
        simulation.start(name)
    return simulation


def test_with_the_same_secret_at_both_ends_epochs_are_made() -> None:
    simulation = paired()
    done(simulation, 3)
    assert simulation.agreed


@pytest.mark.parametrize("secret", [None, b"q" * 32])
def test_who_has_all_private_keys_but_not_the_secret_gets_no_answer_and_costs_no_key(secret: bytes | None) -> None:
    """More than whoever broke X25519 can do."""
    simulation = paired()
    done(simulation)
    before = rekeys(simulation), simulation.kme.delivered
    true = simulation.settings["a"]
    simulation.settings["a"] = replace(true, pairing=None if secret is None else Secret(secret))
    forged = offer_from(simulation, "a", keys=NEWS)
    simulation.settings["a"] = true
    b = simulation.hosts["b"]
    effects(b)
    assert send(simulation, "a", forged) == [None] * len(forged)
    found = effects(b)
    assert not [effect for effect in found if isinstance(effect, Send | FetchById)]
    assert [effect.fields["reason"] for effect in found if isinstance(effect, Notice)] == ["authentication"]
    assert b.node.take_replies() == []
    done(simulation, before[0] + 2)
    assert simulation.kme.delivered == before[1] + rekeys(simulation) - before[0]


def test_the_same_offer_with_the_secret_is_answered() -> None:
    simulation = paired()
    done(simulation)
    b = simulation.hosts["b"]
    effects(b)
    send(simulation, "a", offer_from(simulation, "a", keys=NEWS))
    assert [effect for effect in effects(b) if isinstance(effect, FetchById)]


@pytest.mark.parametrize("secrets", [(PAIRING, None), (None, PAIRING), (PAIRING, b"q" * 32)])
def test_secrets_that_differ_make_no_epoch(secrets: tuple[bytes | None, bytes | None]) -> None:
    simulation = paired(*secrets)
    simulation.run_for(60.0)
    assert rekeys(simulation) == 0
    assert all(host.engine.blocked for host in simulation.hosts.values())
    assert simulation.kme.delivered <= 2  # a key for each end, kept for the next attempt


def other_secret(simulation: Simulation, name: str, secret: bytes | None) -> None:
    """A reload at one end."""
    host = simulation.hosts[name]
    pairing = None if secret is None else Secret(secret)
    host.node.change_peer(replace(simulation.settings[name], pairing=pairing), simulation.clock())
    simulation._carry_out(host)


@pytest.mark.parametrize("state", [InState.FETCHING, InState.ANSWERED])
@pytest.mark.parametrize("secret", [None, b"q" * 32])
def test_another_secret_ends_what_was_begun_with_the_old_one(secret: bytes | None, state: InState) -> None:
    """A secret is changed because somebody else may have it: what that one has begun must not be finished."""
    simulation = paired()
    done(simulation, 2)

    def waiting() -> list[str]:
        return [name for name, host in simulation.hosts.items() if host.node.peers[host.peer].inbound.state is state]

    simulation.run_until(lambda: bool(waiting()), limit=30)
    (name,) = waiting()
    host = simulation.hosts[name]
    installs = host.engine.installs
    other_secret(simulation, name, secret)
    assert host.node.peers[host.peer].inbound.state is InState.IDLE
    simulation.run_for(60.0)
    assert host.engine.installs == installs


def test_an_epoch_that_is_in_place_is_confirmed_though_the_secret_changed() -> None:
    simulation = paired()
    done(simulation, 2)
    losing = True
    tamper(simulation, lambda _, datagram: None if losing and datagram[0] == MessageType.COMMITTED else datagram)
    before = {name: host.engine.epoch for name, host in simulation.hosts.items()}

    def behind() -> list[str]:
        ahead = [name for name, host in simulation.hosts.items() if host.engine.epoch != before[name]]
        return [simulation.hosts[name].peer for name in ahead]

    simulation.run_until(lambda: bool(behind()), limit=30)
    (initiator,) = behind()
    simulation.run_for(0.2)
    assert not simulation.agreed
    other_secret(simulation, simulation.hosts[initiator].peer, b"q" * 32)
    losing = False
    simulation.run_for(10.0)
    assert simulation.agreed
