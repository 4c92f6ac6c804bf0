"""Keys in doubt and restarts: what was withdrawn stays so, and what is kept waits for a look at its source."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qtunnel.keys.reservoir import mark_of
from qtunnel.rekey.model import Fetched, Keep, Now, Remember
from qtunnel.rekey.states import InState, OutState
from qtunnel.secret import Secret
from qtunnel.terms import MAX_ANNOUNCED, KeyRef
from tests.rekey.simulation import EPOCH_OF_SIMULATION, Host, KmePair, Simulation
from tests.rekey.test_ahead import DEPTH, initiator, shared
from tests.rekey.test_distrust import BOTH, alarm, booked, held, idle, simulation, vouch
from tests.rekey.test_kept import KeptSimulation
from tests.rekey.test_rekey import done


class Redelivering(KmePair):
    """KMEs that deliver a key by its key_ID as often as they are asked."""

    def get_by_id(self, who: str, ref: KeyRef) -> tuple[KeyRef, Secret] | str:
        key = self._waiting.get(ref.key_id)
        found = super().get_by_id(who, ref)
        if key is not None and who not in self.down:
            self._waiting[ref.key_id] = key
        return found


class KeptAndRedelivering(KeptSimulation):
    """shift: by how many seconds the wall clocks are off."""

    shift = 0.0

    def _make_kme(self) -> KmePair:
        return Redelivering(self.rng)

    def clock(self) -> Now:
        return Now(self.now, int((EPOCH_OF_SIMULATION + self.now + self.shift) * 1e9))


class InMemory(Simulation):
    def _make_kme(self) -> KmePair:
        return Redelivering(self.rng)


def installed(its: Simulation) -> set[KeyRef]:
    """Keys of the epochs that either end still knows."""
    peers = [host.node.peers[host.peer] for host in its.hosts.values()]
    return {ref for peer in peers for info in peer.context.epochs.values() for ref in info.keys}


def stocked(its: Simulation, doubted: int = 4) -> tuple[Host, Host, set[KeyRef]]:
    """Both ends have keys agreed ahead, of which some came since the last good look. Returns the end that waits for
    its peer, the other one, and the keys that came before."""
    its.run_until(lambda: shared(its, initiator(its)) >= 6 and idle(its), limit=600)
    vouch(its, "a", "b")
    good = held(its.hosts["a"]) | held(its.hosts["b"])
    its.run_until(lambda: all(len(held(its.hosts[name]) - good) >= doubted for name in "ab") and idle(its), limit=600)
    first = initiator(its)
    return its.hosts[its.hosts[first].peer], its.hosts[first], good


def kept(**settings: Any) -> KeptAndRedelivering:
    return KeptAndRedelivering(1, capabilities=BOTH, **settings)


def test_what_is_withdrawn_stays_so_after_a_restart_and_the_peer_hears_of_it() -> None:
    """The peer offers such a key, whose KME delivers it once more: it is refused all the same."""
    its = kept()
    here, there, _ = stocked(its)
    name, known = here.name, held(here)
    alarm(its, name)
    doubted = known - held(here)
    assert doubted & held(there), "the peer has not heard"
    its.start(name)
    reservoir = its.hosts[name].node.peers[there.name].ahead.reservoir
    assert {mark_of(ref) for ref in doubted} <= set(reservoir._withdrawn)
    peer = there.node.peers[name]
    offered = next((ref for ref in peer.ahead.reservoir._own if ref in doubted), None)
    assert offered is not None
    peer.ahead.reservoir._own = {offered: peer.ahead.reservoir._own.pop(offered)} | peer.ahead.reservoir._own
    its.kme.down = {there.name}
    failed = there.count("rekey.failed")
    there.node.rekey_now(name, its.clock())
    its._carry_out(there)
    for _ in range(3):
        done(its)
        assert not doubted & installed(its)
    assert there.count("rekey.failed") - failed == 1
    its.kme.down = set()
    done(its, 4)
    assert not doubted & held(there)
    assert not doubted & installed(its)
    assert not its.hosts[name].node.peers[there.name].ahead.reservoir._withdrawn, "it knows that the peer knows"


def test_a_withdrawal_counts_as_heard_with_the_commit_alone() -> None:
    """The answer came, but the peer, which goes by the commit, never saw that."""
    its = simulation()
    here, there, _ = stocked(its)
    alarm(its, there.name)  # whose turn it is
    reservoir = there.node.peers[here.name].ahead.reservoir
    marks = set(reservoir._withdrawn)
    assert marks
    outbound = there.node.peers[here.name].outbound
    its.run_until(lambda: outbound._sealed is not None, limit=30)
    assert set(reservoir._withdrawn) == marks
    done(its)
    assert not reservoir._withdrawn


def test_keys_in_hand_are_withdrawn_too() -> None:
    """The peer offered them without an answer, and may do so again after a restart of this end."""
    its = kept()
    here, there, _ = stocked(its)
    ref = KeyRef("metro", "in-hand", 32)
    here.node.peers[there.name].context.theirs.put(ref, Secret(bytes(range(32))), its.now)
    its.now += 0.1
    alarm(its, here.name)
    its.start(here.name)
    assert its.hosts[here.name].node.peers[there.name].ahead.reservoir.is_withdrawn(ref)


def test_a_file_without_marks_of_keys_in_hand_is_not_used_any_more() -> None:
    """Nothing of the reservoir is in doubt, but a disk that does not take the marks must not forget them."""
    its = kept()
    here, there, _ = stocked(its)
    vouch(its, here.name)
    its.now += 0.1
    here.node.peers[there.name].context.theirs.put(KeyRef("metro", "in-hand", 32), Secret(bytes(range(32))), its.now)
    here.node.take_effects()
    here.node.distrust(there.name, "metro", "intercept-resend", its.clock())
    effects = here.node.take_effects()
    assert [effect.used for effect in effects if isinstance(effect, Keep)] == [True]
    assert any(isinstance(effect, Remember) for effect in effects)


@pytest.mark.parametrize("again", [True, False], ids=["redelivered", "gone"])
@pytest.mark.parametrize("depth", [DEPTH, 0], ids=["", "without a reservoir now"])
def test_what_was_agreed_with_an_end_that_forgot_it_goes_into_no_epoch(again: bool, depth: int) -> None:
    """No store: this end has forgotten the keys, and which of them it came to doubt."""
    kind = InMemory if again else Simulation
    its = kind(1, simulation().conditions, interval=1.0, jitter=0.0, capabilities=BOTH, reservoir=DEPTH)
    here, there, _ = stocked(its)
    stock = held(there)
    alarm(its, here.name)
    if not depth:
        its.settings[here.name] = replace(its.settings[here.name], reservoir=0)
    its.start(here.name)
    failed, epochs = there.count("rekey.failed"), there.engine.epoch
    there.node.rekey_now(here.name, its.clock())
    its._carry_out(there)
    its.run_until(lambda: there.engine.epoch != epochs and its.agreed, limit=20)
    context = there.node.peers[here.name].context
    assert there.engine.epoch is not None
    assert context.epochs[there.engine.epoch].keys
    assert not stock & set(context.epochs[there.engine.epoch].keys)
    if depth:  # else a refusal says nothing of a store, and one key after the other is offered
        assert there.count("rekey.failed") - failed <= 1
    done(its, 3)
    assert not stock & held(there)
    assert booked(there, "reservoir.lost") >= len(stock) - (there.count("rekey.failed") - failed)  # that were spent


def test_a_key_in_hand_that_was_agreed_with_a_store_that_is_gone_is_not_offered() -> None:
    its = InMemory(1, simulation().conditions, interval=1.0, jitter=0.0, capabilities=BOTH, reservoir=DEPTH)
    here, there, _ = stocked(its)
    peer = there.node.peers[here.name]
    peer.ahead.take(["metro"], 1, its.clock())  # for an offer that nobody answered
    (in_hand,) = set(peer.context.ours)
    its.start(here.name)
    failed, before = there.count("rekey.failed"), peer.ahead.reservoir.peer_store
    its.hosts[here.name].node.rekey_now(there.name, its.clock())
    its._carry_out(its.hosts[here.name])
    its.run_until(lambda: peer.ahead.reservoir.peer_store != before and idle(its), limit=60)
    there.node.rekey_now(here.name, its.clock())
    its._carry_out(there)
    done(its, 2)
    assert in_hand not in installed(its)
    assert in_hand not in peer.context.ours
    assert there.count("rekey.failed") == failed, "nor was it tried"


def test_a_key_in_hand_that_the_peer_withdraws_is_not_offered() -> None:
    its = simulation()
    here, there, _ = stocked(its)
    peer = there.node.peers[here.name]
    ref = KeyRef("metro", "in-hand", 32)
    peer.context.ours.put(ref, Secret(bytes(range(32))), its.now)
    here.node.peers[there.name].ahead.reservoir.withdraw([ref])
    here.node.rekey_now(there.name, its.clock())
    its._carry_out(here)
    done(its)
    failed = there.count("rekey.failed")
    there.node.rekey_now(here.name, its.clock())
    its._carry_out(there)
    done(its, 2)
    assert ref not in installed(its)
    assert there.count("rekey.failed") == failed


def test_a_withdrawn_key_of_its_own_is_not_taken_once_more() -> None:
    """After a restart a KME delivers it a second time, as a fresh one, before the peer has heard of anything."""
    its = kept()
    there, here, _ = stocked(its)
    name = here.name
    own = {ref: its_own.key.copy() for ref, its_own in here.node.peers[there.name].ahead.reservoir._own.items()}
    alarm(its, name)
    its.start(name)
    peer = its.hosts[name].node.peers[there.name]
    doubted = [ref for ref in own if peer.ahead.reservoir.is_withdrawn(ref)]
    assert doubted
    keys = tuple((ref, own[ref]) for ref in doubted)
    failures = peer.context.admit(peer.context.ours.put, Fetched(keys), its.clock())
    assert len(failures) == len(doubted)
    assert "withdrawn" in failures[0][1]
    assert not set(peer.context.ours)
    assert all(key.wiped for _, key in keys)


def test_what_the_peer_withdraws_while_a_source_is_waited_for_is_not_offered() -> None:
    its = simulation(sources=("metro", "other"), interval=20.0)
    its.run_until(lambda: shared(its, initiator(its)) >= 4 and idle(its), limit=6000)
    there = its.hosts[initiator(its)]
    here, peer = its.hosts[there.peer], there.node.peers[there.peer]
    ref = KeyRef("metro", "in-hand", 32)
    peer.context.ours.put(ref, Secret(bytes(range(32))), its.now)
    peer.ahead.reservoir.keep(("metro",))  # so that the other source is asked
    here.node.peers[there.name].ahead.reservoir.withdraw([ref])
    here.node.rekey_now(there.name, its.clock())
    its._carry_out(here)
    its.run_until(lambda: peer.inbound.state is InState.ANSWERED, limit=10)
    its.kme.slow = {there.name: 2.0}
    there.node.rekey_now(here.name, its.clock())
    its._carry_out(there)
    assert peer.outbound.state is OutState.FETCHING
    its.run_until(lambda: peer.inbound.state is InState.IDLE, limit=10)
    assert ref in peer.context.ours, "the commit came while the source is waited for"
    its.run_until(lambda: peer.outbound._initiator is not None, limit=10)
    assert peer.outbound._initiator is not None
    assert [key.source for key in peer.outbound._initiator.offer.keys] == ["other"]
    assert ref not in peer.context.ours


def test_an_end_that_never_begins_does_not_gather_what_its_peer_withdraws() -> None:
    its = simulation()
    here, there, _ = stocked(its)
    for number in range(3):
        there.node.peers[here.name].ahead.reservoir.withdraw(KeyRef("metro", f"{number}-{n}", 32) for n in range(20))
        there.node.rekey_now(here.name, its.clock())
        its._carry_out(there)
        done(its)
    assert not there.node.peers[here.name].ahead.reservoir._withdrawn
    assert not here.node.peers[there.name].ahead._renounced


@pytest.mark.parametrize("what", ["withdraws", "shows another store"])
def test_a_peer_that_has_keys_thrown_away_all_the_time_does_not_drain_the_kme(what: str) -> None:
    its = simulation(interval=60.0)
    its.run_for(20)
    here, there = its.hosts["b"], its.hosts["a"]
    peer = there.node.peers["b"]
    before, began, exchanges = held(here), its.now, 0
    fetched = set[KeyRef]()
    while its.now < began + 120:
        if what == "withdraws":
            peer.ahead.reservoir.withdraw(here.node.peers["a"].ahead.reservoir._own)
        else:
            peer.ahead.lose("so it says", its.clock())
        exchanges += there.node.rekey_now("b", its.clock())
        its._carry_out(there)
        its.run_for(0.6)
        fetched |= set(here.node.peers["a"].ahead.reservoir._own)
    assert exchanges > 100
    assert len(fetched - before) <= 4 * MAX_ANNOUNCED
    its.run_until(lambda: shared(its, "b") > 4, limit=600)


@pytest.mark.parametrize(
    ("ahead", "killed"), [(True, False), (True, True), (False, True)], ids=["announced", "announced-killed", "offered"]
)
def test_what_is_being_fetched_when_an_alarm_comes_is_not_taken_when_it_comes_once_more(
    ahead: bool, killed: bool
) -> None:
    """Nobody has it then: who fetched it has wiped it, or is no more. Its KME delivers it again when all is well."""
    its = kept()
    here, there, _ = stocked(its)
    name, node = here.name, here.node
    if not ahead:  # so that a fresh key is offered
        there.node.peers[name].ahead.reservoir.keep(())
    fetched, its.kme.slow = node.fetched, {name: 5.0}

    def wiped(peer: str, ticket: int, result: Fetched, now: Now) -> None:
        result.wipe()  # as daemon/answers.py does it
        fetched(peer, ticket, Fetched(), now)

    node.fetched = wiped  # type: ignore[method-assign, assignment]  # the shell of this one
    there.node.rekey_now(name, its.clock())
    its._carry_out(there)
    peer = node.peers[there.name]
    its.run_until(lambda: bool(peer.ahead._theirs if ahead else peer.inbound.coming), limit=60)
    doubted = {*peer.inbound.coming, *(ref for refs in peer.ahead._theirs.values() for ref in refs)}
    alarm(its, name)
    if killed:
        its.start(name)
    else:
        its.run_until(lambda: not peer.ahead._theirs, limit=60)
        node.fetched = fetched  # type: ignore[method-assign]
    its.kme.slow = {}
    vouch(its, name)
    for _ in range(6):
        done(its)
        assert not doubted & (installed(its) | set(its.hosts[name].node.peers[there.name].ahead.reservoir._theirs))
    assert not doubted & held(there), "the peer has heard"


def test_kept_keys_are_used_by_neither_role_before_a_look_and_by_both_after_it() -> None:
    its = kept()
    its.run_until(lambda: min(shared(its, "a"), shared(its, "b")) >= 4 and idle(its), limit=600)
    its.kme.down = {"a", "b"}
    its.look_takes = 5.0
    stock = held(its.hosts["a"]) | held(its.hosts["b"])
    for name in "ab":
        its.start(name)
    began = its.now
    assert held(its.hosts["a"]) | held(its.hosts["b"]) == stock
    its.run_until(lambda: any(host.engine.epoch is not None for host in its.hosts.values()), limit=60)
    assert its.now >= began + 2 * its.look_takes - 0.1, "before the offer, then before the answer"
    its.run_until(lambda: its.agreed, limit=10)
    assert installed(its)
    assert installed(its) <= stock
    before = its.now
    done(its, 2)
    assert its.now - before < its.look_takes, "once"


def test_what_the_look_doubts_is_not_used() -> None:
    its = kept()
    here, there, good = stocked(its)
    its.kme.down = {"a", "b"}
    its.run_for(0.1)
    its.look_takes = 5.0
    its.start(there.name)
    there = its.hosts[there.name]
    doubted = held(there) - good
    assert doubted
    its.run_for(2.0)
    assert not there.node.peers[here.name].context.epochs, "nothing is used meanwhile"
    alarm(its, there.name)
    assert held(there) == held(there) & good
    its.run_until(lambda: there.engine.epoch is not None, limit=60)
    assert not doubted & installed(its)
    assert installed(its)


@pytest.mark.parametrize("shift", [-3600.0, 3600.0, -1e10])
@pytest.mark.parametrize("when", ["before the save", "while it was down"])
def test_whatever_becomes_of_the_clock_what_came_after_the_look_is_in_doubt(shift: float, when: str) -> None:
    its = kept()
    here, _, good = stocked(its, doubted=1)
    if when == "before the save":
        its.shift = shift
        done(its, 3)  # so that the store is written by that clock
    if when == "while it was down":
        its.shift = shift
    its.start(here.name)
    here = its.hosts[here.name]
    assert held(here) - good
    alarm(its, here.name)
    assert not held(here) - good
