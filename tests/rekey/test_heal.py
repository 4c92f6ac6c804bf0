"""What a lost, repeated or cut off message costs: a moment, and never a session of WireGuard's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from qtunnel.handshake.fragments import MessageType
from qtunnel.rekey.model import EpochInfo
from qtunnel.rekey.states import OutState
from qtunnel.rekey.timing import COMMIT_LIMIT, FIRST_RETRANSMIT, LONGEST_RETRANSMIT, RETRANSMIT_JITTER
from tests.rekey.model.plan import Lose, Plan, Side
from tests.rekey.model.world import World
from tests.rekey.simulation import Simulation
from tests.rekey.test_rekey import CLEAN, done

TRIP = 0.02
"""Seconds there and back in the simulation; and a little for the KMEs."""
LONGER = 1 + RETRANSMIT_JITTER
"""What chance makes of a pause between two transmissions at most."""


def installed(simulation: Simulation, name: str) -> EpochInfo:
    host = simulation.hosts[name]
    info = host.node.peers[host.peer].view().installed
    assert info is not None
    return info


def lose(simulation: Simulation, *kinds: MessageType, of: str = "ab") -> None:
    """From here on all messages of these types are lost that one of these ends sends."""

    def delivers(receiver: str, sender: str, datagram: bytes) -> None:
        if datagram[0] not in kinds or sender not in of:
            Simulation._deliver(simulation, receiver, sender, datagram)

    simulation._deliver = delivers  # type: ignore[method-assign]  # a fault of the network's


def initiator(simulation: Simulation) -> str:
    return max(simulation.hosts, key=lambda name: simulation.hosts[name].node.local.public.id)


@pytest.mark.parametrize("kind", list(MessageType))
def test_each_message_may_come_any_number_of_times_at_any_time(kind: MessageType) -> None:
    """Copies at once and half a second later change nothing, cost no call to a KME, and get the same answer or none."""
    plain, repeated = Simulation(1, CLEAN), Simulation(1, CLEAN)
    sent: list[bytes] = []

    def deliver(receiver: str, sender: str, datagram: bytes) -> None:
        for again in range(1 + 3 * (datagram[0] == kind)):
            if again:
                repeated._at(
                    repeated.now + (again - 1) * 0.5,
                    lambda: Simulation._deliver(repeated, receiver, sender, datagram),
                )
            else:
                Simulation._deliver(repeated, receiver, sender, datagram)

    def transmit(host: object, datagram: bytes) -> None:
        sent.append(datagram)
        Simulation._transmit(repeated, host, datagram)  # type: ignore[arg-type]  # a Host

    repeated._deliver, repeated._transmit = deliver, transmit  # type: ignore[method-assign, assignment]
    for simulation in (plain, repeated):
        done(simulation, 3)
        simulation.run_for(3.0)
    for name in "ab":
        assert repeated.hosts[name].engine.installs == plain.hosts[name].engine.installs == 3
        assert not repeated.hosts[name].count("rekey.failed")
    assert repeated.kme.delivered == plain.kme.delivered == 3
    assert repeated.agreed
    different = Counter((datagram[0], datagram[4], datagram[8:24]) for datagram in set(sent))
    assert set(different.values()) == {1}, "the same bytes whenever they are sent"


@pytest.mark.parametrize("kind", list(MessageType))
@pytest.mark.parametrize("times", [1, 2, 4])
def test_a_message_that_is_lost_some_times_is_sent_again_and_the_same_exchange_goes_on(
    kind: MessageType, times: int
) -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    exchanges: set[bytes] = set()
    losses = 0

    def deliver(receiver: str, sender: str, datagram: bytes) -> None:
        nonlocal losses
        exchanges.add(datagram[8:24])
        if datagram[0] == kind and losses < times and datagram[4] == 0:
            losses += 1
        else:
            Simulation._deliver(simulation, receiver, sender, datagram)

    simulation._deliver = deliver  # type: ignore[method-assign]  # a fault of the network's
    simulation.run_until(lambda: losses == times, limit=60)
    start = simulation.now
    done(simulation)
    assert simulation.agreed
    assert len(exchanges) == 1
    assert simulation.now - start <= LONGER * min(FIRST_RETRANSMIT * 2 ** (times - 1), LONGEST_RETRANSMIT) + 5 * TRIP


def test_a_responder_that_forgot_a_commit_and_cannot_begin_is_asked_anew_in_time() -> None:
    """It was restarted after it had installed, before its confirmation got away, and knows no address of the peer."""
    simulation = Simulation(1, CLEAN, interval=120.0, max_age=600.0)
    first = initiator(simulation)
    other = "b" if first == "a" else "a"
    simulation.settings[other] = replace(simulation.settings[other], has_endpoint=False)
    simulation.start(other)
    done(simulation)
    lose(simulation, MessageType.COMMITTED)
    simulation.run_until(lambda: simulation.hosts[other].engine.installs == 2, limit=150)
    simulation.run_for(0.1)
    lose(simulation)
    simulation.start(other)
    start = simulation.now
    simulation.run_until(lambda: simulation.agreed, limit=400)
    assert simulation.now - start < COMMIT_LIMIT + 2.0 < 60.0
    assert installed(simulation, first).epoch == 3


def test_without_any_confirmation_the_next_answer_puts_the_epoch_in_place() -> None:
    simulation = Simulation(1, CLEAN, interval=120.0, max_age=600.0)
    first = initiator(simulation)
    other = "b" if first == "a" else "a"
    done(simulation)
    lose(simulation, MessageType.COMMITTED)
    simulation.run_until(lambda: simulation.hosts[other].engine.epoch == 2, limit=150)
    made = simulation.now
    simulation.run_until(lambda: simulation.hosts[first].engine.epoch == 2, limit=COMMIT_LIMIT + 2.0)
    its = installed(simulation, first)
    assert its.epoch == 2
    assert its.chained
    assert abs(its.made - made) < 1.0, "as old as it is, not as old as it is known"
    assert simulation.hosts[first].count("epoch.settled", epoch=2) == 1
    lose(simulation)
    done(simulation)
    assert simulation.agreed
    assert installed(simulation, first).chained


@pytest.mark.parametrize("kind", list(MessageType))
def test_no_session_ends_while_one_type_of_message_is_lost_for_ten_minutes(kind: MessageType) -> None:
    """With our own engine, which tries the key before as well."""
    world = World(Plan(interval=120.0, a=Side(max_age=20.0), b=Side(max_age=20.0)))
    world.run_for(100.0)
    world.act(Lose(0.0, kind, 500.0))
    for _ in range(600):
        world.run_for(1.0)
        assert all(wire.session is not None for wire in world.wires.values())
    world.run_for(60.0)
    assert world.in_place["a"] == world.in_place["b"]


def test_a_confirmation_of_before_is_not_one_of_now() -> None:
    """Message 4 of an exchange that has been given up."""
    simulation = Simulation(1, CLEAN, interval=120.0)
    first = initiator(simulation)
    node = simulation.hosts[first].node.peers[simulation.hosts[first].peer]
    late: list[tuple[str, str, bytes]] = []

    def deliver(receiver: str, sender: str, datagram: bytes) -> None:
        if datagram[0] == MessageType.COMMITTED:
            late.append((receiver, sender, datagram))
        else:
            Simulation._deliver(simulation, receiver, sender, datagram)

    simulation._deliver = deliver  # type: ignore[method-assign]  # a network that holds them back
    simulation.run_until(lambda: simulation.hosts[first].count("rekey.failed", reason="unconfirmed") == 1, limit=60)
    simulation.run_until(lambda: node.outbound.state is OutState.COMMITTING, limit=10)
    before = simulation.hosts[first].engine.installs
    for receiver, sender, datagram in late[:3]:
        Simulation._deliver(simulation, receiver, sender, datagram)
    simulation._carry_out(simulation.hosts[first])
    assert node.outbound.state is OutState.COMMITTING
    assert simulation.hosts[first].engine.installs == before
