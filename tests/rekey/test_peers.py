"""Several peers at one gateway: what one of them does, or is, reaches no other."""

from __future__ import annotations

import pytest

from qtunnel.errors import HandshakeError
from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.identity import PublicIdentity
from qtunnel.rekey.exchanges import Exchanges
from qtunnel.rekey.limits import EXCHANGES_REMEMBERED
from qtunnel.rekey.model import Block, Defect, FetchById, Fetched, FetchNew, Install, Notice
from qtunnel.rekey.node import RekeyNode
from qtunnel.rekey.states import OutState
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef, Policy, QkdPolicy
from tests.rekey.attacks import effects, fetches, send, unknown_key
from tests.rekey.gateways import (
    IDENTITIES,
    SUITE,
    datagrams,
    exchange_of,
    first_message,
    hand,
    node,
    now,
    reasons,
    sent,
    settings,
)
from tests.rekey.simulation import Conditions, Simulation
from tests.rekey.test_rekey import done


def unusable(which: str) -> PublicIdentity:
    """A public identity as no public file can hold it."""
    good = IDENTITIES["b"].public
    if which == "x25519":
        return PublicIdentity(good.wireguard, bytes(32), good.kem)
    return PublicIdentity(good.wireguard, good.x25519, {**good.kem, SUITE.kem.name: b"\xff" * 1568})


@pytest.mark.parametrize("which", ["kem", "x25519"])
@pytest.mark.parametrize("way", ["tick", "rekey", "fetched"])
def test_a_peer_with_an_unusable_key_fails_alone_and_is_tried_again(which: str, way: str) -> None:
    changes = {"policy": Policy(QkdPolicy.PREFERRED), "sources": ("metro",)} if way == "fetched" else {}
    hub = node("hub", settings("bad", unusable(which), **changes), settings("c"))
    if way == "rekey":
        assert hub.rekey_now("bad", now(0.0))
    hub.tick(now(5.0))
    found = hub.take_effects()
    if way == "fetched":
        (fetch,) = [effect for effect in found if isinstance(effect, FetchNew)]
        hub.fetched("bad", fetch.ticket, Fetched((), (("metro", "down"),)), now(6.0))
        found += hub.take_effects()
    assert set(reasons(found, "rekey.failed")) == {"peer-key"}
    assert not [effect for effect in found if isinstance(effect, Defect | Block)]
    assert len(sent(found, "c")) == 1
    bad = hub.peers["bad"]
    assert bad.outbound.state is OutState.IDLE
    assert bad.context.memory.proposed == bad.context.epoch == 0
    assert bad.deadline is not None
    assert bad.deadline <= 7.0


@pytest.mark.parametrize("way", ["tick", "fetched", "rekey"])
def test_a_handshake_error_out_of_place_is_that_peers_defect(way: str) -> None:
    hub = node("hub", settings("b"), settings("c"))

    def fail(*_: object) -> bool:
        raise HandshakeError("malformed", "where nothing was received")

    for method in ("tick", "fetched", "rekey_now"):
        setattr(hub.peers["b"], method, fail)
    if way == "tick":
        hub.tick(now(5.0))
    elif way == "fetched":
        hub.fetched("b", 1, Fetched(), now(5.0))
    else:
        assert not hub.rekey_now("b", now(5.0))
    found = hub.take_effects()
    assert [effect.peer for effect in found if isinstance(effect, Defect)] == ["b"]
    hub.tick(now(6.0))
    assert way == "tick" or sent(hub.take_effects(), "c")


def installed(found: list[object], peer: str) -> bool:
    return any(isinstance(effect, Install) and effect.peer == peer for effect in found)


def begin(at: RekeyNode, peer: str, mono: float) -> list[bytes]:
    assert at.rekey_now(peer, now(mono))
    return datagrams(at.take_effects(), peer)


@pytest.mark.parametrize("first", ["thief", "owner"])
@pytest.mark.parametrize("hub_begins", [True, False])
def test_no_peer_can_take_the_exchange_of_another(hub_begins: bool, first: str) -> None:
    """Who sees an exchange id, or knows it before it is used, gets an exchange of its own by it, and no more."""
    hub, b = node("hub", settings("b"), settings("c")), node("b", settings("hub"))
    one, other, its, mine = (hub, b, "hub", "b") if hub_begins else (b, hub, "b", "hub")
    init = begin(one, mine, 0.1)
    theft = first_message("c", 0.2, exchange_of(init[0]))
    if first == "thief":
        assert hand(hub, theft, "c", 0.2) is not None
    hand(other, init, its, 0.3)
    if first == "owner":
        assert hand(hub, theft, "c", 0.3) is not None
    found = other.take_effects()
    response = datagrams(found, its)
    assert response
    if not hub_begins:
        assert datagrams(found, "c"), "each has its own answer"
        hand(hub, init, its, 0.4)
        assert datagrams(hub.take_effects(), its) == response, "a copy is answered as before"
    hand(one, response, mine, 0.4)
    commit = datagrams(one.take_effects(), mine)
    forged = cut(Message(MessageType.COMMIT, SUITE.id, exchange_of(init[0]), bytes(24)), other_key(other))
    hand(other, forged, "c", 0.5)
    found = other.take_effects()
    assert not installed(list(found), its)
    assert not installed(list(found), "c")
    hand(other, commit, its, 0.5)
    found = other.take_effects()
    assert installed(list(found), its)
    assert not installed(list(found), "c")
    confirmed = datagrams(found, its)
    hand(other, commit, its, 0.6)
    assert datagrams(other.take_effects(), its) == confirmed, "and so is a copy of the commit"
    hand(one, confirmed, mine, 0.6)
    assert installed(list(one.take_effects()), mine)


def other_key(receiver: RekeyNode) -> bytes:
    return mac1_key(receiver.local.public.id)


@pytest.mark.parametrize("kind", [MessageType.RESPONSE, MessageType.COMMITTED, MessageType.COMMIT])
def test_an_id_counts_only_for_the_messages_that_its_side_gets(kind: MessageType) -> None:
    hub = node("hub", settings("b"))
    init = begin(hub, "b", 0.1) if kind is MessageType.COMMIT else first_message("b", 0.1)
    if kind is not MessageType.COMMIT:
        assert hand(hub, init, "b", 0.1) is not None
    hub.take_effects()
    message = Message(kind, SUITE.id, exchange_of(init[0]), bytes(24))
    hand(hub, cut(message, mac1_key(IDENTITIES["hub"].public.id)), "b", 0.2)
    assert reasons(hub.take_effects()) == ["exchange"]


def test_exchange_ids_of_a_peer_are_bounded_and_go_with_it() -> None:
    exchanges = Exchanges()
    ids = [bytes([number]) * 16 for number in range(EXCHANGES_REMEMBERED + 2)]
    for exchange in ids:
        exchanges.add_theirs("b", exchange)
        exchanges.add_theirs("b", exchange)
    assert [exchanges.of_theirs(exchange) for exchange in ids] == [(), ()] + [("b",)] * EXCHANGES_REMEMBERED
    exchanges.add_theirs("c", ids[0])
    exchanges.add_theirs("c", ids[-1])
    assert exchanges.of_theirs(ids[-1]) == ("b", "c")
    exchanges.set_ours("b", ids[1])
    exchanges.set_ours("b", ids[2])
    assert [exchanges.of_ours(ids[number]) for number in (0, 1, 2)] == [None, None, "b"]
    exchanges.forget("b")
    assert [exchanges.of_theirs(exchange) for exchange in ids] == [("c",)] + [()] * (len(ids) - 2) + [("c",)]
    exchanges.forget("c")
    assert not exchanges._theirs
    assert exchanges.of_ours(ids[2]) is None


def test_a_key_that_was_asked_for_before_a_defect_is_wiped() -> None:
    """It is the peer's, and must never be offered as ours."""
    simulation = Simulation(1, Conditions())
    done(simulation)
    b = simulation.hosts["b"]
    send(simulation, "a", unknown_key(simulation))
    (fetch,) = fetches(effects(b))
    b.node.peers["a"].tick = lambda now: 1 // 0  # type: ignore[method-assign,assignment]  # a defect
    simulation.now += 60.0
    b.node.tick(simulation.clock())
    assert [type(effect) for effect in effects(b)].count(Defect) == 1
    key = Secret(bytes(range(32)))
    b.node.fetched("a", fetch.ticket, Fetched(((fetch.refs[0], key),)), simulation.clock())
    assert key.wiped
    context = b.node.peers["a"].context
    assert (len(context.ours), len(context.theirs)) == (0, 0)


def test_a_key_that_comes_after_the_time_limit_is_kept_for_the_next_offer() -> None:
    policy = Policy(QkdPolicy.PREFERRED)
    hub = node("hub", settings("b", policy=policy, sources=("metro",)))
    assert hub.rekey_now("b", now(0.0))
    (fetch,) = [effect for effect in hub.take_effects() if isinstance(effect, FetchNew)]
    hub.tick(now(30.0))
    assert sent(hub.take_effects(), "b")
    ref, key = KeyRef("metro", "1", 32), Secret(bytes(range(32)))
    for _ in range(2):
        hub.fetched("b", fetch.ticket, Fetched(((ref, key.copy()),)), now(31.0))
    assert hub.peers["b"].context.ours.get(ref) == key
    assert not [effect for effect in hub.take_effects() if isinstance(effect, Notice | FetchById)]


def test_used_keys_are_known_over_a_defect_and_go_with_their_peer() -> None:
    simulation = Simulation(1, Conditions())
    done(simulation, 2)
    b = simulation.hosts["b"].node
    used = len(b._used)
    assert used >= 2
    b.peers["a"].tick = lambda now: 1 // 0  # type: ignore[method-assign,assignment]  # a defect
    simulation.now += 60.0
    b.tick(simulation.clock())
    assert len(b._used) == used
    b.remove_peer("a")
    assert len(b._used) == 0
