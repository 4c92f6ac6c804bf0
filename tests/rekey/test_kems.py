"""Rekeys with KEMs of liboqs and with two at once, over a network that loses, doubles and reorders."""

from __future__ import annotations

import functools
import os

import pytest

from qtunnel.crypto.kem_set import find_kem
from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.handshake.suites import SUITES, Combiner, find_suite
from qtunnel.identity import Identity
from qtunnel.rekey.model import Memory
from tests.rekey.gateways import IDENTITIES, node, now, reasons, settings
from tests.rekey.simulation import Conditions, Simulation

BAD = Conditions(loss=0.1, duplicate=0.05, least_delay=0.001, most_delay=0.2)
SUITES_TO_TRY: list[tuple[tuple[str, ...], Combiner]] = [
    (("ml-kem-768",), "catkdf"),
    (("ml-kem-1024",), "catkdf"),
    (("hqc-256",), "hkdf"),
    (("frodokem-1344-shake",), "hkdf"),
    (("hqc-256", "ml-kem-1024"), "hkdf"),
    (("hqc-256", "ml-kem-1024"), "catkdf"),
    (("frodokem-976-shake", "ml-kem-1024"), "hkdf"),
    (("classic-mceliece-348864", "ml-kem-1024"), "hkdf"),
]


@functools.cache
def identities(*names: str) -> tuple[Identity, Identity]:
    kems = [find_kem(name) for name in names]
    return Identity.create(os.urandom, kems), Identity.create(os.urandom, kems)


@pytest.mark.parametrize("names,combiner", SUITES_TO_TRY, ids=lambda value: "+".join(value) if value else "")
def test_rekeys_go_through(names: tuple[str, ...], combiner: Combiner, liboqs: None) -> None:
    suite = find_suite([find_kem(name) for name in names], "chacha20-poly1305", combiner)
    simulation = Simulation(3, BAD, suite=suite, identities=identities(*names))
    a, b = simulation.hosts["a"], simulation.hosts["b"]
    simulation.run_until(lambda: a.engine.installs >= 4 and simulation.agreed, limit=600)
    assert b.engine.psk == a.engine.psk
    assert {host.count("peer.defect") for host in (a, b)} == {0}


def test_an_end_with_another_suite_is_named(liboqs: None) -> None:
    """Both suites are known to the one who is asked, and then only its own is."""
    two = find_suite([find_kem("hqc-128"), find_kem("ml-kem-768")], "chacha20-poly1305")
    made = identities("hqc-128", "ml-kem-768")
    simulation = Simulation(3, BAD, suite=two, identities=made)
    simulation.suite = SUITES[1]
    simulation.settings["b"] = simulation._settings("a", 0, simulation.settings["b"].policy, {})
    simulation.start("b")
    simulation.run_for(20)
    assert simulation.hosts["b"].count("message.rejected", reason="suite") > 0
    assert not simulation.agreed


def test_fragments_of_a_long_message_are_kept_only_where_a_peer_has_its_suite(liboqs: None) -> None:
    suite = find_suite([find_kem("frodokem-640-shake")], "chacha20-poly1305")
    hub = node("hub", settings("b"))
    long = cut(Message(MessageType.INIT, suite.id, bytes(16), bytes(20_000)), mac1_key(IDENTITIES["hub"].public.id))
    assert len(long) > 8
    hub.receive(long[0], "somebody", now(1.0))
    assert hub.anybody.partials == 0
    assert reasons(hub.take_effects()) == ["suite"]
    hub.add_peer(settings("c", suite=suite), Memory(), now(1.0))
    hub.take_effects()
    hub.receive(long[0], "somebody", now(1.0))
    assert hub.anybody.partials == 1
    hub.remove_peer("c")
    hub.receive(long[1], "somebody", now(1.0))
    assert hub.anybody.partials == 1
    assert reasons(hub.take_effects()) == ["suite"]
