"""Copies of what a peer sent, and forged answers: no call to a KME, and answers and computation at a limited rate."""

from __future__ import annotations

from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.rekey.limits import REPEAT_BURST, RESPONSE_BURST
from qtunnel.rekey.model import FetchById, Send
from tests.rekey.attacks import effects, offer_from, send
from tests.rekey.flooding import offered, pair
from tests.rekey.gateways import IDENTITIES, SUITE, datagrams, exchange_of, hand, reasons, sent
from tests.rekey.simulation import Simulation
from tests.rekey.test_rekey import CLEAN, done


def test_replayed_first_messages_cost_no_call_to_a_kme() -> None:
    simulation = Simulation(1, CLEAN)
    recorded: list[bytes] = []
    receivers: set[str] = set()
    deliver = simulation._deliver

    def recording(receiver: str, sender: str, datagram: bytes) -> None:
        if datagram[0] == MessageType.INIT:
            recorded.append(datagram)
            receivers.add(receiver)
        deliver(receiver, sender, datagram)

    simulation._deliver = recording  # type: ignore[method-assign]
    done(simulation, 20)
    assert len(recorded) >= 60
    (name,) = receivers
    before = simulation.kme.delivered
    b = simulation.hosts[name]
    for _ in range(50):
        simulation.now += 0.5
        for number, datagram in enumerate(recorded):
            b.node.receive(datagram, f"mallory-{number % 7}", simulation.clock())
        assert not [effect for effect in effects(b) if isinstance(effect, FetchById)]
    assert simulation.kme.delivered == before
    simulation.start(name)  # it has forgotten all but the newest committed one
    b = simulation.hosts[name]
    for datagram in recorded:
        b.node.receive(datagram, "mallory", simulation.clock())
    assert not [effect for effect in effects(b) if isinstance(effect, FetchById)]


def test_copies_of_what_a_peer_sent_are_answered_at_a_limited_rate() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    init = offer_from(simulation, "a")
    b = simulation.hosts["b"]
    send(simulation, "a", init)
    effects(b)
    answers = 0
    for number in range(1000):
        simulation.now += 0.001
        b.node.anybody._gauge._until = float("-inf")  # the bound is not that of load alone
        b.node.anybody._gauge._count = 0
        send(simulation, "a", init, f"mallory-{number}")
        answers += sum(isinstance(effect, Send) for effect in effects(b))
    assert REPEAT_BURST <= answers <= REPEAT_BURST + 5


def test_copies_of_a_commit_are_answered_at_a_limited_rate() -> None:
    simulation = Simulation(1, CLEAN)
    commits: list[tuple[str, bytes]] = []
    deliver = simulation._deliver

    def recording(receiver: str, sender: str, datagram: bytes) -> None:
        if datagram[0] == MessageType.COMMIT:
            commits.append((receiver, datagram))
        deliver(receiver, sender, datagram)

    simulation._deliver = recording  # type: ignore[method-assign]
    done(simulation)
    receiver, commit = commits[-1]
    host = simulation.hosts[receiver]
    effects(host)
    for _ in range(1000):
        host.node.receive(commit, "mallory", simulation.clock())
    assert sum(isinstance(effect, Send) for effect in effects(host)) <= REPEAT_BURST


def test_copies_of_a_first_message_leave_the_answers_to_copies_of_a_commit_alone() -> None:
    hub, b = pair()
    init = offered(b, 1.0)
    hand(hub, init, "b:1", 1.0)
    hand(b, datagrams(hub.take_effects(), "b"), "hub", 1.1)
    commit = datagrams(b.take_effects(), "hub")
    for _ in range(3 * REPEAT_BURST):
        hand(hub, init, "mallory", 1.2)
    hub.take_effects()
    hand(hub, commit, "b:1", 1.2)
    assert any(send.confirms for send in sent(hub.take_effects(), "b"))
    for _ in range(3 * REPEAT_BURST):
        hand(hub, init, "mallory", 1.2)
    hub.take_effects()
    hand(hub, commit, "b:1", 1.3)  # its confirmation was lost
    assert any(send.confirms for send in sent(hub.take_effects(), "b"))


def test_forged_second_messages_are_read_at_a_limited_rate() -> None:
    hub, b = pair()
    init = offered(b, 1.0)
    forged = [
        cut(Message(MessageType.RESPONSE, SUITE.id, exchange_of(init[0]), bytes([number]) * 3300),
            mac1_key(IDENTITIES["b"].public.id))
        for number in range(3 * RESPONSE_BURST)
    ]  # fmt: skip
    for message in forged:
        hand(b, message, "mallory", 1.1)
    found = reasons(b.take_effects())
    assert found.count("authentication") == RESPONSE_BURST
    assert found.count("flood") == 2 * RESPONSE_BURST
    hand(hub, init, "b:1", 1.2)
    hand(b, datagrams(hub.take_effects(), "b"), "hub", 2.0)
    assert datagrams(b.take_effects(), "hub")  # the commit: the true one came through
