"""What a flood may cost: memory, computation, answers, and never a rekey of who has business there."""

from __future__ import annotations

import pytest

from qtunnel.handshake.fragments import PARTIALS, Message, MessageType, cut, mac1_key
from qtunnel.rekey.limits import (
    CALM_FRAGMENTS,
    COOKIE_BURST,
    LOAD_FRAGMENTS,
    LOAD_LASTS,
    SOURCES,
    TELL_BURST,
    UNPROVEN_RATE,
)
from qtunnel.rekey.model import Notice
from tests.rekey.flooding import load_up, offered, pair, replies
from tests.rekey.gateways import SUITE, datagrams, first_message, hand, junk, node, now, settings
from tests.rekey.simulation import Conditions, Simulation
from tests.rekey.test_rekey import done, rekeys


def test_load_begins_with_many_datagrams_and_ends_with_few() -> None:
    hub, _ = pair()
    load_up(hub, 1.0)
    hand(hub, junk(3000), "x:1", 2.1)
    assert replies(hub)
    first = junk(3000)[0]
    for number in range(CALM_FRAGMENTS + 1):  # more than means calm, fewer than begin it
        hub.receive(first, f"y{number}:1", now(5.0))
    hub.take_replies()
    hand(hub, junk(3000), "x:1", 5.0 + LOAD_LASTS - 0.1)
    assert replies(hub)
    hand(hub, first_message("b", 11.0), "b:1", 5.0 + LOAD_LASTS + 2.0)
    assert not replies(hub)
    assert datagrams(hub.take_effects(), "b")
    for number in range(CALM_FRAGMENTS + 1):
        hub.receive(first, f"z{number}:1", now(20.0))
    assert not replies(hub)


def test_a_flood_from_forged_addresses_does_not_fill_the_memory_or_the_outbox() -> None:
    hub, b = pair()
    for number in range(3 * PARTIALS):
        hub.receive(junk(1200)[0], f"forged-{number}:1", now(1.0 + number / 50_000))
    assert hub.anybody.partials <= LOAD_FRAGMENTS
    assert COOKIE_BURST <= len(hub.take_replies()) < 2 * PARTIALS
    told = hub.take_effects()
    assert len(told) <= TELL_BURST + 5
    assert all(isinstance(effect, Notice) for effect in told)  # no call to a KME, no answer
    init = offered(b, 3.0)
    hand(hub, init, "b:1", 3.0)
    notices = [one for one in told + hub.take_effects() if isinstance(one, Notice)]
    counted = sum(1 + int(str(one.fields.get("more", 0))) for one in notices)
    assert counted == 3 * PARTIALS - LOAD_FRAGMENTS + len(init)  # so none is kept quiet


def test_a_flood_of_one_way_in_does_not_hinder_the_other() -> None:
    hub, b = pair()
    for number in range(5000):
        hub.receive(junk(1200)[0], f"forged-{number}:1", now(1.0 + number / 50_000))
    heard = None
    for datagram in offered(b, 1.0):
        heard = hub.receive(datagram, "b:1", now(1.0), expected=True)
    assert heard is not None
    assert datagrams(hub.take_effects(), "b")
    load_up(hub, 1.0, expected=True)  # from forged addresses of peers
    assert hub.expected.partials


def test_both_ends_rekey_while_both_are_flooded() -> None:
    simulation = Simulation(3, Conditions(loss=0.2, duplicate=0.1))
    flood = junk(3000)[0]
    keys = {name: mac1_key(host.node.local.public.id) for name, host in simulation.hosts.items()}

    def made(name: str) -> bytes:
        message = Message(MessageType.INIT, SUITE.id, simulation.rng.randbytes(16), flood[24:1200] * 2)
        return cut(message, keys[name])[0]

    step = simulation.step

    def flooded() -> None:
        step()
        for name, host in simulation.hosts.items():
            host.node.anybody._gauge._until = simulation.now + 10.0  # as after more than one can afford to make here
            for number in range(3):
                host.node.receive(made(name), f"forged-{number}", simulation.clock())
            for datagram, address in host.node.take_replies():
                if address in simulation.hosts:
                    simulation._transmit(host, datagram)

    simulation.step = flooded  # type: ignore[method-assign]
    done(simulation, 8)
    assert simulation.agreed
    # one call for each epoch and end, and one more where an answer was lost for good
    assert simulation.kme.delivered <= rekeys(simulation) + 2


@pytest.mark.parametrize("expected", [False, True])
def test_bounds_hold_for_each_way_in(expected: bool) -> None:
    hub = node("hub", settings("b"))
    for second in range(20):
        for number in range(2 * LOAD_FRAGMENTS):
            hub.receive(junk(1200)[0], f"{second}-{number}", now(float(second)), expected=expected)
        hub.take_replies()
        hub.take_effects()
        assert max(hub.expected.partials, hub.anybody.partials) <= min(PARTIALS, 11 * LOAD_FRAGMENTS)
    assert len(hub.anybody._fragments) + len(hub.anybody._sources) <= 2 * SOURCES
    assert LOAD_FRAGMENTS / 3 < UNPROVEN_RATE


def test_datagrams_that_get_no_answer_do_not_use_the_answers_up() -> None:
    """A message's last fragment is small, and is never answered, as the answer would be larger."""
    hub, b = pair()
    init = offered(b, 1.0)
    load_up(hub, 1.0)
    small = junk(3000)[-1]
    assert len(small) < len(init[0])
    for number in range(5000):
        hub.receive(small, f"forged-{number}:2", now(1.2))
    assert replies(hub) == []
    hand(hub, init[:1], "b:1", 1.2)
    assert len(replies(hub)) == 1
