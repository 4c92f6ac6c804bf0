"""What happens seldom: messages that come late, ends that answer what nobody may, peers that are gone."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from qtunnel.crypto.kem_set import EphemeralKeys, KemSet
from qtunnel.handshake.cookies import reply_to
from qtunnel.handshake.fragments import MAX_PAYLOAD, Message, MessageType, cut, mac1_key, parse
from qtunnel.handshake.messages import Answer, Verdict
from qtunnel.handshake.responder import KnownPeer, Responder
from qtunnel.keys.pace import Stock
from qtunnel.keys.policy import Protection
from qtunnel.rekey.model import Block, Defect, EpochInfo, FetchById, Fetched, FetchNew, Install, Notice
from qtunnel.rekey.node import RekeyNode
from qtunnel.rekey.states import InState, OutState
from qtunnel.rekey.timing import COMMIT_LIMIT, FETCH_LIMIT, OFFER_HOLD
from qtunnel.secret import RandomBytes, Secret
from qtunnel.terms import ChainPolicy, KeyRef, Policy, QkdPolicy
from tests.rekey.attacks import effects
from tests.rekey.gateways import (
    IDENTITIES,
    OFF,
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
from tests.rekey.simulation import Simulation
from tests.rekey.test_rekey import CLEAN, done

PREFERRED, REQUIRED = Policy(QkdPolicy.PREFERRED), Policy(QkdPolicy.REQUIRED)
KEY = KeyRef("metro", "1", 32)
BITS = bytes(range(32))


def pair(policy: Policy = OFF, **changes: Any) -> tuple[RekeyNode, RekeyNode]:
    """hub, whose identity is the higher one, and b."""
    changes = {"policy": policy} | ({"sources": ("metro",)} if policy is not OFF else {}) | changes
    return node("hub", settings("b", **changes)), node("b", settings("hub", **changes))


def begin(at: RekeyNode, peer: str, mono: float) -> list[bytes]:
    """Message 1, with a key in hand where one is asked for."""
    assert at.rekey_now(peer, now(mono))
    effects = at.take_effects()
    for fetch in effects:
        if isinstance(fetch, FetchNew):
            at.fetched(peer, fetch.ticket, Fetched(((KEY, Secret(BITS)),)), now(mono))
            effects = at.take_effects()
    return datagrams(effects, peer)


def answer(at: RekeyNode, made: list[bytes], peer: str, mono: float) -> list[bytes]:
    """What it sends to that peer for these datagrams."""
    hand(at, made, peer, mono)
    return datagrams(at.take_effects(), peer)


def installs(at: RekeyNode) -> list[int]:
    return [effect.epoch for effect in at.take_effects() if isinstance(effect, Install)]


def test_a_commit_that_comes_after_a_newer_epoch_installs_nothing() -> None:
    hub, b = pair()
    late = answer(b, answer(hub, begin(b, "hub", 1.0), "b", 1.0), "hub", 1.0)
    assert parse(late[0], mac1_key(IDENTITIES["hub"].public.id)).type is MessageType.COMMIT
    at = 1.0 + OFFER_HOLD + 1
    commit = answer(hub, answer(b, begin(hub, "b", at), "hub", at), "b", at)
    hand(hub, answer(b, commit, "hub", at), "b", at)
    assert installs(hub) == [2]
    assert hub.peers["b"].inbound.state.name == "ANSWERED"
    hand(hub, late, "b", at + 1)
    assert installs(hub) == []
    assert hub.peers["b"].inbound.state is InState.IDLE
    assert hub.peers["b"].context.floor == 2


def test_a_confirmation_that_comes_after_a_newer_epoch_installs_nothing() -> None:
    """Whatever brought the newer one: an epoch is never installed after it."""
    hub, b = pair()
    confirmation = answer(hub, answer(b, answer(hub, begin(b, "hub", 1.0), "b", 1.0), "hub", 1.0), "b", 1.0)
    b.peers["hub"].context.floor = 7
    hand(b, confirmation, "hub", 1.0)
    assert installs(b) == []
    assert b.peers["hub"].outbound.state is OutState.IDLE


def test_an_offer_is_stale_where_an_exchange_of_ours_came_first_while_its_keys_were_fetched() -> None:
    hub, b = pair(PREFERRED)
    hand(hub, begin(b, "hub", 1.0), "b", 1.0)
    (fetch,) = [effect for effect in hub.take_effects() if isinstance(effect, FetchById)]
    at = 1.0 + OFFER_HOLD + 1
    ours = begin_without_key(hub, "b", at)
    response = begin_answer_without_key(b, ours, "hub", at)
    commit = answer(hub, response, "b", at)
    hand(hub, answer(b, commit, "hub", at), "b", at)
    assert installs(hub) == [2]
    hub.fetched("b", fetch.ticket, Fetched(((KEY, Secret(BITS)),)), now(at))
    assert reasons(hub.take_effects(), "rekey.failed") == ["stale-epoch"]
    assert hub.peers["b"].inbound.state is InState.IDLE


def begin_without_key(at: RekeyNode, peer: str, mono: float) -> list[bytes]:
    assert at.rekey_now(peer, now(mono))
    (fetch,) = [effect for effect in at.take_effects() if isinstance(effect, FetchNew)]
    at.fetched(peer, fetch.ticket, Fetched((), (("metro", "metro: down"),)), now(mono))
    return datagrams(at.take_effects(), peer)


def begin_answer_without_key(at: RekeyNode, made: list[bytes], peer: str, mono: float) -> list[bytes]:
    found = answer(at, made, peer, mono)
    assert found
    return found


def test_a_source_that_never_answers_the_responder_costs_the_key_and_not_the_exchange() -> None:
    """Drivers give up earlier; this ends one that does not."""
    hub, b = pair(PREFERRED)
    hand(hub, begin(b, "hub", 1.0), "b", 1.0)
    assert datagrams(hub.take_effects(), "b") == []
    hub.tick(now(1.0 + FETCH_LIMIT - 0.01))
    assert datagrams(hub.take_effects(), "b") == []
    hub.tick(now(1.0 + FETCH_LIMIT))
    commit = answer(b, datagrams(hub.take_effects(), "b"), "hub", 1.0 + FETCH_LIMIT)
    hand(b, answer(hub, commit, "b", 32.0), "hub", 32.0)
    (done,) = [effect for effect in b.take_effects() if isinstance(effect, Install)]
    assert (done.epoch, len(b.peers["hub"].context.ours)) == (1, 0)
    assert b.peers["hub"].view().protection is Protection.PQC_ONLY


def test_a_look_at_the_time_while_keys_are_fetched_changes_nothing() -> None:
    hub, _ = pair(PREFERRED)
    assert hub.rekey_now("b", now(1.0))
    hub.take_effects()
    hub.tick(now(1.0 + FETCH_LIMIT - 0.01))
    assert hub.peers["b"].outbound.state.name == "FETCHING"
    assert hub.take_effects() == []
    hub.tick(now(1.0 + FETCH_LIMIT))
    assert hub.peers["b"].outbound.state is OutState.OFFERED


@contextmanager
def unusable_ephemerals(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Exchanges begun meanwhile have an ephemeral KEM key that the KEM refuses."""

    def broken(kems: KemSet, random_bytes: RandomBytes) -> EphemeralKeys:
        made = EphemeralKeys([kem.new_key_pair(random_bytes) for kem in kems.ephemeral])
        made.public = b"\xff" * len(made.public)
        return made

    with patch.context() as patched:
        patched.setattr(KemSet, "new_ephemeral", broken)
        yield


@pytest.mark.parametrize("policy", [OFF, REQUIRED])
def test_an_offer_with_a_kem_key_that_is_none_gets_no_answer(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> None:
    """Neither one that accepts nor one that refuses."""
    hub = node("hub", settings("b", policy=policy))
    b = node("b", settings("hub"))
    with unusable_ephemerals(monkeypatch):
        made = begin(b, "hub", 1.0)
    hand(hub, made, "b", 1.0)
    effects = hub.take_effects()
    assert datagrams(effects, "b") == []
    assert reasons(effects) == ["malformed"]
    assert hub.peers["b"].inbound.state is InState.IDLE
    b.tick(now(40.0))
    b.take_effects()
    assert answer(hub, begin(b, "hub", 40.0), "b", 40.0), "the next one does"


def response_to(offer: list[bytes], policy: Policy, *, epoch: int = 1) -> list[bytes]:
    """Message 2 of an end ``hub`` that accepts whatever its own policy and that of the other end say."""
    fragments = [parse(one, mac1_key(IDENTITIES["hub"].public.id)) for one in offer]
    body = b"".join(one.payload for one in fragments)
    responder = Responder(
        IDENTITIES["hub"], SUITE, exchange_of(offer[0]), body, lambda _: KnownPeer(IDENTITIES["b"].public)
    )
    made, _ = responder.respond(Answer(Verdict.ACCEPTED, epoch, policy, 0), None, [], random.Random(1).randbytes)
    message = Message(MessageType.RESPONSE, SUITE.id, responder.exchange, made)
    return cut(message, mac1_key(IDENTITIES["b"].public.id))


def test_an_answer_below_our_policy_makes_no_epoch_and_its_keys_are_spent() -> None:
    b = node("b", settings("hub", policy=REQUIRED, sources=("metro",)))
    hand(b, response_to(begin(b, "hub", 1.0), OFF), "hub", 1.0)
    effects = b.take_effects()
    assert reasons(effects, "rekey.failed") == ["qkd-required"]
    assert datagrams(effects, "hub") == []
    assert len(b.peers["hub"].context.ours) == 0


def test_an_answer_without_the_chain_that_we_require_makes_no_epoch() -> None:
    hub, b = pair()
    hand(b, answer(hub, answer(b, answer(hub, begin(b, "hub", 1.0), "b", 1.0), "hub", 1.0), "b", 1.0), "hub", 1.0)
    assert installs(b) == [1]
    strict = Policy(QkdPolicy.OFF, chain=ChainPolicy.REQUIRED)
    b.change_peer(settings("hub", policy=strict), now(2.0))
    b.take_effects()
    hand(b, response_to(begin(b, "hub", 20.0), OFF, epoch=2), "hub", 20.0)
    effects = b.take_effects()
    assert reasons(effects, "rekey.failed") == ["chain-required"]
    (failed,) = [one for one in effects if isinstance(one, Notice) and one.kind == "rekey.failed"]
    assert "the peer has lost the chain" in str(failed.fields["detail"])


def test_a_forged_confirmation_is_no_confirmation() -> None:
    hub, b = pair()
    commit = answer(b, answer(hub, begin(b, "hub", 1.0), "b", 1.0), "hub", 1.0)
    forged = Message(MessageType.COMMITTED, SUITE.id, exchange_of(commit[0]), bytes(24))
    hand(b, cut(forged, mac1_key(IDENTITIES["b"].public.id)), "hub", 1.0)
    assert reasons(b.take_effects()) == ["authentication"]
    assert b.peers["hub"].outbound.state is OutState.COMMITTING
    hand(b, answer(hub, commit, "b", 1.0), "hub", 1.0)
    assert installs(b) == [1]


def test_a_confirmation_before_there_is_anything_to_confirm_is_nothing() -> None:
    hub, b = pair()
    made = begin(b, "hub", 1.0)
    early = Message(MessageType.COMMITTED, SUITE.id, exchange_of(made[0]), bytes(24))
    hand(b, cut(early, mac1_key(IDENTITIES["b"].public.id)), "hub", 1.0)
    assert reasons(b.take_effects()) == []
    assert b.peers["hub"].outbound.state is OutState.OFFERED
    assert hub.peers["b"].inbound.state is InState.IDLE


def test_a_commit_under_an_id_of_several_peers_is_for_none_whose_commit_it_is_not() -> None:
    hub = node("hub", settings("b"), settings("c"))
    exchange = bytes(range(16))
    for name in ("b", "c"):
        assert answer(hub, first_message(name, 1.0, exchange), name, 1.0)
    assert answer(hub, first_message("b", 2.0), "b", 2.0), "b goes on to another exchange"
    message = Message(MessageType.COMMIT, SUITE.id, exchange, bytes(24))
    hand(hub, cut(message, mac1_key(IDENTITIES["hub"].public.id)), "c", 2.0)
    assert reasons(hub.take_effects()) == ["exchange"]
    assert hub.peers["c"].inbound.state is InState.ANSWERED


def test_what_comes_for_a_peer_that_is_gone_is_dropped_and_its_keys_are_wiped() -> None:
    hub, _ = pair()
    hub.remove_peer("b")
    hub.take_effects()
    key = Secret(BITS)
    hub.fetched("b", 1, Fetched(((KEY, key),)), now(1.0))
    hub.unkept("b", now(1.0))
    hub.supply("b", Stock("metro", 1, 2), now(1.0))
    hub.vouch("b", "metro", 0.5)
    hub.distrust("b", "metro", "qber", now(1.0))
    hub.carried("b", 1, 1, now(1.0))
    assert key.wiped
    assert hub.take_effects() == []


def test_an_epoch_that_an_engine_still_has_counts_and_is_protected_by() -> None:
    hub, b = pair(PREFERRED)
    old = EpochInfo(4, SUITE, (), False, 0.0)
    installed = EpochInfo(5, SUITE, (KEY,), True, 0.5)
    hub.take_up("b", installed, old, now(1.0))
    view = hub.peers["b"].view()
    assert (view.installed, set(view.epochs), view.protection) == (installed, {4, 5}, Protection.QKD_PQC)
    assert hub.peers["b"].context.floor == 5
    made = begin(hub, "b", 2.0)
    hand(b, made, "hub", 2.0)
    assert b.peers["hub"].context.epoch == 6, "what is offered is newer"
    hub.take_up("b", dataclasses.replace(installed, epoch=3), None, now(3.0))
    assert hub.peers["b"].context.floor == 5, "and it never goes back"


def test_a_defect_in_reading_what_anybody_sends_is_told_and_touches_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, _ = pair()
    hub.take_effects()
    monkeypatch.setattr(hub.anybody, "fragment", lambda *_: 1 // 0)
    assert hand(hub, first_message("b", 1.0)[:1], "x:1", 1.0) is None
    (told,) = hub.take_effects()
    assert isinstance(told, Notice)
    assert (told.fields["reason"], told.fields["detail"]) == ("defect", "reading it failed (ZeroDivisionError)")
    assert hub.peers["b"].inbound.state is InState.IDLE


def test_a_datagram_stirs_where_it_is_a_whole_message_or_worth_a_word() -> None:
    hub, _ = pair()
    assert not hub.stirred()
    *early, last = first_message("b", 1.0)
    hand(hub, early, "b", 1.0)
    assert not hub.stirred()
    hand(hub, [last], "b", 1.0)
    assert hub.stirred()
    assert not hub.stirred()
    hub.receive(b"\x01" * 100, "x:1", now(1.0))
    assert hub.stirred(), "a first word about what is rejected"


def test_keys_that_the_disk_may_bring_back_are_used_by_no_exchange_under_way() -> None:
    hub, b = pair(PREFERRED)
    made = begin(b, "hub", 1.0)
    context = b.peers["hub"].context
    key = context.ours.get(KEY)
    b.unkept("hub", now(1.0))
    assert key is not None
    assert key.wiped
    assert b.peers["hub"].outbound.state is OutState.IDLE
    b.unkept("hub", now(2.0))
    assert b.peers["hub"].outbound.state is OutState.IDLE, "also where none is under way"
    assert made
    assert hub.peers["b"].inbound.state is InState.IDLE


def test_a_cookie_that_is_in_hand_already_sends_nothing_again() -> None:
    hub, b = pair()
    made = begin(b, "hub", 1.0)
    gate = hub.anybody

    def reply(datagram: bytes) -> bytes:
        fragment = parse(datagram, mac1_key(IDENTITIES["hub"].public.id))
        return reply_to(datagram, fragment, b"source", gate._cookies, 1.0)

    assert len(made[0]) == MAX_PAYLOAD + 56
    b.receive(reply(made[0]), "hub", now(1.0))
    assert len(sent(b.take_effects(), "hub")) == 1, "message 1 again, with the cookie"
    b.tick(now(1.0 + COMMIT_LIMIT))
    b.take_effects()
    again = begin(b, "hub", 60.0)
    b.receive(reply(again[0]), "hub", now(60.0))
    assert sent(b.take_effects(), "hub") == []


def test_a_failure_of_the_code_for_one_peer_blocks_that_peer_and_is_reported() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    a = simulation.hosts["a"]
    broken = a.node.peers["b"]
    broken.outbound.tick = lambda now: 1 // 0  # type: ignore[method-assign,assignment,return-value]  # a defect
    while a.node.peers["b"] is broken:
        simulation.now = max(simulation.now, a.node.deadline or 0.0)
        a.node.tick(simulation.clock())
        found = effects(a)
    kinds = [type(effect) for effect in found]
    assert Block in kinds
    assert Defect in kinds
    assert any(isinstance(effect, Notice) and effect.kind == "peer.defect" for effect in found)
    assert broken.current_psk() is None
    simulation.run_until(lambda: simulation.agreed and a.engine.installs > 1, limit=300)
