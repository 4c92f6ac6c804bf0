"""The epoch chain between two ends: what goes into the next epoch after a crash, and of two exchanges at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qtunnel.handshake.fragments import MessageType
from qtunnel.rekey.model import Memory
from qtunnel.rekey.states import InState, OutState
from qtunnel.rekey.timing import FETCH_LIMIT, OFFER_HOLD
from qtunnel.secret import Secret
from qtunnel.terms import ChainPolicy, KeyRef, Policy, QkdPolicy
from tests.rekey.simulation import Conditions, Simulation
from tests.rekey.test_heal import installed, lose
from tests.rekey.test_rekey import CLEAN, REQUIRED, done, reasons, rekeys

STRICT = Policy(QkdPolicy.REQUIRED, chain=ChainPolicy.REQUIRED)


def of_roles(simulation: Simulation) -> tuple[str, str]:
    """The end that begins by rule, and the other."""
    first = max(simulation.hosts, key=lambda name: simulation.hosts[name].node.local.public.id)
    return first, "b" if first == "a" else "a"


@pytest.mark.parametrize("down", [{"a"}, {"b"}, {"a", "b"}])
def test_every_epoch_of_an_outage_builds_on_the_last_one_with_qkd(down: set[str]) -> None:
    preferred = Policy(QkdPolicy.PREFERRED)
    simulation = Simulation(1, CLEAN, policy_a=preferred, policy_b=preferred)
    done(simulation, 2)
    simulation.kme.down = down
    for _ in range(8):
        done(simulation)
        simulation.run_until(lambda: simulation.agreed, limit=5)
        chains = []
        for name in "ab":
            its = installed(simulation, name)
            assert its.chained
            assert not its.keys
            peer = simulation.hosts[name].node.peers[simulation.hosts[name].peer]
            chains.append([held.id for held in peer.context.chain.links])
        assert chains[0] == chains[1]
        assert len(chains[0]) == 2, "that of the epoch before, for a peer that missed this one"
    simulation.kme.down = set()
    done(simulation)
    assert installed(simulation, "a").chained
    assert installed(simulation, "a").keys
    assert not sum(host.count("chain.reset") for host in simulation.hosts.values())


def test_a_first_epoch_in_doubt_is_given_up_where_the_peer_lost_everything() -> None:
    """The initiator requires a chain, but never had an epoch: all it holds is what the peer may have committed."""
    simulation = Simulation(1, CLEAN)
    first, other = of_roles(simulation)
    for name in (first, other):
        simulation.settings[name] = replace(simulation.settings[name], policy=STRICT if name == first else REQUIRED)
        simulation.start(name)
    simulation.settings[other] = replace(simulation.settings[other], has_endpoint=False)
    simulation.start(other)
    lose(simulation, MessageType.COMMIT)
    simulation.run_until(lambda: len(simulation.hosts[first].node.peers[other].context.chain.links) == 1, limit=10)
    simulation.hosts[other].memory = Memory()
    simulation.start(other)
    lose(simulation)
    simulation.run_until(lambda: simulation.agreed, limit=120)
    assert "chain-required" in reasons(simulation, first)
    done(simulation)
    assert installed(simulation, first).chained


def two_at_once(strict: str, overtaken_by: str) -> Simulation:
    """The first two exchanges between the ends run side by side, so neither builds on the other. strict: which end's
    policy requires a chain. overtaken_by: whose exchange makes the first epoch."""
    simulation = Simulation(1, Conditions(), max_age=600.0)
    other = "b" if overtaken_by == "a" else "a"
    for name in ("a", "b"):
        policy = STRICT if name == strict else REQUIRED
        simulation.settings[name] = replace(simulation.settings[name], policy=policy, has_endpoint=False, interval=60.0)
        simulation.start(name)
    nodes = {name: simulation.hosts[name].node.peers[simulation.hosts[name].peer] for name in ("a", "b")}
    for peer in nodes.values():
        peer._reachable = True
    lose(simulation, MessageType.COMMIT)
    for name in (overtaken_by, other):
        assert nodes[name].rekey_now(simulation.clock())
        simulation._carry_out(simulation.hosts[name])
        simulation.run_until(lambda name=name: nodes[name].outbound._sealed is not None, limit=5)  # type: ignore[misc]
    lose(simulation, MessageType.COMMIT, of=other)
    simulation.run_until(lambda: simulation.agreed, limit=10)
    lose(simulation)
    return simulation


@pytest.mark.parametrize("strict", ["a", "b"])
@pytest.mark.parametrize("first", ["a", "b"])
def test_an_exchange_that_lacks_the_chain_by_now_is_not_installed(strict: str, first: str) -> None:
    simulation = two_at_once(strict, first)
    made = [installed(simulation, strict)]
    simulation.on_install = lambda its, host: made.append(installed(its, host.name)) if host.name == strict else None
    simulation.run_until(lambda: simulation.agreed and len(made) > 2, limit=400)
    assert [info.chained for info in made] == [False] + [True] * (len(made) - 1)


def test_a_number_in_doubt_is_given_to_no_other_exchange() -> None:
    """The peer may have that epoch, and nobody can know: here it had, and has lost everything since."""
    simulation = Simulation(1, CLEAN)
    first, other = of_roles(simulation)
    a, b = simulation.hosts[first], simulation.hosts[other]
    lose(simulation, MessageType.COMMITTED)
    simulation.run_until(lambda: b.engine.epoch == 1, limit=10)
    simulation.run_for(0.1)
    simulation.hosts[other].memory = Memory()
    simulation.start(other)
    b = simulation.hosts[other]
    assert b.node.rekey_now(first, simulation.clock())
    simulation._carry_out(b)
    lose(simulation)
    simulation.run_until(lambda: simulation.agreed, limit=5)
    assert a.node.peers[other].outbound.state is OutState.IDLE, "its own exchange, of number 1, is over"
    assert a.engine.epoch == b.engine.epoch == 2
    assert b.count("rekey.failed", role="initiator", reason="stale-epoch") == 1, "which says what number to take"


def test_an_exchange_that_begins_while_keys_of_another_are_fetched_has_a_newer_number() -> None:
    """Else both could commit, and each end would hold the key of the other's exchange under that number."""
    simulation = Simulation(1, CLEAN, interval=60.0)
    first, other = of_roles(simulation)
    done(simulation, 2)
    simulation.run_until(lambda: simulation.agreed, limit=5)
    before = simulation.hosts["a"].engine.epoch
    simulation.kme.slow = {other: FETCH_LIMIT - 1.0}
    inbound = simulation.hosts[other].node.peers[first].inbound
    simulation.run_until(lambda: inbound.state is InState.FETCHING, limit=120)
    simulation.run_for(OFFER_HOLD)
    simulation.kme.slow = {}
    lose(simulation, MessageType.RESPONSE, MessageType.COMMITTED)
    numbers = set()
    for name in (other, first):
        peer = simulation.hosts[name].node.peers[simulation.hosts[name].peer]
        if peer.outbound._initiator is None:
            assert peer.rekey_now(simulation.clock())
            simulation._carry_out(simulation.hosts[name])
            simulation.run_for(0.005)
        assert peer.outbound._initiator is not None
        numbers.add(peer.outbound._initiator.offer.epoch)
    assert before is not None
    assert numbers == {before + 1, before + 2}


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
