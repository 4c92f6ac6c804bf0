"""Keys agreed ahead: they carry rekeys through an outage of both KMEs, and each is used once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qtunnel.rekey.model import FetchAhead
from qtunnel.rekey.refill import VAIN
from qtunnel.secret import Secret
from qtunnel.terms import MAX_ANNOUNCED, RESERVOIR, WITHDRAWALS, KeyRef, Policy, QkdPolicy
from tests.rekey.simulation import Conditions, Simulation
from tests.rekey.test_rekey import CLEAN, done

DEPTH = 24
LOSSY = Conditions(loss=0.2, duplicate=0.2, least_delay=0.005, most_delay=0.3)


def simulation(seed: int = 1, conditions: Conditions = CLEAN, depth: int = DEPTH, **settings: Any) -> Simulation:
    given: dict[str, Any] = {"interval": 1.0, "jitter": 0.0, "capabilities": RESERVOIR}
    given |= {"reservoir": depth, "reservoir_low": 4}
    return Simulation(seed, conditions, **{**given, **settings})


def used(its: Simulation) -> list[KeyRef]:
    """Keys of the epochs that were installed at both ends, in order, each epoch's once."""
    found: dict[int, tuple[KeyRef, ...]] = {}
    for host in its.hosts.values():
        for epoch, info in host.node.peers[host.peer].context.epochs.items():
            found[epoch] = info.keys
    return [ref for epoch in sorted(found) for ref in found[epoch]]


def shared(its: Simulation, name: str) -> int:
    host = its.hosts[name]
    return host.node.peers[host.peer].ahead.reservoir.shared("metro")


def initiator(its: Simulation) -> str:
    """The end whose turn it is; after a restart there may be none for a moment."""
    roles = {host.node.peers[host.peer].view().role: name for name, host in its.hosts.items()}
    return roles.get("initiator", "a")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("conditions", [CLEAN, LOSSY], ids=["clean", "lossy"])
def test_rekeys_go_on_with_qkd_keys_while_both_kmes_are_down(seed: int, conditions: Conditions) -> None:
    its = simulation(seed, conditions)
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=600)
    its.kme.down = {"a", "b"}
    delivered, epochs = its.kme.delivered, 0
    seen: set[KeyRef] = set()
    first = initiator(its)
    newest = its.hosts[first].engine.epoch
    while shared(its, first):
        its.step()
        engine = its.hosts[first].engine
        if engine.epoch is not None and engine.epoch != newest:
            newest, epochs = engine.epoch, epochs + 1
            refs = its.hosts[first].node.peers[its.hosts[first].peer].context.epochs[newest].keys
            assert refs
            assert not seen & set(refs), "a key was used twice"
            seen |= set(refs)
    assert its.kme.delivered == delivered
    assert epochs >= DEPTH - 4  # of a lossy network's failed attempts some keys are gone
    assert its.hosts[first].count("reservoir.low") == 1
    assert not its.hosts[first].count("rekey.failed", reason="qkd-required")
    its.kme.down = set()
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=900)
    assert its.hosts[initiator(its)].count("reservoir.filled") >= 1 or initiator(its) != first


def test_once_it_is_empty_policy_acts_and_recovery_needs_no_restart() -> None:
    its = simulation(max_age=5.0)
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=600)
    its.kme.down = {"a", "b"}
    its.run_until(lambda: all(host.engine.blocked for host in its.hosts.values()), limit=120)
    its.kme.down = set()
    its.run_until(lambda: its.agreed, limit=120)


def test_it_fills_again_at_once_after_an_outage_of_whatever_length() -> None:
    """The pause after vain calls is two minutes by then; the key of the first rekey shows that the source is back."""
    its = simulation(max_age=1000.0)
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=600)
    its.kme.down = {"a", "b"}
    its.run_for(300.0)
    first = initiator(its)
    ahead = its.hosts[first].node.peers[its.hosts[first].peer].ahead
    its.run_until(lambda: ahead._refill.due("metro") > its.now + 60.0, limit=200)
    assert shared(its, first) == 0
    its.kme.down = set()
    its.run_until(lambda: shared(its, first) > 4, limit=40)


def test_an_announced_key_that_the_peer_s_kme_has_lost_is_given_up() -> None:
    its = simulation(capabilities=RESERVOIR | WITHDRAWALS, depth=4)
    asked: list[str] = []
    real = its.kme.get_by_id

    def get_by_id(who: str, ref: KeyRef) -> tuple[KeyRef, Secret] | str:
        if ref.key_id == "key-3":
            asked.append(who)
            return "metro: dec_keys: 400 unknown key_ID"
        return real(who, ref)

    its.kme.get_by_id = get_by_id  # type: ignore[method-assign]
    its.run_until(lambda: any(host.count("reservoir.lost") for host in its.hosts.values()), limit=60)
    before = len(asked)
    assert before >= VAIN
    done(its, 20)
    assert len(asked) <= before
    holds = {ref.key_id for host in its.hosts.values() for ref in host.node.peers[host.peer].ahead.reservoir.refs}
    assert "key-3" not in holds
    assert sum(host.count("reservoir.lost") for host in its.hosts.values()) == 1


def test_a_kme_that_is_down_makes_nobody_give_keys_up() -> None:
    its = simulation(
        capabilities=RESERVOIR | WITHDRAWALS, policy_a=Policy(QkdPolicy.PREFERRED), policy_b=Policy(QkdPolicy.PREFERRED)
    )
    its.kme.down = {"b"}
    done(its, 30)
    its.kme.down = set()
    its.run_until(lambda: shared(its, initiator(its)) > 4, limit=300)
    assert not any(host.count("reservoir.lost") for host in its.hosts.values())


def test_a_peer_without_a_reservoir_costs_no_key() -> None:
    its = simulation()
    its.settings["b"] = replace(its.settings["b"], reservoir=0, capabilities=0)
    its.start("b")
    done(its, 5)
    for name in "ab":
        host = its.hosts[name]
        assert host.node.peers[host.peer].ahead.reservoir.counts() == {}
    assert its.kme.delivered <= 7


def test_a_peer_whose_kme_is_down_costs_no_more_than_one_announcement() -> None:
    preferred = Policy(QkdPolicy.PREFERRED)
    its = simulation(policy_a=preferred, policy_b=preferred)
    its.kme.down = {"b"}
    done(its, 30)
    host = its.hosts["a"]
    held = host.node.peers["b"].ahead.reservoir.counts()["metro"]
    assert held == (0, MAX_ANNOUNCED)


@pytest.mark.parametrize("who", ["initiator", "responder"])
def test_a_restart_of_one_end_is_noticed_and_what_it_held_is_booked(who: str) -> None:
    its = simulation()
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=600)
    first = initiator(its)
    other = its.hosts[first].peer
    restarted, stays = (first, other) if who == "initiator" else (other, first)
    held = sum(its.hosts[stays].node.peers[restarted].ahead.reservoir.counts()["metro"][1:])
    its.start(restarted)
    its.run_until(lambda: its.hosts[stays].count("reservoir.lost") > 0, limit=120)
    lost = [notice.fields["number"] for notice in its.hosts[stays].notices if notice.kind == "reservoir.lost"]
    assert 0 < sum(int(str(number)) for number in lost) <= held + 2  # those that came meanwhile
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=600)
    its.run_until(lambda: its.agreed, limit=60)


def test_old_keys_are_wiped_and_replaced() -> None:
    its = simulation(reservoir_age=30.0)
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=600)
    its.run_for(120.0)
    assert sum(host.count("key.expired") for host in its.hosts.values()) > 0
    assert shared(its, initiator(its)) > 0
    its.run_until(lambda: its.agreed, limit=10)


def test_a_configuration_without_a_reservoir_empties_it() -> None:
    its = simulation()
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=600)
    for name, host in its.hosts.items():
        its.settings[name] = replace(its.settings[name], reservoir=0, capabilities=0)
        host.node.change_peer(its.settings[name], its.clock())
        assert host.node.peers[host.peer].ahead.reservoir.counts() == {}
    its.run_for(1.0)
    assert its.hosts["a"].count("reservoir.lost") == 1
    done(its, 3)


def test_a_source_that_gives_fewer_keys_is_asked_ever_less_often() -> None:
    its = simulation()
    asked: list[float] = []
    its.run_until(lambda: its.agreed, limit=10)
    its.kme.down = {"a", "b"}
    peer = its.hosts["a"].node.peers["b"]
    for _ in range(400):
        peer.ahead.tick(its.clock())
        for effect in [e for e in its.hosts["a"].node._effects if isinstance(e, FetchAhead)]:
            asked.append(its.now)
            its._effect(its.hosts["a"], effect)
        its.hosts["a"].node._effects[:] = [e for e in its.hosts["a"].node._effects if not isinstance(e, FetchAhead)]
        its.run_for(1.0)
    assert len(asked) <= 12
