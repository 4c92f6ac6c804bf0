"""An alarm at the source of a key that is in the epoch in force: another epoch comes soon, and no more than one."""

from __future__ import annotations

from typing import Any

import pytest

from qtunnel.rekey.timing import GRACE_AT_START
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef, Policy, QkdPolicy
from tests.rekey.simulation import KmePair, Simulation
from tests.rekey.test_ahead import initiator, shared
from tests.rekey.test_distrust import BOTH, alarm, held, idle, vouch
from tests.rekey.test_rekey import CLEAN, done, rekeys

INTERVAL = 120.0
SOURCES = ("metro", "backup")


class Barred(KmePair):
    """barred: sources of which the shell asks no key, as they raised an alarm."""

    barred: frozenset[str] = frozenset()

    def get(self, who: str, source: str, size: int) -> tuple[KeyRef, Secret] | str:
        return "in quarantine" if source in self.barred else super().get(who, source, size)


class Alarmed(Simulation):
    def __init__(self, **settings: Any) -> None:
        given = {"interval": INTERVAL, "jitter": 0.0, "max_age": 600.0, "sources": SOURCES}
        super().__init__(1, CLEAN, **{**given, **settings})

    def _make_kme(self) -> KmePair:
        return Barred(self.rng)

    def eve(self, name: str) -> None:
        """An alarm of metro's at that end."""
        assert isinstance(self.kme, Barred)
        self.kme.barred = frozenset({"metro"})
        alarm(self, name)


def sources_of(its: Simulation, name: str) -> set[str]:
    host = its.hosts[name]
    assert host.engine.epoch is not None
    return set(host.node.peers[host.peer].context.epochs[host.engine.epoch].sources)


@pytest.mark.parametrize("end", ["initiator", "responder"])
def test_it_is_replaced_soon_by_one_of_the_other_sources(end: str) -> None:
    its = Alarmed()
    done(its, 2)
    its.run_for(20.0)
    first = initiator(its)
    who = first if end == "initiator" else its.hosts[first].peer
    assert sources_of(its, who) == set(SOURCES)
    its.eve(who)
    before = rekeys(its)
    its.run_until(lambda: rekeys(its) > before, limit=GRACE_AT_START + 2.0)
    its.run_until(lambda: its.agreed, limit=2.0)
    assert {"backup"} == sources_of(its, "a") == sources_of(its, "b")
    assert its.hosts[who].count("rekey.due", limit="doubt") == 1
    its.eve(who)
    its.run_for(INTERVAL / 2)
    assert rekeys(its) == before + 1, "no key of this one is in doubt"


def test_alarms_one_after_the_other_bring_no_more_than_one_in_each_interval() -> None:
    """With metro well between them, so that each epoch has a key of its."""
    its = Alarmed()
    done(its, 2)
    first, before, began = initiator(its), rekeys(its), its.now
    while its.now < began + 3 * INTERVAL:
        its.eve(first)
        its.kme.barred = frozenset()  # type: ignore[attr-defined]  # as ``_make_kme`` made it
        its.run_for(2.0)
    assert rekeys(its) - before <= 3 + 1, "one more than without any alarm"


@pytest.mark.parametrize("qkd", [QkdPolicy.REQUIRED, QkdPolicy.PREFERRED])
def test_without_another_source_policy_acts_in_its_time(qkd: QkdPolicy) -> None:
    its = Alarmed(sources=("metro",), policy_a=Policy(qkd), policy_b=Policy(qkd))
    done(its, 2)
    its.run_for(20.0)
    first = initiator(its)
    host = its.hosts[first]
    planned, epoch = host.node.peers[host.peer].next_rekey, host.engine.epoch
    its.eve(first)
    assert host.node.peers[host.peer].next_rekey == planned
    its.run_for(20.0)
    assert host.engine.epoch == epoch
    assert not host.engine.blocked
    assert not host.count("rekey.failed")


def test_fewer_sources_than_the_policy_wants_bring_none() -> None:
    two = Policy(QkdPolicy.REQUIRED, 2)
    its = Alarmed(policy_a=two, policy_b=two)
    done(its, 2)
    first = initiator(its)
    its.eve(first)
    its.run_for(20.0)
    assert not its.hosts[first].count("rekey.failed")
    assert sources_of(its, first) == set(SOURCES)


def test_keys_that_were_agreed_ahead_and_vouched_for_serve() -> None:
    its = Alarmed(sources=("metro",), reservoir=12, reservoir_low=2, capabilities=BOTH)
    its.run_until(lambda: shared(its, initiator(its)) >= 6 and idle(its), limit=6000)
    vouch(its, "a", "b")
    good = held(its.hosts["a"]) | held(its.hosts["b"])
    done(its)  # its key comes into hand after that look, and came from its source before
    first = initiator(its)
    host = its.hosts[first]
    peer = host.node.peers[host.peer]
    before, planned = rekeys(its), peer.next_rekey
    alarm(its, first)
    assert peer.next_rekey == planned, "its key came before the last good look"
    its.run_for(10.0)
    peer.context.ours._arrivals.clear()  # of the key in force nobody knows any more when it came
    peer.context.theirs._arrivals.clear()
    its.eve(first)
    its.run_until(lambda: rekeys(its) > before, limit=3.0)
    its.run_until(lambda: its.agreed, limit=2.0)
    assert host.engine.epoch is not None
    keys = peer.context.epochs[host.engine.epoch].keys
    assert keys
    assert set(keys) <= good
