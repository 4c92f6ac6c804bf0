"""Peers that lie, messages changed on the way, floods: what they may cost, and what they never may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from qtunnel.handshake.fragments import MAX_PAYLOAD, Fragment, Message, MessageType, cut, mac1_key, parse
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import MIN_OFFER, Offer, init_sizes
from qtunnel.handshake.suites import SUITES
from qtunnel.keys.policy import Protection
from qtunnel.rekey.limits import (
    EPOCH_JUMP,
    FETCH_BURST,
    FETCHES_IN_FLIGHT,
    OFFER_BURST,
    OWN_EPOCH_JUMP,
    UNPROVEN_BURST,
    TokenBucket,
)
from qtunnel.rekey.model import Block, Defect, Effect, FetchById, Fetched, Memory, Notice, Send
from qtunnel.rekey.states import InState, OutState
from qtunnel.rekey.timing import ATTEMPT_LIMIT, KEY_LIFETIME, PENDING_LIMIT, tai64n
from qtunnel.secret import Secret
from qtunnel.terms import ChainPolicy, KeyRef, Policy, QkdPolicy
from tests.rekey.simulation import Conditions, Host, Simulation
from tests.rekey.test_rekey import CLEAN, PREFERRED, done, protection, reasons, rekeys


def tamper(simulation: Simulation, change: Callable[[str, bytes], bytes | None]) -> None:
    """Every datagram passes through ``change``, which gets its receiver; None is a loss."""
    deliver = simulation._deliver

    def changed(receiver: str, sender: str, datagram: bytes) -> None:
        result = change(receiver, datagram)
        if result is not None:
            deliver(receiver, sender, result)

    simulation._deliver = changed  # type: ignore[method-assign]  # the attacker on the path


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


def test_keys_survive_a_busy_peer() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    bucket = TokenBucket(0.0, 0.0)
    for host in simulation.hosts.values():
        host.node.peers[host.peer].inbound._fetches = bucket
    before = simulation.kme.delivered
    simulation.run_until(lambda: bool({"busy"} & (reasons(simulation, "a") | reasons(simulation, "b"))), limit=60)
    simulation.run_for(20.0)
    assert simulation.kme.delivered <= before + 2  # one for each end
    bucket.burst = bucket.rate = 4.0
    done(simulation)
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


@pytest.mark.parametrize(
    ("ref", "key", "words"),
    [
        (KeyRef("metro", "id", 16), bytes(16), "a key of 16 bytes instead of 32"),
        (KeyRef("metro", "id", 32), bytes(31), "a key of 31 bytes instead of 32"),
        (KeyRef("metro", "", 32), bytes(32), "1 to 255 bytes"),
        (KeyRef("metro", "x" * 256, 32), bytes(32), "1 to 255 bytes"),
        (KeyRef("metro", "a\nb", 32), bytes(32), "printable"),
        (KeyRef("other", "id", 32), bytes(32), "not asked"),
    ],
)
def test_a_key_that_is_not_what_it_should_be_is_refused_by_name(ref: KeyRef, key: bytes, words: str) -> None:
    simulation = Simulation(1, CLEAN)
    secret = Secret(key)
    simulation.kme.get = lambda who, source, size: (ref, secret)  # type: ignore[method-assign]  # a broken driver
    simulation.run_for(30.0)
    details = [n.fields["detail"] for h in simulation.hosts.values() for n in h.notices if n.kind == "source.failed"]
    assert details
    assert all(words in str(detail) for detail in details)
    assert all(host.engine.blocked for host in simulation.hosts.values())


@pytest.mark.parametrize("same", ["reference", "bits"])
def test_a_kme_that_delivers_a_key_again_is_found_out(same: str) -> None:
    simulation = Simulation(1, CLEAN)
    get = simulation.kme.get
    first: list[tuple[KeyRef, bytes]] = []

    def again(who: str, source: str, size: int) -> tuple[KeyRef, Secret] | str:
        got = get(who, source, size)
        assert not isinstance(got, str)
        ref, key = got
        if not first:
            first.append((ref, bytes(key.reveal())))
            return got
        return (first[0][0], key) if same == "reference" else (ref, Secret(first[0][1]))

    simulation.kme.get = again  # type: ignore[method-assign]  # a broken KME
    done(simulation)
    simulation.run_for(60.0)
    assert rekeys(simulation) == 1
    details = [n.fields["detail"] for h in simulation.hosts.values() for n in h.notices if n.kind == "source.failed"]
    assert any("second time" in str(detail) for detail in details)


def test_an_offered_key_of_another_size_is_not_fetched() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    send(simulation, "a", offer_from(simulation, "a", keys=(KeyRef("metro", "id", 16),)))
    now = effects(simulation.hosts["b"])
    assert not any(isinstance(effect, FetchById) for effect in now)
    assert any(isinstance(e, Notice) and "16 bytes was offered" in str(e.fields.get("detail")) for e in now)


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


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_lost_state_file_counts_as_a_lost_chain(who: str) -> None:
    strict = Policy(QkdPolicy.REQUIRED, chain=ChainPolicy.REQUIRED)
    simulation = Simulation(1, CLEAN, policy_a=strict, policy_b=strict)
    simulation.hosts[who].memory = Memory(lost=True)
    simulation.start(who)
    simulation.run_for(60.0)
    assert rekeys(simulation) == 0
    assert simulation.kme.delivered <= 1  # one may be fetched by the end that knows of nothing; none after that
    assert "chain-required" in reasons(simulation, "a") | reasons(simulation, "b")


def test_the_epoch_in_force_is_described_as_long_as_a_session_can_last() -> None:
    simulation = Simulation(1, CLEAN, interval=1.0)
    done(simulation, 150)
    assert len(simulation.hosts["a"].node.peers["b"].view().epochs) >= 150
    done(simulation, 200)
    assert len(simulation.hosts["a"].node.peers["b"].view().epochs) < 320
    assert protection(simulation, "a") is Protection.QKD_PQC


def test_a_confirmation_names_the_epoch_that_it_is_true_for() -> None:
    simulation = Simulation(1, CLEAN)
    confirmed: list[int] = []
    carry_out = simulation._carry_out

    def watching(host: Host) -> None:
        peers = host.node.peers[host.peer]
        sends = (effect for effect in peers.context.effects if isinstance(effect, Send))
        confirmed.extend(send.confirms for send in sends if send.confirms is not None)
        carry_out(host)

    simulation._carry_out = watching  # type: ignore[method-assign]  # to look at the effects
    done(simulation, 3)
    assert confirmed == [1, 2, 3]


def test_buckets_fill_at_their_rate_and_no_further() -> None:
    bucket = TokenBucket(2.0, 1.0)
    assert [bucket.take(5.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(at) for at in (5.5, 6.0, 6.5, 4.0)] == [False, True, False, False]
    assert [bucket.take(1e6) for _ in range(3)] == [True, True, False]


def fetches(found: list[Effect]) -> list[FetchById]:
    return [effect for effect in found if isinstance(effect, FetchById)]


def unknown_key(simulation: Simulation) -> list[bytes]:
    """An offer of a key that no KME has."""
    key = KeyRef("metro", simulation.rng.randbytes(8).hex(), 32)
    simulation.now += 0.1  # later than any before it
    return offer_from(simulation, "a", keys=(key,))


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


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_lost_chain_that_is_required_is_refused_before_any_key_is_fetched(who: str) -> None:
    strict = Policy(QkdPolicy.REQUIRED, chain=ChainPolicy.REQUIRED)
    simulation = Simulation(1, CLEAN, policy_a=strict, policy_b=strict)
    done(simulation, 2)
    simulation.start(who)
    fetched: list[str] = []
    get_by_id = simulation.kme.get_by_id

    def counting(who: str, ref: KeyRef) -> tuple[KeyRef, Secret] | str:
        fetched.append(who)
        return get_by_id(who, ref)

    simulation.kme.get_by_id = counting  # type: ignore[method-assign]  # to count the calls
    simulation.run_for(100.0)
    assert fetched == []
    assert "chain-required" in reasons(simulation, "a") | reasons(simulation, "b")


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


def relaxed(simulation: Simulation, lost: MessageType) -> str:
    """Both ends go without QKD, with an exchange under way whose ``lost`` message does not arrive; then one of the
    two, whose name this returns, is strict again."""
    done(simulation)
    simulation.kme.down = {"a", "b"}
    losing = True
    tamper(simulation, lambda _, datagram: None if losing and datagram[0] == lost else datagram)

    def waiting() -> list[str]:
        machines = ((name, host.node.peers[host.peer]) for name, host in simulation.hosts.items())
        if lost is MessageType.COMMIT:
            return [name for name, peer in machines if peer.inbound.state is InState.ANSWERED]
        return [
            name
            for name, peer in machines
            if peer.outbound.state is OutState.COMMITTING and peer.context.guard.relaxed
        ]  # fmt: skip

    simulation.run_until(lambda: bool(waiting()), limit=100)
    (name,) = waiting()
    peer = simulation.hosts[name].node.peers[simulation.hosts[name].peer]
    assert peer.context.guard.relaxed
    peer.context.guard._relaxed_since = None  # an epoch with QKD came in between
    losing = False
    return name


@pytest.mark.parametrize("lost", [MessageType.COMMIT, MessageType.COMMITTED])
def test_a_relaxed_policy_that_is_strict_again_installs_no_weaker_epoch(lost: MessageType) -> None:
    simulation = Simulation(1, CLEAN, max_age=30.0, pqc_on_expiry=True)
    name = relaxed(simulation, lost)
    installs = simulation.hosts[name].engine.installs

    def refused() -> bool:
        details = [n.fields.get("detail") for n in simulation.hosts[name].notices if n.kind == "rekey.failed"]
        return any("has become stricter" in str(detail) for detail in details)

    simulation.run_until(refused, limit=20)
    assert simulation.hosts[name].engine.installs == installs


def test_a_held_key_is_wiped_on_time_though_nothing_else_happens() -> None:
    simulation = Simulation(1, CLEAN)
    peer = simulation.hosts["a"].node.peers["b"]
    peer._next = None
    peer.context.ours.put(KeyRef("metro", "1", 32), Secret(bytes(32)), simulation.now)
    assert peer.deadline == simulation.now + KEY_LIFETIME
    simulation.now += KEY_LIFETIME
    peer.tick(simulation.clock())
    assert len(peer.context.ours) == 0
    peer.context.theirs.put(KeyRef("metro", "1", 32), Secret(bytes(32)), simulation.now)
    assert peer.deadline == simulation.now + KEY_LIFETIME
