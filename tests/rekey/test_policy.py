"""The policy, line by line: sources and their floor, max_age and what then, both ends' say, events for changes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from qtunnel.errors import HandshakeError
from qtunnel.handshake.fragments import MessageType
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import Answer, Offer, Verdict
from qtunnel.handshake.responder import KnownPeer, Responder
from qtunnel.keys.policy import Protection
from qtunnel.rekey.model import Block, Install, Memory
from qtunnel.rekey.states import InState, OutState
from qtunnel.rekey.timing import RELAXED_GRACE
from qtunnel.secret import Secret
from qtunnel.terms import ChainPolicy, KeyRef, Policy, QkdPolicy
from tests.handshake.vectors import encapsulation
from tests.rekey.attacks import tamper
from tests.rekey.gateways import IDENTITIES, SUITE
from tests.rekey.simulation import Conditions, Host, Simulation
from tests.rekey.test_rekey import CLEAN, OFF, PREFERRED, REQUIRED, done, protection, reasons

TWO = Policy(QkdPolicy.REQUIRED, min_sources=2)
SILENCE = Conditions(loss=1.0)


class Sources:
    """Takes single key sources of a simulation away, at one end or at both."""

    def __init__(self, simulation: Simulation) -> None:
        kme = simulation.kme
        self.down: set[tuple[str, str]] = set()
        get, get_by_id = kme.get, kme.get_by_id
        kme.get = lambda who, source, size: (  # type: ignore[method-assign]  # a fault for a test only
            f"{source}: down" if (who, source) in self.down else get(who, source, size)
        )
        kme.get_by_id = lambda who, ref: (  # type: ignore[method-assign]
            f"{ref.source}: down" if (who, ref.source) in self.down else get_by_id(who, ref)
        )


def installed(host: Host) -> tuple[str, ...]:
    info = host.node.peers[host.peer].view().installed
    return () if info is None else info.sources


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("floor_at", ["a", "b", "ab"])
def test_fewer_sources_than_the_floor_of_either_end_make_no_epoch_and_block(who: str, floor_at: str) -> None:
    policies = [TWO if name in floor_at else REQUIRED for name in "ab"]
    simulation = Simulation(
        1, CLEAN, policy_a=policies[0], policy_b=policies[1], sources=("metro", "backup"), max_age=30.0
    )
    sources = Sources(simulation)
    done(simulation, 2)
    assert installed(simulation.hosts["a"]) == ("metro", "backup")
    sources.down = {(who, "backup")}
    before = simulation.hosts["a"].engine.installs
    simulation.run_for(25)
    assert simulation.hosts["a"].engine.installs == before
    simulation.run_for(25)
    assert all(host.engine.blocked for host in simulation.hosts.values())
    sources.down = set()
    done(simulation, 2)
    assert protection(simulation, "a") is protection(simulation, "b") is Protection.QKD_PQC


def test_above_the_floor_a_source_less_is_an_epoch_all_the_same_and_shows() -> None:
    simulation = Simulation(1, CLEAN, sources=("metro", "backup"))
    sources = Sources(simulation)
    done(simulation, 2)
    sources.down = {("a", "backup")}
    done(simulation, 2)
    assert installed(simulation.hosts["a"]) == installed(simulation.hosts["b"]) == ("metro",)
    assert protection(simulation, "a") is Protection.QKD_PQC
    assert simulation.hosts["a"].count("source.failed", source="backup") >= 1


def test_preferred_below_its_floor_goes_on_and_is_not_called_qkd() -> None:
    two = Policy(QkdPolicy.PREFERRED, min_sources=2)
    simulation = Simulation(1, CLEAN, policy_a=two, policy_b=two, sources=("metro", "backup"))
    sources = Sources(simulation)
    done(simulation, 2)
    assert protection(simulation, "a") is Protection.QKD_PQC
    sources.down = {("a", "backup"), ("b", "backup")}
    done(simulation, 2)
    for name in "ab":
        assert installed(simulation.hosts[name]) == ("metro",)
        assert protection(simulation, name) is Protection.PQC_ONLY
        assert simulation.hosts[name].count("protection.changed", after="pqc-only") == 1


@pytest.mark.parametrize("policy", [REQUIRED, PREFERRED, OFF], ids=lambda policy: policy.qkd.name)
def test_no_key_outlives_max_age_whatever_the_policy(policy: Policy) -> None:
    """Not even where no QKD is asked for: a peer that cannot be rekeyed with is blocked, at the second."""
    simulation = Simulation(1, CLEAN, policy_a=policy, policy_b=policy, max_age=30.0)
    done(simulation, 2)
    made = {
        name: host.node.peers[host.peer].view().installed.made  # type: ignore[union-attr]  # there is one
        for name, host in simulation.hosts.items()
    }
    simulation.conditions = SILENCE
    blocked: dict[str, float] = {}
    while len(blocked) < 2:
        simulation.step()
        blocked |= {
            name: simulation.now
            for name, host in simulation.hosts.items()
            if host.engine.blocked and name not in blocked
        }
    for name in "ab":
        assert blocked[name] == pytest.approx(made[name] + 30.0, abs=0.001)
        assert simulation.hosts[name].count("peer.blocked") == 1


def test_each_end_blocks_by_its_own_max_age() -> None:
    simulation = Simulation(1, CLEAN, max_age=30.0)
    simulation.settings["b"] = replace(simulation.settings["b"], max_age=100.0)
    simulation.start("b")
    done(simulation, 2)
    simulation.kme.down = {"a", "b"}
    simulation.run_for(50)
    assert [simulation.hosts[name].engine.blocked for name in "ab"] == [True, False]
    simulation.run_for(60)
    assert simulation.hosts["b"].engine.blocked


def test_a_blocked_peer_keeps_no_key_that_could_come_back() -> None:
    simulation = Simulation(1, CLEAN, max_age=30.0)
    done(simulation, 2)
    host = simulation.hosts["a"]
    simulation.kme.down = {"a", "b"}
    simulation.run_until(lambda: host.engine.blocked, limit=60)
    assert host.node.peers["b"].current_psk() is None
    found: list[Install] = []
    carry_out = simulation._carry_out

    def watching(its: Host) -> None:
        effects = its.node.take_effects()
        found.extend(effect for effect in effects if isinstance(effect, Install))
        its.node._effects += effects
        carry_out(its)

    simulation._carry_out = watching  # type: ignore[method-assign,assignment]  # to see what is handed to the engines
    simulation.kme.down = set()
    done(simulation)
    assert found
    assert all(effect.previous_psk is None for effect in found), "a dead key is offered to handshakes again"


def test_pqc_only_relaxes_and_still_blocks_where_the_peer_is_dead() -> None:
    simulation = Simulation(1, CLEAN, max_age=30.0, pqc_on_expiry=True)
    done(simulation, 2)
    simulation.conditions = SILENCE
    simulation.run_for(29.0 - 10.0)
    assert {protection(simulation, name) for name in "ab"} == {Protection.QKD_PQC}
    simulation.run_for(11.0 + 1.0)
    assert {protection(simulation, name) for name in "ab"} == {Protection.EXPIRED}
    simulation.run_for(RELAXED_GRACE)
    for name in "ab":
        host = simulation.hosts[name]
        assert host.engine.blocked
        changes = [notice.fields["after"] for notice in host.notices if notice.kind == "protection.changed"]
        assert changes[-2:] == ["expired", "blocked"]


def test_pqc_only_at_one_end_does_not_overrule_block_at_the_other() -> None:
    simulation = Simulation(1, CLEAN, max_age=30.0, pqc_on_expiry=True)
    simulation.settings["b"] = replace(simulation.settings["b"], pqc_on_expiry=False)
    simulation.start("b")
    done(simulation, 2)
    simulation.kme.down = {"a", "b"}
    before = simulation.hosts["a"].engine.installs
    simulation.run_for(200)
    assert simulation.hosts["a"].engine.installs == before
    assert all(host.engine.blocked for host in simulation.hosts.values())
    assert "qkd-required" in reasons(simulation, "a")


def test_pqc_only_lets_a_first_epoch_without_qkd_begin_after_max_age_and_says_so() -> None:
    simulation = Simulation(1, CLEAN, max_age=30.0, pqc_on_expiry=True)
    simulation.kme.down = {"a", "b"}
    simulation.run_for(28)
    assert all(host.engine.blocked for host in simulation.hosts.values())
    simulation.run_for(80)
    for name in "ab":
        assert protection(simulation, name) is Protection.PQC_ONLY
        assert simulation.hosts[name].count("policy.relaxed") == 1
        assert simulation.hosts[name].count("protection.changed", before="starting", after="pqc-only") == 1


@pytest.mark.parametrize("end", ["a", "b"])
@pytest.mark.parametrize("lower", [PREFERRED, OFF, REQUIRED])
def test_a_policy_that_one_end_lowers_is_seen_by_the_other(end: str, lower: Policy) -> None:
    strict = Policy(QkdPolicy.PREFERRED, min_sources=2, chain=ChainPolicy.RESET_ALLOWED)
    strict = TWO if lower is REQUIRED else strict
    sources = ("metro", "backup")
    simulation = Simulation(1, CLEAN, policy_a=strict, policy_b=strict, sources=sources)
    done(simulation, 2)
    other = "b" if end == "a" else "a"
    host = simulation.hosts[other]
    assert host.node.peers[end].view().peer_policy == strict.words
    assert host.count("peer.policy") == 0
    simulation.settings[end] = replace(simulation.settings[end], policy=lower)
    simulation.start(end)
    done(simulation, 2)
    (told,) = [notice.fields for notice in host.notices if notice.kind == "peer.policy"]
    assert told == {"before": strict.words, "after": lower.words, "lowered": True}
    assert host.node.peers[end].view().peer_policy == lower.words


def test_a_relaxed_policy_is_seen_by_the_other_end_too() -> None:
    simulation = Simulation(1, CLEAN, max_age=30.0, pqc_on_expiry=True)
    done(simulation, 2)
    simulation.kme.down = {"a", "b"}
    simulation.run_for(100)
    for name in "ab":
        assert simulation.hosts[name].count("peer.policy", before="required", after="preferred", lowered=True) == 1


@pytest.mark.parametrize("side", ["offer", "answer"])
def test_the_policies_of_both_ends_are_part_of_the_key(side: str) -> None:
    """Two transcripts that differ in nothing but a policy end in different keys, so it cannot differ unseen."""

    def keys(policy: Policy) -> tuple[bytes, bytes]:
        rng = random.Random(3)
        offered = policy if side == "offer" else REQUIRED
        answered = policy if side == "answer" else REQUIRED
        ref, key = KeyRef("metro", "k", 32), Secret(bytes(range(32)))
        offer = Offer(bytes(12), 1, offered, 0, (), (ref,))
        encapsulate = encapsulation(bytes([number]) * 32 for number in range(3))
        initiator = Initiator(
            IDENTITIES["hub"], IDENTITIES["b"].public, SUITE, bytes(16), offer, rng.randbytes, encapsulate=encapsulate
        )
        responder = Responder(
            IDENTITIES["b"], SUITE, bytes(16), initiator.message, lambda _: KnownPeer(IDENTITIES["hub"].public, None)
        )
        assert responder.offer.policy == offered
        answer = Answer(Verdict.ACCEPTED, 1, answered, 0, None, (0,), "")
        message, theirs = responder.respond(answer, None, [(ref, key)], rng.randbytes, encapsulate=encapsulate)
        seen: list[Policy] = []
        _, ours = initiator.read_response(message, {ref: key}, {}, lambda its: seen.append(its.policy))
        assert seen == [answered]
        assert theirs is not None
        assert ours is not None
        assert ours.keys.psk == theirs.keys.psk
        for at in range(len(message)):
            if at % 97 == 0:  # a sample: the handshake's own tests change every byte
                changed = bytearray(message)
                changed[at] ^= 1
                with pytest.raises(HandshakeError):
                    initiator.read_response(bytes(changed), {ref: key}, {}, lambda _: None)
        return bytes(ours.keys.psk.reveal()), bytes(ours.commit)

    one, other = keys(REQUIRED), keys(Policy(QkdPolicy.REQUIRED, min_sources=2))
    assert one == keys(REQUIRED), "nothing else differs between the runs"
    assert one[0] != other[0]
    assert one[1] != other[1]


LEVELS = {"starting", "qkd+pqc", "pqc-only", "expired", "blocked"}


@pytest.mark.parametrize("seed", range(12))
def test_every_change_of_the_level_of_protection_is_an_event(seed: int) -> None:
    """Through KMEs that come and go, silence, restarts and defects: the events tell the same story as the views."""
    rng = random.Random(seed)
    policy = rng.choice([REQUIRED, PREFERRED, OFF])
    simulation = Simulation(
        seed, Conditions(loss=0.1), policy_a=policy, policy_b=rng.choice([policy, PREFERRED]), max_age=25.0,
        pqc_on_expiry=policy is REQUIRED and rng.random() < 0.5,
    )  # fmt: skip
    seen: dict[str, list[str]] = {name: ["starting"] for name in "ab"}
    end = simulation.now + 400
    fault = simulation.now + 20
    while simulation.now < end:
        simulation.step()
        for name in "ab":
            level = protection(simulation, name).value
            if level != seen[name][-1]:
                seen[name].append(level)
        if simulation.now >= fault:
            fault = simulation.now + rng.uniform(10, 60)
            simulation.kme.down = set(rng.choice(["", "", "a", "b", "ab"]))
            simulation.conditions = rng.choice([CLEAN, Conditions(loss=0.2), SILENCE])
            if rng.random() < 0.3:
                host = simulation.hosts[rng.choice("ab")]
                host.node.peers[host.peer].tick = lambda now: 1 // 0  # type: ignore[method-assign,assignment]  # a defect
    for name in "ab":
        told = ["starting"]
        for notice in simulation.hosts[name].notices:
            if notice.kind == "protection.changed":
                assert notice.fields["before"] == told[-1]
                assert notice.fields["after"] != told[-1]
                told.append(str(notice.fields["after"]))
        assert told == seen[name]
        assert set(told) <= LEVELS


def test_no_traffic_passes_at_either_end_before_a_first_epoch() -> None:
    simulation = Simulation(1, CLEAN)
    simulation.kme.down = {"a", "b"}
    simulation.run_for(60)
    for host in simulation.hosts.values():
        assert host.engine.blocked
        assert host.memory == Memory() or host.memory.epoch == 0
        assert not [effect for effect in host.node.take_effects() if isinstance(effect, Block | Install)]
        assert host.node.peers[host.peer].current_psk() is None


def test_the_chain_policy_of_the_offer_counts_at_the_responder() -> None:
    """A chain that one end requires is not skipped because the other end would."""
    strict = Policy(QkdPolicy.REQUIRED, chain=ChainPolicy.REQUIRED)
    for ends in ((strict, REQUIRED), (REQUIRED, strict)):
        simulation = Simulation(1, CLEAN, policy_a=ends[0], policy_b=ends[1])
        done(simulation, 3)
        info = simulation.hosts["a"].node.peers["b"].view().installed
        assert info is not None
        assert info.chained
        loser = "b" if ends[0] is strict else "a"
        simulation.start(loser)
        simulation.run_for(60)
        assert "chain-required" in reasons(simulation, "a") | reasons(simulation, "b")


def test_the_responder_refuses_by_the_initiators_policy_too() -> None:
    """It knows that the initiator could not accept, and says so at once instead of having a key spent."""
    simulation = Simulation(1, CLEAN, sources=("metro", "backup"))
    initiator = max(simulation.hosts.values(), key=lambda host: host.node.local.public.id)
    responder = simulation.hosts[initiator.peer]
    name = initiator.name
    simulation.settings[name] = replace(simulation.settings[name], policy=TWO)
    simulation.start(name)
    Sources(simulation).down = {(responder.name, "backup")}
    simulation.run_for(1.0)
    tries = simulation.hosts[name].count("rekey.started", role="initiator")
    assert tries >= 1
    assert responder.count("rekey.failed", role="responder", reason="qkd-required") == tries
    assert simulation.hosts[name].count("rekey.failed", role="initiator", reason="qkd-required") == tries


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
