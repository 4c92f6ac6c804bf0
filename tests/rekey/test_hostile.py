"""Peers that lie and messages changed on the way: what they may cost, and what they never may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from qtunnel.handshake.fragments import MAX_PAYLOAD, Fragment, Message, MessageType, cut, mac1_key, parse
from qtunnel.rekey.limits import EPOCH_JUMP, OWN_EPOCH_JUMP
from qtunnel.rekey.model import Fetched, Memory, Notice, Send
from qtunnel.rekey.states import InState, OutState
from qtunnel.rekey.timing import ATTEMPT_LIMIT, PENDING_LIMIT
from tests.rekey.attacks import effects, fetches, offer_from, send, tamper, unknown_key
from tests.rekey.simulation import Conditions, Simulation
from tests.rekey.test_rekey import CLEAN, PREFERRED, done, reasons, rekeys


def flip_proof(simulation: Simulation) -> Callable[[str, bytes], bytes]:
    """Changes the last byte of message 2's body, its proof's tag, and makes mac1 anew: mac1 is public."""

    def change(receiver: str, datagram: bytes) -> bytes:
        key = mac1_key(simulation.hosts[receiver].node.local.public.id)
        fragment = parse(datagram, key)
        if fragment.type is not MessageType.RESPONSE or fragment.index < fragment.count - 1:
            return datagram
        return recut(replace(fragment, payload=fragment.payload[:-1] + bytes([fragment.payload[-1] ^ 1])), key)

    return change


def recut(fragment: Fragment, key: bytes) -> bytes:
    """One datagram anew from its fragment."""
    body = bytearray(fragment.length)
    start = fragment.index * MAX_PAYLOAD
    body[start : start + len(fragment.payload)] = fragment.payload
    return cut(Message(fragment.type, fragment.suite, fragment.exchange, bytes(body)), key)[fragment.index]


def test_a_changed_proof_is_a_lost_message_and_costs_nothing() -> None:
    simulation = Simulation(1, CLEAN)
    change = flip_proof(simulation)
    hits: list[int] = []

    def once(receiver: str, datagram: bytes) -> bytes:
        result = change(receiver, datagram)
        if result != datagram and len(hits) < 3:
            hits.append(1)
            return result
        return datagram

    tamper(simulation, once)
    done(simulation)
    assert len(hits) == 3
    assert simulation.agreed
    assert simulation.kme.delivered == 1
    assert reasons(simulation, "a") | reasons(simulation, "b") == set()


def test_a_proof_that_is_always_wrong_is_named_once_the_attempt_ends() -> None:
    simulation = Simulation(1, CLEAN)
    tamper(simulation, flip_proof(simulation))
    start = simulation.now
    simulation.run_until(lambda: "key-mismatch" in reasons(simulation, "a") | reasons(simulation, "b"), limit=100)
    assert simulation.now >= start + ATTEMPT_LIMIT
    assert all(host.engine.blocked for host in simulation.hosts.values())


@pytest.mark.parametrize("epoch", [EPOCH_JUMP + 100, (1 << 63) - 1])
def test_an_epoch_out_of_bounds_is_not_answered_and_raises_nothing(epoch: int) -> None:
    simulation = Simulation(1, CLEAN, policy_a=PREFERRED, policy_b=PREFERRED)
    done(simulation, 2)
    b = simulation.hosts["b"]
    before = b.node.peers["a"].context.epoch
    send(simulation, "a", offer_from(simulation, "a", epoch=epoch))
    assert b.node.peers["a"].context.epoch == before
    assert any(isinstance(e, Notice) and e.fields.get("reason") == "epoch" for e in effects(b))
    done(simulation, 2)
    assert simulation.agreed


def test_offers_far_ahead_never_take_our_own_offers_out_of_the_peers_bounds() -> None:
    simulation = Simulation(1, CLEAN, policy_a=PREFERRED, policy_b=PREFERRED)
    done(simulation, 2)
    for ahead in (OWN_EPOCH_JUMP, OWN_EPOCH_JUMP + 1, EPOCH_JUMP):
        simulation.run_for(1.0)
        floor = simulation.hosts["b"].memory.epoch
        send(simulation, "a", offer_from(simulation, "a", epoch=floor + ahead))
        assert simulation.hosts["b"].node.peers["a"].context.epoch <= floor + OWN_EPOCH_JUMP + 1
    simulation.run_for(PENDING_LIMIT)
    done(simulation, 3)
    assert simulation.agreed


def test_an_end_that_lost_its_state_catches_up_with_a_far_epoch() -> None:
    simulation = Simulation(1, CLEAN)
    simulation.hosts["a"].memory = Memory(epoch=EPOCH_JUMP - 1000)
    simulation.start("a")
    done(simulation, 2)
    assert simulation.agreed
    assert simulation.hosts["b"].memory.epoch > EPOCH_JUMP - 1000


def test_a_replay_time_far_ahead_locks_nobody_out_for_longer_than_its_exchange() -> None:
    """Who broke X25519 alone can make a first message, but never a commit."""
    simulation = Simulation(1, CLEAN, policy_a=PREFERRED, policy_b=PREFERRED)
    done(simulation, 2)
    send(simulation, "a", offer_from(simulation, "a", timestamp=b"\x7f" + bytes(11)))
    simulation.run_for(PENDING_LIMIT + 1)
    before = rekeys(simulation)
    simulation.run_for(60.0)
    assert rekeys(simulation) > before
    assert simulation.hosts["b"].memory.seen < b"\x7f"


def test_a_first_message_is_looked_at_once_whoever_sends_it_again() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    b = simulation.hosts["b"]
    first = unknown_key(simulation)
    assert "a" in send(simulation, "a", first)
    for effect in fetches(effects(b)):
        failed = Fetched((), (("metro", "unknown key_ID"),))
        b.node.fetched("a", effect.ticket, failed, simulation.clock())
    send(simulation, "a", unknown_key(simulation))
    for effect in fetches(effects(b)):
        b.node.fetched("a", effect.ticket, failed, simulation.clock())
    assert b.node.peers["a"].inbound.state is InState.IDLE
    assert send(simulation, "a", first, "elsewhere") == [None] * len(first)
    assert not fetches(effects(b))


def test_an_older_offer_never_takes_the_place_of_a_newer_one_under_way() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    older, newer = unknown_key(simulation), unknown_key(simulation)
    assert "a" in send(simulation, "a", newer)
    assert "a" not in send(simulation, "a", older)
    assert len(fetches(effects(simulation.hosts["b"]))) == 1


def test_what_was_committed_is_a_replay_after_a_restart_too() -> None:
    simulation = Simulation(1, CLEAN)
    sent: list[tuple[str, bytes]] = []

    def record(receiver: str, datagram: bytes) -> bytes:
        if datagram[0] == MessageType.INIT:
            sent.append((receiver, datagram))
        return datagram

    tamper(simulation, record)
    done(simulation)
    name = sent[0][0]
    simulation.start(name)
    host = simulation.hosts[name]
    for _, datagram in sent:
        assert host.node.receive(datagram, "mallory", simulation.clock()) is None
    found = effects(host)
    assert not fetches(found)
    assert any(isinstance(effect, Notice) and effect.fields.get("reason") == "replay" for effect in found)


def test_an_answer_with_an_epoch_out_of_bounds_is_not_believed() -> None:
    simulation = Simulation(1, CLEAN)
    higher = max(simulation.hosts, key=lambda name: simulation.hosts[name].node.local.public.id)
    lower = simulation.hosts[higher].peer
    context = simulation.hosts[lower].node.peers[higher].context
    context.floor = context.epoch = 1 << 60
    simulation.run_for(20.0)
    assert "epoch" in reasons(simulation, higher)
    assert simulation.hosts[higher].node.peers[lower].context.epoch < 100


def test_a_peer_that_moved_is_known_by_its_first_message_even_where_ours_goes_first() -> None:
    simulation = Simulation(1, Conditions(loss=1.0))
    higher = max(simulation.hosts, key=lambda name: simulation.hosts[name].node.local.public.id)
    lower = simulation.hosts[higher].peer
    node = simulation.hosts[higher].node
    simulation.run_until(lambda: node.peers[lower].outbound.state is OutState.OFFERED, limit=20)
    simulation.settings[lower] = replace(simulation.settings[lower], has_endpoint=False)
    assert lower in send(simulation, lower, offer_from(simulation, lower), "new address")
    assert node.peers[lower].inbound.state is InState.IDLE
    assert [effect.address for effect in effects(simulation.hosts[higher]) if isinstance(effect, Send)] == [
        "new address"
    ]
