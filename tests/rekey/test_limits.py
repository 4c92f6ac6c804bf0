"""What one sender, or one peer, may cost: a share of what there is, never all of it."""

from __future__ import annotations

import random

import pytest

from qtunnel.crypto.kem import ML_KEM_768, ML_KEM_1024
from qtunnel.crypto.kem_set import find_kem
from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.handshake.messages import MAX_OFFER, MIN_OFFER, init_sizes
from qtunnel.handshake.suites import SUITES, find_suite
from qtunnel.identity import Identity
from qtunnel.rekey.limits import (
    COSTLY,
    FETCH_BURST,
    FETCHES_IN_FLIGHT,
    OFFER_BURST,
    OFFER_RATE,
    SOURCE_BURST,
    UNPROVEN_BURST,
    TokenBucket,
    TokenBuckets,
)
from qtunnel.rekey.model import FetchById, Memory, Notice
from qtunnel.rekey.node import RekeyNode
from qtunnel.terms import KeyRef
from tests.rekey.attacks import effects, offer_from, send
from tests.rekey.gateways import SUITE, first_message, hand, junk, node, now, reasons, sent, settings
from tests.rekey.simulation import Simulation
from tests.rekey.test_rekey import CLEAN, PREFERRED, done

LEAST = sum(init_sizes(SUITE)) + MIN_OFFER


def test_a_peer_is_answered_at_its_own_rate_only() -> None:
    hub = node("hub", settings("b"), settings("c"))
    for number in range(100):
        at = 1.0 + number / 100
        hand(hub, first_message("b", at, epoch=1 + number), f"b {number}", at)
    found = hub.take_effects()
    answers = len(sent(found, "b"))
    assert OFFER_BURST <= answers <= OFFER_BURST + OFFER_RATE + 1
    assert reasons(found).count("flood") == 100 - answers
    assert hand(hub, first_message("c", 2.0), "c", 2.0) is not None
    assert hand(hub, first_message("b", 4.0, epoch=200), "b", 4.0) is not None


def test_replays_do_not_use_up_the_rate_of_the_peer() -> None:
    hub = node("hub", settings("b"))
    old = first_message("b", 1.0)
    for number in range(20):
        hand(hub, old if number else first_message("b", 2.0), f"mallory {number}", 2.0)
    assert reasons(hub.take_effects()) == ["replay"] * 19
    assert hand(hub, first_message("b", 3.0), "b", 3.0) is not None


@pytest.mark.usefixtures("never_loaded")
def test_what_cannot_be_a_first_message_by_its_length_costs_nothing() -> None:
    hub = node("hub", settings("b"))
    for number in range(UNPROVEN_BURST + 1):
        hand(hub, junk(1), number, 1.0)
    for size in (LEAST - 1, LEAST - MIN_OFFER + MAX_OFFER + 1):
        for _ in range(SOURCE_BURST + 1):
            hand(hub, junk(size), "b", 1.0)
    assert set(reasons(hub.take_effects())) == {"malformed"}
    assert hand(hub, first_message("b", 1.0), "b", 1.0) is not None


@pytest.mark.usefixtures("never_loaded")
def test_one_source_does_not_use_up_what_there_is_for_all() -> None:
    hub = node("hub", settings("b"), source_of=lambda address: str(address).split(":")[0])
    for number in range(UNPROVEN_BURST):
        hand(hub, junk(LEAST), f"mallory:{number}", 1.0)
    found = reasons(hub.take_effects())
    beyond = (UNPROVEN_BURST - SOURCE_BURST) * len(junk(LEAST))
    assert (found.count("authentication"), found.count("cookie")) == (SOURCE_BURST, beyond)
    assert hand(hub, first_message("b", 1.0), "b:1", 1.0) is not None


@pytest.mark.usefixtures("never_loaded", "liboqs")
def test_first_messages_that_cost_more_count_for_more() -> None:
    suite = find_suite([find_kem("sntrup761")], "chacha20-poly1305")
    identity = Identity.create(random.Random(1).randbytes, suite.kem.kems)
    hub = RekeyNode(identity, random.Random(2).randbytes)
    hub.add_peer(settings("b", suite=suite), Memory(), now(0.0))
    body = bytes(sum(init_sizes(suite)) + MIN_OFFER)
    for number in range(UNPROVEN_BURST):
        datagrams = cut(Message(MessageType.INIT, suite.id, number.to_bytes(16), body), mac1_key(identity.public.id))
        hand(hub, datagrams, number, 1.0)
    found = reasons(hub.take_effects())
    assert found.count("authentication") == UNPROVEN_BURST / COSTLY
    assert found.count("flood") > 0
    assert not any(suite.costly for suite in SUITES.values())
    assert not find_suite([ML_KEM_768, ML_KEM_1024], "aes-256-gcm", "catkdf").costly


def test_buckets_are_bounded_and_the_one_unused_for_longest_gives_way() -> None:
    buckets = TokenBuckets(1.0, 0.0, 3)
    assert [buckets.take(key, 0.0) for key in "abcabc"] == [True] * 3 + [False] * 3
    assert buckets.take("d", 0.0)
    assert not buckets.take("b", 0.0)
    assert buckets.take("a", 0.0)
    assert len(buckets) == 3


def test_a_flood_of_offers_makes_a_bounded_number_of_calls() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    calls, busy = 0, 0
    for number in range(40):
        simulation.now += 0.01
        send(simulation, "a", offer_from(simulation, "a", keys=(KeyRef("metro", f"key-x{number}", 32),)))
        now = effects(simulation.hosts["b"])
        calls += sum(isinstance(effect, FetchById) for effect in now)
        busy += sum(isinstance(effect, Notice) and effect.fields.get("reason") == "busy" for effect in now)
    assert FETCH_BURST <= calls <= FETCH_BURST + 1 <= FETCHES_IN_FLIGHT
    assert OFFER_BURST <= calls + busy <= OFFER_BURST + 1  # more are not answered at all
    simulation.run_for(100.0)
    done(simulation, 2)
    assert simulation.agreed


@pytest.mark.usefixtures("never_loaded")
def test_a_flood_of_first_messages_is_cut_off() -> None:
    simulation = Simulation(1, CLEAN, suite=SUITES[3])
    node = simulation.hosts["b"].node
    body = bytes(sum(init_sizes(SUITES[3])) + MIN_OFFER)
    rejected: dict[object, int] = {}
    for number in range(UNPROVEN_BURST + 50):
        message = Message(MessageType.INIT, 3, number.to_bytes(16, "big"), body)
        for datagram in cut(message, mac1_key(node.local.public.id)):
            node.receive(datagram, number, simulation.clock())
        for effect in node.take_effects():
            if isinstance(effect, Notice):
                rejected[effect.fields["reason"]] = rejected.get(effect.fields["reason"], 0) + 1
    assert rejected["flood"] == 50
    done(simulation)


def test_stale_answers_again_and_again_are_met_with_patience() -> None:
    simulation = Simulation(1, CLEAN, policy_a=PREFERRED, policy_b=PREFERRED)
    done(simulation)
    for host in simulation.hosts.values():  # each end believes to be ahead of whatever the other offers
        context = host.node.peers[host.peer].context
        context.floor = 1 << 40
        context.hear_of = lambda epoch: None  # type: ignore[method-assign]  # and never learns
    simulation.run_for(60.0)
    failed = sum(host.count("rekey.failed", role="initiator") for host in simulation.hosts.values())
    assert 2 < failed < 30


def test_buckets_fill_at_their_rate_and_no_further() -> None:
    bucket = TokenBucket(2.0, 1.0)
    assert [bucket.take(5.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(at) for at in (5.5, 6.0, 6.5, 4.0)] == [False, True, False, False]
    assert [bucket.take(1e6) for _ in range(3)] == [True, True, False]
