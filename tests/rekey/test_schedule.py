"""When rekeys come: by time, by what went through, by the supply of keys; in the simulation of two gateways."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qtunnel.keys.pace import Stock
from qtunnel.keys.policy import Protection
from qtunnel.keys.schedule import AGE_MARGIN, ALONE, CROWD, START_RATE, Schedule, ceiling, start_delay
from tests.rekey.simulation import Conditions, Host, Simulation
from tests.rekey.test_rekey import CLEAN, done, protection, rekeys

STRETCHING: dict[str, Any] = {
    "interval": 10.0,
    "jitter": 0.1,
    "max_age": 120.0,
    "min_interval": 4.0,
    "max_interval": 40.0,
}


def first(simulation: Simulation) -> Host:
    """The end that begins by rule."""
    return max(simulation.hosts.values(), key=lambda host: host.node.local.public.id)


def second(simulation: Simulation) -> Host:
    return min(simulation.hosts.values(), key=lambda host: host.node.local.public.id)


def drive(simulation: Simulation, seconds: float, every_second: Callable[[], None]) -> None:
    """Run, and do something once a second, as the daemon does."""
    for _ in range(round(seconds)):
        simulation.run_for(1.0)
        every_second()
        for host in simulation.hosts.values():
            simulation._carry_out(host)


def pour(simulation: Simulation, host: Host, rate: int, packets: int | None = None) -> Callable[[], None]:
    """Traffic of ``rate`` bytes and packets a second, as this host's engine counts it."""
    total = [0, 0]

    def step() -> None:
        total[0] += rate
        total[1] += packets or 0
        host.node.carried(host.peer, total[0], None if packets is None else total[1], simulation.clock())

    step()
    return step


def installs_of(simulation: Simulation, seconds: float, every_second: Callable[[], None]) -> list[float]:
    """The moments at which the first end installed an epoch."""
    host, times = first(simulation), []
    before = host.engine.installs

    def step() -> None:
        nonlocal before
        every_second()
        if host.engine.installs != before:
            before = host.engine.installs
            times.append(simulation.now)

    drive(simulation, seconds, step)
    return times


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


@pytest.mark.parametrize("limit", ["bytes", "packets"])
@pytest.mark.parametrize("which", [first, second])
def test_volume_brings_a_rekey_before_time_does_at_whichever_end_it_is_set(
    limit: str, which: Callable[[Simulation], Host]
) -> None:
    limits: dict[str, Any] = {"max_bytes": 10_000} if limit == "bytes" else {"max_packets": 100}
    simulation = Simulation(1, CLEAN, interval=100.0, **limits)
    done(simulation)
    host = which(simulation)
    times = installs_of(simulation, 200, pour(simulation, host, 500, 5))
    assert len(times) >= 8
    assert all(18 <= gap <= 26 for gap in gaps(times)), gaps(times)
    assert host.count("rekey.due", limit=limit) >= 8
    assert simulation.agreed


def test_time_comes_first_where_little_passes() -> None:
    simulation = Simulation(1, CLEAN, max_bytes=1_000_000)
    done(simulation)
    times = installs_of(simulation, 100, pour(simulation, first(simulation), 10))
    assert all(8 <= gap <= 12 for gap in gaps(times))
    assert first(simulation).count("rekey.due") == 0


def test_traffic_alone_cannot_drain_the_kme() -> None:
    simulation = Simulation(1, CLEAN, interval=100.0, max_bytes=10)
    done(simulation)
    before = simulation.kme.delivered
    drive(simulation, 200, pour(simulation, first(simulation), 10**9))
    assert simulation.kme.delivered - before <= 200 / 10 + 1
    simulation = Simulation(1, CLEAN, interval=100.0, max_bytes=10, min_interval=50.0)
    done(simulation)
    before = simulation.kme.delivered
    drive(simulation, 200, pour(simulation, first(simulation), 10**9))
    assert simulation.kme.delivered - before <= 200 / 50 + 1


def test_traffic_does_not_hurry_what_fails() -> None:
    simulation = Simulation(1, CLEAN, interval=100.0, max_bytes=10)
    done(simulation)
    simulation.kme.down = {"a", "b"}
    host = first(simulation)
    drive(simulation, 300, pour(simulation, host, 10**9))
    assert host.count("rekey.failed") <= 13, "the retries take their own time: 1, 2, 4 ... 60 s"


def test_engines_that_count_no_packets_leave_that_limit_alone() -> None:
    simulation = Simulation(1, CLEAN, interval=100.0, max_packets=1)
    done(simulation)
    drive(simulation, 50, pour(simulation, first(simulation), 10**9, None))
    assert first(simulation).count("rekey.due") == 0


def test_on_demand_and_by_volume_do_not_disturb_each_other() -> None:
    simulation = Simulation(1, CLEAN, interval=100.0, max_bytes=10_000)
    done(simulation)
    host = first(simulation)
    step = pour(simulation, host, 2000)
    for _ in range(5):
        drive(simulation, 3, step)
        host.node.rekey_now(host.peer, simulation.clock())
        done(simulation)
    assert host.count("rekey.due") == 0
    drive(simulation, 15, step)
    assert host.count("rekey.due") >= 1
    assert simulation.agreed


def stock(simulation: Simulation, keys: int, of: int = 100, ends: str = "ab") -> Callable[[], None]:
    def step() -> None:
        for name in ends:
            host = simulation.hosts[name]
            host.node.supply(host.peer, Stock("metro", keys, of), simulation.clock())

    return step


def test_a_scarce_supply_stretches_the_interval_and_both_ends_keep_their_roles() -> None:
    simulation = Simulation(1, CLEAN, **STRETCHING)
    done(simulation)
    times = installs_of(simulation, 400, stock(simulation, 1))
    host, other = first(simulation), second(simulation)
    view = host.node.peers[host.peer].view()
    assert 36 <= view.interval <= 40
    assert view.interval_reason == "metro has 1 of 100 keys left"
    assert gaps(times)[-1] > 30
    assert other.count("rekey.started", role="initiator") == 0, "it took stretching for silence"
    its = other.node.peers[other.peer].view()
    assert its.interval > 30
    assert its.interval_reason == "so the peer has done of late"
    changes = [notice.fields for notice in host.notices if notice.kind == "schedule.changed"]
    assert 4 <= len(changes) <= 8
    assert all(change["detail"] == "metro has 1 of 100 keys left" for change in changes)
    assert {protection(simulation, name) for name in "ab"} == {Protection.QKD_PQC}
    drive(simulation, 400, stock(simulation, 50))
    assert host.node.peers[host.peer].view().interval == 10.0
    assert "the usual one" in str(host.notices[-1].fields.get("detail", "")) or host.count("schedule.changed") > 8
    drive(simulation, 200, stock(simulation, 100))
    assert host.node.peers[host.peer].view().interval < 4.5


def every(steps: list[Callable[[], None]]) -> Callable[[], None]:
    def step() -> None:
        for one in steps:
            one()

    return step


THIRSTY: dict[str, Any] = STRETCHING | {"max_bytes": 1_000}


@pytest.mark.parametrize("ends", ["a", "b", "ab"])
def test_traffic_does_not_use_up_what_a_scarce_supply_spares(ends: str) -> None:
    """Whichever end counts it: 500 bytes a second reach the limit every 2 s, and four times the limit every 8 s."""
    simulation = Simulation(1, CLEAN, **THIRSTY)
    done(simulation)
    drive(simulation, 100, stock(simulation, 1))
    host = first(simulation)
    steps = [stock(simulation, 1), *(pour(simulation, simulation.hosts[end], 500) for end in ends)]
    before = simulation.kme.delivered
    times = installs_of(simulation, 200, every(steps))
    assert all(gap >= 9.9 for gap in gaps(times)), "no quicker than the usual interval"
    assert simulation.kme.delivered - before <= 200 / 10
    steps = [stock(simulation, 1), *(pour(simulation, simulation.hosts[end], 60) for end in ends)]
    times = installs_of(simulation, 300, every(steps))
    assert all(gap >= 30 for gap in gaps(times)[5:]), "60 a second reach the limit in 17 s, and wait for time"
    assert host.count("protection.changed", after="blocked") == 0


def test_traffic_counts_again_when_there_are_keys_again() -> None:
    simulation = Simulation(1, CLEAN, **THIRSTY)
    done(simulation)
    drive(simulation, 300, stock(simulation, 1))
    drive(simulation, 400, stock(simulation, 50))
    times = installs_of(simulation, 60, pour(simulation, first(simulation), 500))
    assert all(gap <= 6 for gap in gaps(times)), gaps(times)


def test_only_one_end_has_to_know_of_the_scarcity() -> None:
    simulation = Simulation(1, CLEAN, **STRETCHING)
    done(simulation)
    drive(simulation, 400, stock(simulation, 1, ends=first(simulation).name))
    assert second(simulation).count("rekey.started", role="initiator") == 0
    host = first(simulation)
    assert host.node.peers[host.peer].view().interval > 35


def test_a_changed_configuration_at_the_end_that_watches_leaves_stretching_and_roles_as_they_are() -> None:
    """Between any two rekeys something of that peer's is changed here, and then the initiator falls silent."""
    simulation = Simulation(1, CLEAN, **STRETCHING)
    done(simulation)
    host, other = first(simulation), second(simulation)
    scarce = stock(simulation, 1, ends=host.name)
    drive(simulation, 300, scarce)
    number, began = 0, simulation.now

    def change() -> None:
        nonlocal number
        if simulation.now < began + 7 * number:
            return
        number += 1
        changed = replace(simulation.settings[other.name], max_age=120.0 + number % 2, max_interval=20.0)
        simulation.settings[other.name] = changed
        other.node.change_peer(changed, simulation.clock())

    times = installs_of(simulation, 300, every([scarce, change]))
    assert number > 20
    assert all(gap > 30 for gap in gaps(times)), "the supply is drained at the usual pace again"
    assert other.count("rekey.started", role="initiator") == 0, "it took stretching for silence"
    assert other.node.peers[other.peer].view().interval > 30
    host.node.peers[host.peer]._next = None
    drive(simulation, 119, scarce)
    assert other.count("rekey.started", role="initiator") > 0, "and silence is still seen in time"
    assert host.count("protection.changed", after="blocked") == 0


def test_without_bounds_an_empty_store_moves_nothing() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    times = installs_of(simulation, 200, stock(simulation, 0))
    assert all(8 <= gap <= 12 for gap in gaps(times))
    assert first(simulation).count("schedule.changed") == 0


@pytest.mark.parametrize("kme", [set(), {"a"}, {"b"}, {"a", "b"}], ids=lambda names: "".join(sorted(names)) or "none")
def test_policy_goes_before_thrift(kme: set[str]) -> None:
    """However scarce keys are, a stretched interval leaves time for both ends to begin before max_age."""
    simulation = Simulation(1, CLEAN, interval=10.0, max_age=120.0, max_interval=10_000.0)
    done(simulation)
    drive(simulation, 600, stock(simulation, 0))
    host = first(simulation)
    view = host.node.peers[host.peer].view()
    assert 0.9 * ceiling(0.1, 120.0) <= view.interval <= ceiling(0.1, 120.0)
    assert host.count("protection.changed", after="blocked") == 0
    node = host.node
    node.peers[host.peer]._next = None  # the initiator falls silent
    simulation.kme.down = kme
    before = simulation.hosts["a"].engine.installs
    drive(simulation, 119, stock(simulation, 0))
    if not kme:
        assert simulation.hosts["a"].engine.installs > before, "the other end came too late"
        assert host.count("protection.changed", after="blocked") == 0
    else:
        assert simulation.hosts["a"].engine.installs == before
        drive(simulation, 60, stock(simulation, 0))
        assert all(host.engine.blocked for host in simulation.hosts.values())


def test_a_change_of_the_interval_never_hides_one_of_protection() -> None:
    simulation = Simulation(1, CLEAN, **STRETCHING)
    done(simulation)
    drive(simulation, 300, stock(simulation, 0))
    simulation.kme.down = {"a", "b"}
    drive(simulation, 200, stock(simulation, 0))
    for name in "ab":
        assert simulation.hosts[name].count("protection.changed", after="blocked") == 1
        assert protection(simulation, name) is Protection.BLOCKED


@settings(max_examples=60, deadline=None)
@given(
    st.floats(5, 600), st.floats(0, 0.1), st.floats(1, 20), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.999))),
    st.floats(1.5, 40),
)  # fmt: skip
@example(160.0, 0.0, 2.0, [(0.0, 0.0), (0.0, 0.0)], 3.0)
def test_the_end_that_watches_never_takes_stretching_for_silence(
    interval: float, jitter: float, stretch: float, run: list[tuple[float, float]], age: float
) -> None:
    max_age = interval * age + 60
    initiator = Schedule(interval, jitter, max_age, interval / 2, interval * stretch)
    watcher = Schedule(interval, jitter, max_age)
    now = 1000.0
    for level, fraction in run:
        initiator.pace.tell(Stock("metro", round(level * 1000), 1000))
        initiator.pace.advance()
        takes_over = watcher.overdue(now)
        due = initiator.after_success(now, fraction)
        assert due < takes_over
        assert takes_over <= now + max(max_age - AGE_MARGIN, interval * (1.5 + jitter) + 10) + 1e-6
        now = due


def test_one_peer_starts_at_once_and_many_within_seconds() -> None:
    assert start_delay(1, 0.999) == 0.0
    assert start_delay(0, 0.999) == 0.0
    assert start_delay(1000, 0.999) <= 1000 / START_RATE
    assert start_delay(1000, 0.0) == 0.0


@given(st.floats(1, 3600), st.floats(0, 0.5), st.integers(1, 2000), st.floats(0, 0.999))
def test_what_began_together_is_spread_once(interval: float, jitter: float, crowd: int, fraction: float) -> None:
    schedule = Schedule(interval, jitter)
    after = schedule.after_success(0.0, fraction, crowd)
    least = interval * (1 - jitter) * min(ALONE, CROWD / crowd)
    assert max(least, min(1.0, interval * (1 - jitter))) - 1e-6 <= after <= interval * (1 + jitter) + 1e-6
    for _ in range(3):
        usual = schedule.after_success(0.0, fraction, crowd)
        assert interval * (1 - jitter) - 1e-6 <= usual <= interval * (1 + jitter) + 1e-6


def test_loss_does_not_move_the_interval() -> None:
    simulation = Simulation(3, Conditions(loss=0.2), **STRETCHING)
    done(simulation)
    drive(simulation, 200, stock(simulation, 50))
    assert rekeys(simulation) > 12
    assert all(host.count("schedule.changed") == 0 for host in simulation.hosts.values())
