"""Policies, roles, restarts and faults of the key sources, in the simulation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qtunnel.handshake.fragments import MessageType
from qtunnel.handshake.suites import SUITES
from qtunnel.keys.policy import Protection
from qtunnel.rekey.model import Memory, Now
from qtunnel.rekey.timing import grow
from qtunnel.secret import Secret
from qtunnel.tai64n import tai64n
from qtunnel.terms import ChainPolicy, Policy, QkdPolicy
from tests.rekey.simulation import Conditions, Simulation

CLEAN = Conditions()
REQUIRED, PREFERRED, OFF = (Policy(kind) for kind in (QkdPolicy.REQUIRED, QkdPolicy.PREFERRED, QkdPolicy.OFF))


def done(simulation: Simulation, number: int = 1) -> None:
    """Run until that many more rekeys are done."""
    goal = rekeys(simulation) + number
    simulation.run_until(lambda: rekeys(simulation) >= goal, limit=4000)


def rekeys(simulation: Simulation) -> int:
    return sum(host.count("rekey.done", role="initiator") for host in simulation.hosts.values())


def protection(simulation: Simulation, name: str) -> Protection:
    host = simulation.hosts[name]
    return host.node.peers[host.peer].view().protection


def reasons(simulation: Simulation, name: str) -> set[object]:
    return {n.fields["reason"] for n in simulation.hosts[name].notices if n.kind == "rekey.failed"}


def test_one_end_initiates_by_rule_and_the_other_answers() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation, 5)
    higher = max(simulation.hosts, key=lambda name: simulation.hosts[name].node.local.public.id)
    assert simulation.hosts[higher].count("rekey.done", role="initiator") == 5
    assert simulation.agreed
    assert protection(simulation, "a") is Protection.QKD_PQC


def test_both_ends_tell_the_same_keys_of_an_epoch_and_none_twice() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation, 5)
    told = [
        {n.fields["epoch"]: (n.fields["sources"], n.fields["key_ids"]) for n in host.notices if n.kind == "rekey.done"}
        for host in simulation.hosts.values()
    ]
    assert told[0] == told[1]
    used = [(source, key_id) for keys in told[0].values() for source, key_id in zip(*keys, strict=True)]  # type: ignore[call-overload]
    assert len(set(used)) == len(used) >= 5


def test_only_the_end_with_an_endpoint_initiates_at_first() -> None:
    for name in ("a", "b"):
        simulation = Simulation(1, CLEAN, has_endpoint=False)
        other = "b" if name == "a" else "a"
        simulation.settings[name] = simulation.settings[name].__class__(
            **{
                field: getattr(simulation.settings[name], field)
                for field in simulation.settings[name].__dataclass_fields__
            }
            | {"has_endpoint": True}
        )
        simulation.start(name)
        done(simulation, 3)
        assert simulation.hosts[name].count("rekey.done", role="initiator") == 3
        assert simulation.hosts[other].count("rekey.done", role="responder") == 3


def test_the_other_end_takes_over_when_the_initiator_is_gone() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    higher = max(simulation.hosts, key=lambda name: simulation.hosts[name].node.local.public.id)
    lower = "b" if higher == "a" else "a"
    node = simulation.hosts[higher].node
    node.peers[lower]._next = None  # as if its schedule had died
    simulation.run_until(lambda: simulation.hosts[lower].count("rekey.done", role="initiator") >= 2, limit=200)
    assert simulation.agreed


@pytest.mark.parametrize("who", ["a", "b", "ab"])
@pytest.mark.parametrize("steps", range(0, 60, 3))
def test_a_restart_at_any_step_ends_in_a_common_epoch(who: str, steps: int) -> None:
    simulation = Simulation(steps, CLEAN)
    done(simulation, 2)
    simulation.run_for(9.0)
    for _ in range(steps):
        simulation.step()
    for name in who:
        simulation.start(name)
    before = rekeys(simulation)
    simulation.run_until(lambda: rekeys(simulation) > before + 1 and simulation.agreed, limit=300)


def test_restart_without_any_memory_is_a_lost_replay_time_but_no_deadlock() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation, 3)
    simulation.hosts["a"].memory = Memory()
    simulation.start("a")
    simulation.run_until(lambda: simulation.agreed and rekeys(simulation) > 4, limit=300)


def test_simultaneous_starts_are_resolved() -> None:
    simulation = Simulation(3, Conditions(least_delay=0.2, most_delay=0.2))
    done(simulation)
    for _ in range(5):
        for host in simulation.hosts.values():
            host.node.rekey_now(host.peer, simulation.clock())
        done(simulation)
        assert simulation.agreed


@pytest.mark.parametrize("down", ["a", "b"])
def test_required_blocks_after_max_age_and_comes_back(down: str) -> None:
    simulation = Simulation(1, CLEAN, max_age=30.0)
    done(simulation, 2)
    simulation.kme.down = {down}
    start = simulation.now
    simulation.run_for(29.0 - 10.0)
    assert not any(host.engine.blocked for host in simulation.hosts.values())
    simulation.run_until(lambda: all(host.engine.blocked for host in simulation.hosts.values()), limit=60)
    assert simulation.now <= start + 31.0
    assert {protection(simulation, name) for name in "ab"} == {Protection.BLOCKED}
    assert reasons(simulation, "a") | reasons(simulation, "b") >= {"qkd-unavailable"}
    simulation.kme.down = set()
    simulation.run_until(lambda: simulation.agreed and protection(simulation, "a") is Protection.QKD_PQC, limit=120)
    assert not any(host.engine.blocked for host in simulation.hosts.values())


@pytest.mark.parametrize("down", [{"a"}, {"b"}, {"a", "b"}])
def test_preferred_goes_on_without_qkd_and_says_so(down: set[str]) -> None:
    simulation = Simulation(1, CLEAN, policy_a=PREFERRED, policy_b=PREFERRED, max_age=30.0)
    done(simulation, 2)
    simulation.kme.down = down
    simulation.run_for(120.0)
    assert simulation.agreed
    for name in "ab":
        assert protection(simulation, name) is Protection.PQC_ONLY
        assert simulation.hosts[name].count("protection.changed", after="pqc-only") == 1
    assert any(simulation.hosts[name].count("source.failed") for name in down)
    simulation.kme.down = set()
    simulation.run_for(80.0)
    assert protection(simulation, "a") is protection(simulation, "b") is Protection.QKD_PQC


def test_pqc_only_on_expiry_relaxes_after_max_age_and_not_before() -> None:
    simulation = Simulation(1, CLEAN, max_age=30.0, pqc_on_expiry=True)
    done(simulation, 2)
    installs = simulation.hosts["a"].engine.installs
    simulation.kme.down = {"a", "b"}
    simulation.run_for(18.0)
    assert simulation.hosts["a"].engine.installs == installs
    simulation.run_for(60.0)
    for name in "ab":
        assert simulation.hosts[name].count("policy.relaxed") == 1
        assert protection(simulation, name) is Protection.PQC_ONLY
        assert not simulation.hosts[name].engine.blocked
    simulation.kme.down = set()
    simulation.run_for(60.0)
    assert protection(simulation, "a") is Protection.QKD_PQC


@pytest.mark.parametrize(("one", "other"), [(REQUIRED, PREFERRED), (PREFERRED, REQUIRED)])
def test_the_stricter_policy_of_the_two_ends_holds(one: Policy, other: Policy) -> None:
    simulation = Simulation(1, CLEAN, policy_a=one, policy_b=other)
    done(simulation)
    assert protection(simulation, "a") is Protection.QKD_PQC
    simulation.kme.down = {"a", "b"}
    before = simulation.hosts["a"].engine.installs
    simulation.run_for(100.0)
    assert simulation.hosts["a"].engine.installs == before


@pytest.mark.parametrize(("one", "other"), [(REQUIRED, OFF), (OFF, REQUIRED)])
def test_required_against_off_never_makes_an_epoch_and_both_ends_say_why(one: Policy, other: Policy) -> None:
    simulation = Simulation(1, CLEAN, policy_a=one, policy_b=other)
    simulation.run_for(60.0)
    assert all(host.engine.blocked for host in simulation.hosts.values())
    assert "qkd-required" in reasons(simulation, "a")
    assert "qkd-required" in reasons(simulation, "b")


def test_off_asks_no_kme() -> None:
    simulation = Simulation(1, CLEAN, policy_a=OFF, policy_b=OFF)
    done(simulation, 3)
    assert simulation.kme.delivered == 0
    assert protection(simulation, "a") is Protection.PQC_ONLY


def test_min_sources_counts() -> None:
    two = Policy(QkdPolicy.REQUIRED, min_sources=2)
    simulation = Simulation(1, CLEAN, policy_a=two, policy_b=two, sources=("metro", "backup"))
    done(simulation, 2)
    info = simulation.hosts["a"].node.peers["b"].view().installed
    assert info is not None
    assert info.sources == ("metro", "backup")


def test_a_lying_kme_installs_nothing_and_is_named() -> None:
    simulation = Simulation(1, CLEAN)
    simulation.kme.liars.add("b")
    simulation.run_for(60.0)
    assert all(host.engine.blocked for host in simulation.hosts.values())
    assert "key-mismatch" in reasons(simulation, "a") | reasons(simulation, "b")
    first = max(simulation.hosts.values(), key=lambda host: host.node.local.public.id)
    assert first.count("rekey.unanswered") == 0, "there was an answer, and what is wrong with it was told"


def test_a_wrong_key_is_offered_by_no_further_exchange_where_the_peers_went_first() -> None:
    """The higher end's exchanges overtake each of the lower one's, whose wrong key came back in every one of them."""
    simulation = Simulation(1, CLEAN, interval=1.0, jitter=0.0)
    done(simulation)
    lower, higher = sorted(simulation.hosts.values(), key=lambda host: host.node.local.public.id)
    honest = simulation.kme.get_by_id
    simulation.kme.get_by_id = lambda who, ref: (ref, Secret(bytes(range(32))))  # type: ignore[method-assign]
    assert lower.node.rekey_now(higher.name, simulation.present(lower.name))
    simulation.run_until(lambda: lower.count("message.rejected", reason="key-mismatch") > 0, limit=5)
    simulation.kme.get_by_id = honest  # type: ignore[method-assign]
    begun = higher.count("rekey.done", role="initiator")
    simulation.run_until(lambda: higher.count("rekey.done", role="initiator") > begun, limit=20)
    rejected = lower.count("message.rejected", reason="key-mismatch")
    assert lower.node.rekey_now(higher.name, simulation.present(lower.name))
    simulation._carry_out(lower)
    simulation.run_until(lambda: lower.count("rekey.done", role="initiator") > 0, limit=5)
    assert lower.count("message.rejected", reason="key-mismatch") == rejected


def test_a_dead_peer_does_not_drain_the_kme() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    simulation.conditions = Conditions(loss=1.0)
    before = simulation.kme.delivered
    simulation.run_for(250.0)
    assert simulation.kme.delivered <= before + 2  # one for each end: both try by now, each with the same key again
    simulation.conditions = CLEAN
    done(simulation)
    assert simulation.agreed


def test_a_lost_committed_is_healed_by_the_next_exchange() -> None:
    simulation = Simulation(5, CLEAN)
    done(simulation, 2)
    deliver = simulation._deliver

    def without_committed(receiver: str, sender: str, datagram: bytes) -> None:
        if datagram[0] != MessageType.COMMITTED:
            deliver(receiver, sender, datagram)

    simulation._deliver = without_committed  # type: ignore[method-assign]  # a fault for this test only
    simulation.run_until(lambda: not simulation.agreed, limit=20)  # the responder has an epoch, the initiator not
    simulation.run_for(15.0)
    assert not simulation.agreed
    simulation._deliver = deliver  # type: ignore[method-assign]
    simulation.run_until(lambda: simulation.agreed, limit=60)
    done(simulation)
    info = simulation.hosts["a"].node.peers["b"].view().installed
    assert info is not None
    assert info.chained


def test_a_restart_resets_the_chain_and_the_next_epoch_has_one_again() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation, 2)
    simulation.start("a")
    simulation.run_until(lambda: simulation.agreed and rekeys(simulation) >= 3, limit=60)
    first = simulation.hosts["a"].node.peers["b"].view().installed
    assert first is not None
    assert not first.chained
    for host in simulation.hosts.values():
        assert host.count("chain.reset") == host.count("chain.reset", epoch=first.epoch) == 1
    done(simulation)
    second = simulation.hosts["a"].node.peers["b"].view().installed
    assert second is not None
    assert second.chained


def test_a_required_chain_refuses_a_peer_that_lost_it() -> None:
    strict = Policy(QkdPolicy.REQUIRED, chain=ChainPolicy.REQUIRED)
    simulation = Simulation(1, CLEAN, policy_a=strict, policy_b=strict)
    done(simulation, 2)
    simulation.start("a")
    simulation.run_for(60.0)
    assert "chain-required" in reasons(simulation, "a") | reasons(simulation, "b")
    assert simulation.hosts["a"].engine.blocked


def test_a_required_chain_begins_anew_where_both_ends_forget_and_not_before() -> None:
    strict = Policy(QkdPolicy.REQUIRED, chain=ChainPolicy.REQUIRED)
    simulation = Simulation(1, CLEAN, policy_a=strict, policy_b=strict)
    done(simulation, 2)
    simulation.hosts["a"].memory = Memory()
    simulation.start("a")
    simulation.run_for(60.0)
    assert simulation.hosts["a"].engine.blocked
    for name in "ab":
        simulation.hosts[name].memory = Memory()
        simulation.start(name)
    done(simulation, 2)
    assert simulation.agreed


def test_a_lost_chain_is_begun_anew_as_the_refusal_says_and_no_other_peer_is_forgotten() -> None:
    """Allow it at both ends for a while."""
    strict = Policy(QkdPolicy.REQUIRED, chain=ChainPolicy.REQUIRED)
    simulation = Simulation(1, CLEAN, policy_a=strict, policy_b=strict)
    done(simulation, 2)
    simulation.start("a")
    simulation.run_for(60.0)
    details = [str(n.fields["detail"]) for n in simulation.hosts["a"].notices if n.kind == "rekey.failed"]
    assert any("set chain: reset-allowed for this peer at both ends" in detail for detail in details)
    assert not any("peers.json" in detail for detail in details)
    for policy in (REQUIRED, strict):
        for name, host in simulation.hosts.items():
            simulation.settings[name] = replace(simulation.settings[name], policy=policy)
            host.node.change_peer(simulation.settings[name], simulation.clock())
        done(simulation, 2)
        assert simulation.agreed


def test_suites_that_differ_are_named_by_the_responder() -> None:
    simulation = Simulation(1, CLEAN)
    simulation.settings["a"] = simulation._settings("b", 1, REQUIRED, {})
    simulation.suite = SUITES[3]
    simulation.settings["b"] = simulation._settings("a", 0, REQUIRED, {})
    for name in "ab":
        simulation.start(name)
    simulation.run_for(60.0)
    assert "suite" in reasons(simulation, "a") | reasons(simulation, "b")
    assert all(host.engine.blocked for host in simulation.hosts.values())


@pytest.mark.parametrize("seed", range(5))
def test_an_end_whose_offers_are_refused_gives_way_to_those_of_its_peer(seed: int) -> None:
    """Its clock was ahead at a commit, and is right again, and its state is lost: its peer takes none of its offers."""
    simulation = Simulation(seed, CLEAN)
    first = max(simulation.hosts, key=lambda name: simulation.hosts[name].node.local.public.id)
    ahead = {first: 10**18}

    def present(name: str) -> Now:
        now = simulation.clock()
        return Now(now.mono, now.unix_ns + ahead.get(name, 0))

    simulation.present = present  # type: ignore[method-assign]  # clocks that differ
    simulation.start(first)
    done(simulation, 2)
    ahead.clear()
    simulation.hosts[first].memory = Memory()
    simulation.start(first)
    overdue = 10.0 * (1.5 + 0.1) + 10.0
    simulation.run_until(lambda: simulation.agreed, limit=overdue + 5.0)


def test_a_clock_set_back_locks_nobody_out() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation, 2)
    clock = simulation.clock
    simulation.clock = lambda: Now(clock().mono, clock().unix_ns - 10**18)  # type: ignore[method-assign]  # 31 years
    done(simulation, 2)
    for name in "ab":
        simulation.start(name)
    done(simulation, 2)
    assert simulation.agreed


def test_replayed_and_reflected_datagrams_change_nothing() -> None:
    simulation = Simulation(1, CLEAN)
    sent: list[tuple[str, str, bytes]] = []
    deliver = simulation._deliver

    def recording(receiver: str, sender: str, datagram: bytes) -> None:
        sent.append((receiver, sender, datagram))
        deliver(receiver, sender, datagram)

    simulation._deliver = recording  # type: ignore[method-assign]  # to have something to replay
    done(simulation, 3)
    fetched, installs = simulation.kme.delivered, [host.engine.installs for host in simulation.hosts.values()]
    for receiver, sender, datagram in list(sent):
        deliver(receiver, sender, datagram)
        deliver(sender, receiver, datagram)
    simulation.run_for(0.5)
    assert simulation.kme.delivered == fetched
    assert [host.engine.installs for host in simulation.hosts.values()] == installs
    done(simulation, 2)
    assert simulation.agreed


def test_garbage_never_raises() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    node = simulation.hosts["a"].node
    for size in range(0, 1300, 7):
        node.receive(simulation.rng.randbytes(size), "x", simulation.clock())
    done(simulation)
    assert simulation.agreed


def test_replay_time_only_grows() -> None:
    late, early = tai64n(2_000_000_000_000_000_000), tai64n(1_000_000_000_000_000_000)
    assert grow(late, early) == late
    assert late < grow(early, late) < grow(early, grow(early, late))
    assert grow(early, late[:8] + (999_999_999).to_bytes(4, "big"))[8:] == bytes(4)


def test_no_effect_shows_a_key() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    engine = simulation.hosts["a"].engine
    shown = repr([host.notices for host in simulation.hosts.values()]) + repr(simulation.hosts["a"].node.take_effects())
    assert engine.psk.hex() not in shown
    assert repr(Secret(engine.psk)) == "<Secret 32 bytes, redacted>"


def test_a_silent_peer_is_told_of_before_the_attempt_is_over_and_once_until_it_answers() -> None:
    simulation = Simulation(1, Conditions(loss=1.0))
    first = max(simulation.hosts.values(), key=lambda host: host.node.local.public.id)
    simulation.run_for(10)
    assert (first.count("rekey.unanswered"), first.count("rekey.failed")) == (1, 0)
    told = next(notice for notice in first.notices if notice.kind == "rekey.unanswered")
    assert "the public file here is not the peer's" in str(told.fields["detail"])
    simulation.run_for(90)
    assert first.count("rekey.unanswered") == 1
    assert first.count("rekey.failed", reason="no-answer") >= 1
    simulation.conditions = CLEAN
    done(simulation, 3)
    assert first.count("rekey.unanswered") == 1
    simulation.conditions = Conditions(loss=1.0)
    simulation.run_for(120)
    assert first.count("rekey.unanswered") == 2


def test_a_peer_is_silent_from_when_that_is_told_until_it_speaks_whoever_begins() -> None:
    simulation = Simulation(1, Conditions(loss=1.0))
    first, second = sorted(simulation.hosts.values(), key=lambda host: host.node.local.public.id, reverse=True)
    simulation.run_until(lambda: first.count("rekey.unanswered") == 1, limit=10)
    simulation.run_until(lambda: first.count("rekey.failed", reason="no-answer") == 2)
    assert first.node.unanswered(first.peer), "also between attempts"
    first.node.change_peer(
        replace(simulation.settings[first.name], policy=Policy(QkdPolicy.PREFERRED)), simulation.clock()
    )
    assert first.node.unanswered(first.peer), "other settings here are no word of the peer's"
    first.node.peers[first.peer]._next = None
    simulation.conditions = CLEAN
    simulation.run_until(lambda: second.count("rekey.done", role="initiator") == 1, limit=100)
    assert not first.node.unanswered(first.peer)
    assert first.count("rekey.done", role="initiator") == 0
    assert not first.node.unanswered("nobody")
