"""Other settings for a peer that is there: what is in force stays where they allow it, and goes at once where not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qtunnel.handshake.suites import SUITES
from qtunnel.keys.policy import Protection, sources_required
from qtunnel.rekey.model import PeerSettings
from qtunnel.rekey.peer import NEGOTIATED
from qtunnel.rekey.states import InState
from qtunnel.rekey.timing import RELAXED_GRACE
from qtunnel.terms import Policy, QkdPolicy
from tests.rekey.simulation import Conditions, Simulation
from tests.rekey.test_rekey import done, protection, rekeys

CLEAN = Conditions()
REQUIRED, PREFERRED, OFF = (Policy(kind) for kind in (QkdPolicy.REQUIRED, QkdPolicy.PREFERRED, QkdPolicy.OFF))
TWO = Policy(QkdPolicy.REQUIRED, 2)


def change(simulation: Simulation, *names: str, **changes: object) -> None:
    """The settings of these hosts, which learn of it now."""
    for name in names:
        simulation.settings[name] = replace(simulation.settings[name], **changes)  # type: ignore[arg-type]  # by name
        host = simulation.hosts[name]
        host.node.change_peer(simulation.settings[name], simulation.clock())
        simulation._carry_out(host)


def up(policy: Policy = REQUIRED, **settings: Any) -> Simulation:
    simulation = Simulation(1, Conditions(), policy_a=policy, policy_b=policy, **settings)
    done(simulation, 2)
    simulation.now += 1.0
    return simulation


def engines(simulation: Simulation) -> list[tuple[int | None, int]]:
    return [(host.engine.epoch, host.engine.installs) for host in simulation.hosts.values()]


def test_what_the_new_policy_allows_goes_on() -> None:
    simulation = up(interval=100.0, jitter=0.0)
    before = engines(simulation)
    change(simulation, "a", "b", max_age=300.0, interval=50.0, policy=PREFERRED, has_endpoint=True)
    simulation.run_for(0.5)
    assert not any(host.engine.blocked for host in simulation.hosts.values())
    change(simulation, "a", "b", policy=REQUIRED)
    assert not any(host.engine.blocked for host in simulation.hosts.values()), "there is a QKD key in it"
    assert [epoch for epoch, _ in before] == [host.engine.epoch for host in simulation.hosts.values()] or rekeys(
        simulation
    )


@pytest.mark.parametrize(
    ("before", "changes"),
    [
        (OFF, {"policy": REQUIRED}),
        (REQUIRED, {"policy": TWO}),
        (REQUIRED, {"sources": ("backbone",)}),
        (REQUIRED, {"max_age": 0.5}),
    ],
)
def test_what_it_forbids_is_blocked_at_once(before: Policy, changes: dict[str, object]) -> None:
    """Not at the next rekey, nor at the next tick of the clock."""
    simulation = up(before, interval=100.0)
    change(simulation, "a", **changes)
    host = simulation.hosts["a"]
    assert host.engine.blocked
    assert protection(simulation, "a") is Protection.BLOCKED
    assert host.node.peers["b"].current_psk() is None, "nobody can put it in place again"
    assert host.count("peer.blocked") == 1
    assert host.count("protection.changed", after="blocked") == 1
    assert not simulation.hosts["b"].engine.blocked, "the other end has its own configuration"


def test_a_block_by_policy_ends_with_the_first_epoch_that_satisfies_it() -> None:
    simulation = up(OFF, interval=1000.0, jitter=0.0)
    change(simulation, "a", "b", policy=REQUIRED)
    assert all(host.engine.blocked for host in simulation.hosts.values())
    start = simulation.now
    simulation.run_until(lambda: simulation.agreed, limit=20)
    assert simulation.now - start < 10.0, "and that comes without waiting for the schedule"
    assert {protection(simulation, name) for name in "ab"} == {Protection.QKD_PQC}


def test_on_expiry_holds_for_a_block_by_policy_too() -> None:
    """required with pqc-only: no QKD key for max_age, and PQC alone is allowed, as after a start."""
    simulation = up(OFF, interval=20.0)
    simulation.kme.down = {"a", "b"}
    change(simulation, "a", "b", policy=REQUIRED, pqc_on_expiry=True, max_age=60.0)
    simulation.run_for(55.0)
    assert all(host.engine.blocked for host in simulation.hosts.values())
    simulation.run_until(lambda: simulation.agreed, limit=120)
    assert protection(simulation, "a") is Protection.PQC_ONLY


def test_a_relaxed_policy_that_becomes_strict_again_blocks() -> None:
    simulation = up(interval=10.0, max_age=30.0, pqc_on_expiry=True)
    simulation.kme.down = {"a", "b"}
    simulation.run_until(lambda: protection(simulation, "a") is Protection.PQC_ONLY, limit=120)
    change(simulation, "a", pqc_on_expiry=False)
    assert simulation.hosts["a"].engine.blocked


@pytest.mark.parametrize("interval", [2.0, 500.0])
def test_the_interval_holds_from_now_on(interval: float) -> None:
    simulation = up(interval=60.0, jitter=0.0)
    made = simulation.now - 1.0
    change(simulation, "a", "b", interval=interval)
    epoch = simulation.hosts["a"].engine.epoch
    simulation.run_until(lambda: simulation.hosts["a"].engine.epoch != epoch, limit=600)
    assert made + interval - 0.5 < simulation.now < made + interval + 2.0


@pytest.mark.parametrize("steps", range(0, 40, 2))
@pytest.mark.parametrize(
    "changes", [{"suite": SUITES[2]}, {"policy": PREFERRED}, {"sources": ("backbone", "metro")}, {"interval": 5.0}]
)
def test_a_change_at_any_step_of_a_rekey_ends_in_a_common_epoch(steps: int, changes: dict[str, object]) -> None:
    """First at one end, and a while later at the other."""
    simulation = Simulation(steps, CLEAN)
    done(simulation, 2)
    simulation.run_for(9.0)
    for _ in range(steps):
        simulation.step()
    change(simulation, "a", **changes)
    simulation.run_for(3.0)
    assert not any(host.engine.blocked for host in simulation.hosts.values())
    change(simulation, "b", **changes)
    before = rekeys(simulation)
    simulation.run_until(lambda: rekeys(simulation) > before + 1 and simulation.agreed, limit=100)
    suite = simulation.hosts["a"].node.peers["b"].view().installed
    assert suite is not None
    assert suite.suite.id == simulation.settings["a"].suite.id


@pytest.mark.parametrize("policy", [OFF, REQUIRED])
def test_an_answer_that_the_new_policy_bars_is_withdrawn_and_nobody_waits_for_it(policy: Policy) -> None:
    """The peer's commit of it may be on its way, and would be repeated in vain for COMMIT_LIMIT."""
    simulation = up(PREFERRED, interval=100.0)
    a, b = sorted(simulation.hosts.values(), key=lambda host: host.node.peers[host.peer].view().role)  # initiator first
    theirs = b.node.peers[a.name]
    if policy is REQUIRED:
        simulation.kme.down = {"a", "b"}
    assert a.node.rekey_now(b.name, simulation.clock())
    simulation._carry_out(a)
    simulation.run_until(lambda: theirs.inbound.state is InState.ANSWERED, limit=5)
    answered = a.node.peers[b.name].context.epoch
    simulation.kme.down = set()
    change(simulation, b.name, policy=policy)
    assert not b.engine.blocked
    simulation.run_until(lambda: simulation.agreed and (a.engine.epoch or 0) >= answered, limit=5)
    installed = theirs.view().installed
    assert installed is not None
    assert installed.epoch > answered
    assert len(installed.sources) == (1 if policy is REQUIRED else 0)


@pytest.mark.parametrize("first", ["a", "b"])
def test_another_suite_comes_soon_after_the_second_end_has_it(first: str) -> None:
    """The first end's offer came before it and was refused; its copies are not old ones then."""
    simulation = up(interval=1000.0, jitter=0.0)
    second = "ab".replace(first, "")
    host = simulation.hosts[first]
    before = host.engine.epoch
    change(simulation, first, suite=SUITES[3])
    host.node.rekey_now(second, simulation.clock())
    simulation._carry_out(host)
    refused = simulation.hosts[second]
    simulation.run_until(lambda: refused.count("rekey.failed", reason="suite") > 0, limit=20)
    start = simulation.now
    change(simulation, second, suite=SUITES[3])
    simulation.run_until(lambda: simulation.agreed and host.engine.epoch != before, limit=20)
    assert simulation.now - start < 3.0
    assert refused.count("rekey.failed", reason="suite") == 1


def test_keys_of_a_source_that_goes_are_wiped() -> None:
    simulation = up()
    simulation.conditions.loss = 1.0
    simulation.run_for(15.0)
    held = [host.node.peers[host.peer].context.ours for host in simulation.hosts.values()]
    assert any(len(keys) for keys in held), "offered, and kept for want of an answer"
    change(simulation, "a", "b", sources=())
    assert not any(len(keys) for keys in held)


def test_another_identity_is_another_peer() -> None:
    simulation = up()
    with pytest.raises(ValueError, match="another identity"):
        change(simulation, "a", public=simulation.identities[0].public)


CHANGES: dict[str, st.SearchStrategy[object]] = {
    "policy": st.sampled_from([REQUIRED, PREFERRED, OFF, TWO]),
    "sources": st.sampled_from([("metro",), ("metro", "backbone"), ("backbone",), ()]),
    "interval": st.sampled_from([5.0, 20.0]),
    "max_age": st.sampled_from([30.0, 60.0]),
    "pqc_on_expiry": st.booleans(),
    "has_endpoint": st.booleans(),
    "suite": st.sampled_from([SUITES[1], SUITES[2]]),
}
STEPS = st.tuples(
    st.sampled_from(["a", "b", "ab"]), st.fixed_dictionaries({}, optional=CHANGES), st.floats(0.0, 40.0),
    st.sampled_from([set(), {"a"}, {"a", "b"}]),
)  # fmt: skip


def allowed(settings: PeerSettings, simulation: Simulation, name: str, since: float) -> bool:
    """Whether what the engine has is what the settings, in use since then, ask for by their own words: as young as
    ``max_age``, or for ``RELAXED_GRACE`` longer where ``pqc_on_expiry`` tries to replace it."""
    host = simulation.hosts[name]
    peer = host.node.peers[host.peer]
    info = peer.context.epochs[host.engine.epoch or 0]
    counted = sum(source in settings.sources for source in info.sources)
    required = 0 if peer.context.guard.relaxed else sources_required(settings.policy)
    grace = RELAXED_GRACE if settings.pqc_on_expiry else 0.0
    return counted >= required and simulation.now <= max(since, info.made + settings.max_age) + grace + 0.1


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.lists(STEPS, min_size=1, max_size=6))
def test_whatever_changes_nothing_forbidden_stays_in_place(
    seed: int, steps: list[tuple[str, dict[str, object], float, set[str]]]
) -> None:
    simulation = Simulation(seed, Conditions(loss=0.1, most_delay=0.3), interval=10.0, max_age=60.0)
    since = simulation.now

    def check() -> None:
        for name, host in simulation.hosts.items():
            assert host.engine.blocked or allowed(simulation.settings[name], simulation, name, since)

    _run(simulation, 20.0, check)
    for who, changes, pause, down in steps:
        simulation.kme.down = down
        change(simulation, *who, **changes)
        since = simulation.now
        check()
        _run(simulation, pause, check)
    last: dict[str, object] = {"policy": REQUIRED, "sources": ("metro",), "suite": SUITES[1], "has_endpoint": True}
    simulation.kme.down = set()
    change(simulation, "a", "b", **last)
    since = simulation.now
    simulation.run_until(lambda: simulation.agreed, limit=400)
    check()


def _run(simulation: Simulation, seconds: float, check: Callable[[], None]) -> None:
    end = simulation.now + seconds
    while simulation.now < end:
        simulation.run_for(min(1.0, end - simulation.now))
        check()


def test_the_settings_that_restart_an_exchange_are_fields() -> None:
    assert set(NEGOTIATED) <= set(PeerSettings.__dataclass_fields__)
