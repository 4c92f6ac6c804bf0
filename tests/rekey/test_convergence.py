"""Two gateways over a bad network: every rekey ends with both on the same epoch."""

from __future__ import annotations

import os
import random

import pytest

from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from tests.rekey.simulation import Conditions, Host, Simulation

REKEYS = int(os.environ.get("QTUNNEL_SIM_REKEYS", "20"))
SEEDS = int(os.environ.get("QTUNNEL_SIM_SEEDS", "100"))
"""The suite runs 100 seeds of 20 rekeys; ``make sim`` 1,000 each."""

BAD = Conditions(loss=0.3, duplicate=0.2, least_delay=0.005, most_delay=0.4)
"""Delays that differ by more than the gap between two datagrams reorder them."""

_rng = random.Random(0)
IDENTITIES = (Identity.create(_rng.randbytes), Identity.create(_rng.randbytes))


def responder_has_it_first(simulation: Simulation, host: Host) -> None:
    """At the moment the initiator installs an epoch, the responder holds the same one, or already a newer."""
    other = simulation.hosts[host.peer]
    assert host.engine.epoch is not None
    if other.engine.epoch == host.engine.epoch:
        assert other.engine.psk == host.engine.psk
    newest.setdefault(simulation, {}).setdefault(host.name, 0)
    assert host.engine.epoch > newest[simulation][host.name], "epochs only grow"
    newest[simulation][host.name] = host.engine.epoch


newest: dict[Simulation, dict[str, int]] = {}


def rekeys(simulation: Simulation) -> int:
    return sum(host.count("rekey.done", role="initiator") for host in simulation.hosts.values())


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_rekey_ends_on_the_same_epoch(seed: int) -> None:
    simulation = Simulation(
        seed, BAD, suite=SUITES[1 + seed % 4], on_install=responder_has_it_first, identities=IDENTITIES
    )
    for number in range(1, REKEYS + 1):
        simulation.run_until(lambda number=number: rekeys(simulation) >= number, limit=3600)  # type: ignore[misc]
        # The initiator has it confirmed: both are on the same epoch now, unless the next commit overtook it.
        engines = {name: host.engine.epoch for name, host in simulation.hosts.items()}
        assert simulation.agreed or engines["a"] != engines["b"]
    simulation.conditions = Conditions()
    simulation.run_until(lambda: simulation.agreed and rekeys(simulation) > REKEYS, limit=400)
    installed = {host.node.peers[host.peer].view().installed for host in simulation.hosts.values()}
    assert len({info.epoch for info in installed if info is not None}) == 1
    newest.pop(simulation)


def test_a_clean_network_needs_no_retransmission_and_one_key_per_rekey() -> None:
    simulation = Simulation(1, Conditions())
    simulation.run_until(lambda: rekeys(simulation) >= 20)
    assert simulation.kme.delivered == 20
    assert not any(host.count("rekey.failed") + host.count("message.rejected") for host in simulation.hosts.values())


def test_the_simulation_is_deterministic() -> None:
    def run() -> list[float]:
        simulation = Simulation(7, BAD, identities=IDENTITIES)
        times = []
        for number in range(1, 6):
            simulation.run_until(lambda number=number: rekeys(simulation) >= number)  # type: ignore[misc]
            times.append(simulation.now)
        return times

    assert run() == run()
