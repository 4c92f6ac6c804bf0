"""An alarm at a key source: keys agreed ahead since its last good look are used at neither end, and the others are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qtunnel.rekey.states import InState, OutState
from qtunnel.terms import RESERVOIR, WITHDRAWALS, KeyRef
from tests.rekey.simulation import Host, Simulation
from tests.rekey.test_ahead import DEPTH, initiator, shared
from tests.rekey.test_ahead import simulation as old_simulation
from tests.rekey.test_kept import KeptSimulation
from tests.rekey.test_rekey import done

BOTH = RESERVOIR | WITHDRAWALS


def simulation(**settings: Any) -> Simulation:
    return old_simulation(**{"capabilities": BOTH, **settings})


def held(host: Host) -> set[KeyRef]:
    return set(host.node.peers[host.peer].ahead.reservoir.refs)


def vouch(its: Simulation, *names: str) -> None:
    """A look finds nothing wrong now."""
    for name in names:
        host = its.hosts[name]
        host.node.vouch(host.peer, "metro", its.now)


def alarm(its: Simulation, name: str) -> None:
    host = its.hosts[name]
    host.node.distrust(host.peer, "metro", "intercept-resend", its.clock())
    its._carry_out(host)


def booked(host: Host, kind: str) -> int:
    return sum(int(str(notice.fields["number"])) for notice in host.notices if notice.kind == kind)


def idle(its: Simulation) -> bool:
    """Whether no exchange is under way, and so no key in hand."""
    peers = [host.node.peers[host.peer] for host in its.hosts.values()]
    return all(peer.outbound.state is OutState.IDLE and peer.inbound.state is InState.IDLE for peer in peers)


def half_vouched(its: Simulation) -> set[KeyRef]:
    """Both are full, and some of the keys came since the last good look of both. Returns the others."""
    its.run_until(lambda: min(shared(its, "a"), shared(its, "b")) > DEPTH - 2, limit=600)
    vouch(its, "a", "b")
    good = held(its.hosts["a"]) & held(its.hosts["b"])
    done(its, 8)
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2 and idle(its), limit=600)
    return good


@pytest.mark.parametrize("end", ["initiator", "responder"])
def test_what_came_since_the_last_good_look_goes_at_both_ends_and_what_came_before_is_used(end: str) -> None:
    its = simulation()
    good = half_vouched(its)
    first = initiator(its)
    who = first if end == "initiator" else its.hosts[first].peer
    here, there = its.hosts[who], its.hosts[its.hosts[who].peer]
    known, before = held(here), held(there)
    alarm(its, who)
    doubted = known - held(here)
    assert 0 < len(doubted) < len(known)
    assert held(here) >= good & known
    assert booked(here, "key.distrusted") == len(doubted)
    doubted |= {ref for refs in here.node.peers[there.name].ahead._theirs.values() for ref in refs}  # being fetched
    its.kme.down = {"a", "b"}
    seen: list[KeyRef] = []
    done(its, 3)
    assert not doubted & held(there), "the other end has heard of it"
    spent = sum(notice.kind == "rekey.failed" for notice in there.notices)
    assert spent <= (end == "responder"), "one offer at most was made in vain"
    assert booked(there, "reservoir.lost") == len(doubted & before) - spent
    for host in its.hosts.values():
        for info in host.node.peers[host.peer].context.epochs.values():
            seen += [ref for ref in info.keys if info.made > its.now - 3.5]
    assert seen
    assert not doubted & set(seen)
    assert its.agreed


def test_an_offer_of_a_key_that_is_withdrawn_is_refused_once_and_the_next_is_taken() -> None:
    """The alarm comes in the very moment: the peer has not heard of it."""
    its = simulation()
    good = half_vouched(its)
    first = initiator(its)
    sender, other = its.hosts[first], its.hosts[its.hosts[first].peer]
    reservoir = sender.node.peers[sender.peer].ahead.reservoir
    for ref in [ref for ref in reservoir.refs if ref in good]:  # so that those in doubt come first
        if (entry := reservoir._own.pop(ref, None)) is not None:
            reservoir._own[ref] = entry
    known, failed = held(other), sender.count("rekey.failed")
    alarm(its, other.name)
    doubted = known - held(other)
    its.kme.down = {"a", "b"}
    epoch = sender.engine.epoch
    its.run_until(lambda: sender.engine.epoch != epoch and its.agreed, limit=20)
    assert sender.count("rekey.failed") - failed == 1
    installed = sender.node.peers[sender.peer].context.epochs[sender.engine.epoch or 0]
    assert not doubted & set(installed.keys)
    assert not doubted & held(sender)


def test_an_exchange_under_way_with_such_a_key_comes_to_nothing_and_another_begins() -> None:
    its = simulation()
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=600)
    vouch(its, "a", "b")
    first = initiator(its)
    host = its.hosts[first]
    peer = host.node.peers[host.peer]
    its.run_until(lambda: peer.outbound.state is OutState.OFFERED, limit=20)
    offered = peer.outbound._initiator
    assert offered is not None
    before, exchange = offered.offer.keys, peer.outbound.exchange
    alarm(its, first)  # what was put in hand just now is in doubt, whenever it came
    assert peer.outbound.exchange != exchange
    epoch = host.engine.epoch
    its.run_until(lambda: host.engine.epoch != epoch and its.agreed, limit=2)
    done(its, 2)
    for info in peer.context.epochs.values():
        assert not set(before) & set(info.keys)


def test_a_peer_that_does_not_read_withdrawals_is_told_none() -> None:
    its = simulation()
    its.settings["b"] = replace(its.settings["b"], capabilities=RESERVOIR)
    its.start("b")
    half_vouched(its)
    alarm(its, "a")
    done(its, 3)
    assert its.agreed
    reservoir = its.hosts["a"].node.peers["b"].ahead.reservoir
    assert reservoir.withdrawn, "it goes on being one that it has to hear of"


def test_a_key_that_is_withdrawn_while_it_is_fetched_is_not_kept() -> None:
    its = simulation()
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2 and idle(its), limit=600)
    vouch(its, "a", "b")  # so that there are others, and rekeys need no KME
    first = initiator(its)
    other = its.hosts[first].peer
    its.kme.slow = {other: 2.5}
    alone = its.hosts[other].node.peers[first].ahead
    its.run_until(lambda: bool(alone._theirs), limit=60)
    fetched = {ref for refs in alone._theirs.values() for ref in refs}
    alarm(its, first)
    done(its, 8)
    assert not fetched & held(its.hosts[other])
    assert not alone._unwanted


def test_all_of_a_source_goes_where_nobody_ever_looked() -> None:
    its = simulation()
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=600)
    alarm(its, "a")
    assert not held(its.hosts["a"])


def test_another_source_s_keys_stay() -> None:
    its = simulation(sources=("metro", "other"))
    its.run_until(lambda: shared(its, initiator(its)) > DEPTH - 2, limit=600)
    alarm(its, "a")
    assert {ref.source for ref in held(its.hosts["a"])} == {"other"}
    done(its, 3)
    assert its.agreed


def test_what_is_in_doubt_does_not_come_back_from_the_disk_and_a_look_of_before_a_restart_counts() -> None:
    its = KeptSimulation(1, capabilities=BOTH)
    its.run_until(lambda: shared(its, initiator(its)) >= 3, limit=600)
    vouch(its, "a", "b")
    its.run_for(0.5)
    good = held(its.hosts["a"])
    its.run_until(lambda: shared(its, initiator(its)) > 9, limit=600)
    doubted = held(its.hosts["a"]) - good
    its.start("a")
    assert doubted <= held(its.hosts["a"]), "they were on disk"
    alarm(its, "a")
    assert held(its.hosts["a"]) <= good
    assert held(its.hosts["a"]), "of the others the look of before is known"
    its.run_for(0.0)
    its._carry_out(its.hosts["a"])
    its.start("a")
    assert not doubted & held(its.hosts["a"])
    its.run_until(lambda: its.agreed, limit=60)
