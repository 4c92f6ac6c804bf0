"""The agenda of many peers next to the plain way, which asks every peer each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.rekey.agenda import STALE_KEPT, Agenda
from qtunnel.rekey.model import Notice
from qtunnel.terms import Policy, QkdPolicy
from tests.rekey.gateways import first_message, hand, node, now, settings
from tests.rekey.simulation import Conditions, Simulation

PEERS = st.sampled_from(["a", "b", "c", "d"])
TIMES = st.one_of(st.none(), st.floats(0, 100), st.sampled_from([1.0, 2.0, 3.0]))
STEPS = st.lists(st.tuples(PEERS, TIMES, st.floats(0, 100)), max_size=200)


@given(steps=STEPS)
def test_it_tells_what_asking_every_peer_would_tell(steps: list[tuple[str, float | None, float]]) -> None:
    agenda, plain = Agenda(), dict[str, float]()
    for peer, time, present in steps:
        agenda.plan(peer, time)
        if time is None:
            plain.pop(peer, None)
        else:
            plain[peer] = time
        assert agenda.first == min(plain.values(), default=None)
        due = agenda.due(present)
        assert sorted(due) == sorted(name for name, its in plain.items() if its <= present)
        assert [plain[name] for name in due] == sorted(plain[name] for name in due)
        assert agenda.first == min(plain.values(), default=None), "asking changes nothing"


def test_what_was_planned_anew_does_not_pile_up() -> None:
    agenda = Agenda()
    agenda.plan("early", 0.0)  # which stands before all that no longer counts
    for number in range(10_000):
        agenda.plan("a", float(number + 1))
    assert len(agenda) <= 2 * 2 + STALE_KEPT + 1
    assert agenda.due(20_000.0) == ["early", "a"]


@given(seed=st.integers(0, 2**16))
def test_a_node_knows_its_deadline_at_every_step(seed: int) -> None:
    conditions = Conditions(loss=0.2, duplicate=0.1, least_delay=0.0, most_delay=0.5)
    simulation = Simulation(seed, conditions, policy_a=Policy(QkdPolicy.PREFERRED), max_age=40.0)
    for step in range(150):
        if step % 40 == 20:
            simulation.kme.down ^= {"a"}
        simulation.step()
        for host in simulation.hosts.values():
            plain = [its for peer in host.node.peers.values() if (its := peer.deadline) is not None]
            assert host.node.deadline == min(plain, default=None)


def test_a_removed_peer_has_nothing_to_do_any_more() -> None:
    hub = node("hub", settings("b"), settings("c", has_endpoint=False))
    assert hub.deadline is not None
    hub.tick(now(5.0))
    hub.remove_peer("b")
    assert hub.deadline is None
    assert hub.take_effects() == []


def test_effects_of_all_peers_come_in_the_order_in_which_things_happened() -> None:
    hub = node("hub", settings("c", has_endpoint=False), settings("b", has_endpoint=False))
    for name in ("b", "c"):
        hand(hub, first_message(name, 1.0), name, 1.0)
    started = [effect.peer for effect in hub.take_effects() if isinstance(effect, Notice)]
    assert started == ["b", "c"]
