"""A pairing secret makes the first message authentic by more than X25519."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qtunnel.rekey.model import FetchById, Notice, Send
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef
from tests.rekey.simulation import Simulation
from tests.rekey.test_hostile import effects, offer_from, send
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
