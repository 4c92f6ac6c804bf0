"""Cookies under load, and what a flood may cost: memory, computation, answers, calls to a KME."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Hashable
from itertools import pairwise

import pytest

from qtunnel.crypto.cookie import COOKIE_LIFETIME
from qtunnel.errors import HandshakeError
from qtunnel.handshake.cookies import REPLY_SIZE, CookieReply
from qtunnel.handshake.fragments import (
    MAC_SIZE,
    MAX_DATAGRAM,
    NO_COOKIE,
    PARTIALS,
    PARTIALS_PER_SOURCE,
    Message,
    MessageType,
    cut,
    mac1_key,
)
from qtunnel.rekey.limits import (
    CALM_FRAGMENTS,
    COOKIE_BURST,
    FRAGMENT_BURST,
    LOAD_FRAGMENTS,
    LOAD_LASTS,
    REPEAT_BURST,
    RESPONSE_BURST,
    SOURCE_BURST,
    SOURCE_RATE,
    SOURCES,
    TELL_BURST,
    UNPROVEN_RATE,
)
from qtunnel.rekey.model import FetchById, Notice, Send
from qtunnel.rekey.node import RekeyNode
from qtunnel.rekey.timing import FIRST_RETRANSMIT, RETRANSMIT_JITTER
from tests.rekey.attacks import effects, offer_from, send
from tests.rekey.gateways import (
    IDENTITIES,
    SUITE,
    datagrams,
    exchange_of,
    first_message,
    hand,
    junk,
    node,
    now,
    reasons,
    sent,
    settings,
)
from tests.rekey.simulation import Conditions, Simulation
from tests.rekey.test_rekey import CLEAN, done, rekeys

FLOODING = 200
"""First messages of a few datagrams: as many as surely mean load."""
LATEST_REPEAT = FIRST_RETRANSMIT * (1 + RETRANSMIT_JITTER)
"""Seconds until a message is sent again at the latest."""


def source_of(address: Hashable) -> Hashable:
    """What stands before the colon; the port comes after it."""
    return str(address).split(":")[0]


def load_up(hub: RekeyNode, at: float, *, expected: bool = False, to: str = "hub") -> None:
    """First fragments with a valid mac1 from as many forged addresses."""
    first = junk(3000, to)[0]
    for number in range(LOAD_FRAGMENTS + 1):
        hub.receive(first, f"forged-{number}:1", now(at), expected=expected)
    hub.take_replies()
    hub.take_effects()


def pair() -> tuple[RekeyNode, RekeyNode]:
    """The hub, and b, which knows where it is."""
    return node("hub", settings("b", has_endpoint=False), source_of=source_of), node("b", settings("hub"))


def offered(b: RekeyNode, at: float) -> list[bytes]:
    """The datagrams of the first message that b makes now."""
    assert b.rekey_now("hub", now(at))
    return datagrams(b.take_effects(), "hub")


def replies(hub: RekeyNode) -> list[bytes]:
    return [datagram for datagram, _ in hub.take_replies()]


def test_without_load_no_cookie_is_asked_for() -> None:
    hub, b = pair()
    assert hand(hub, offered(b, 1.0), "b:1", 1.0) is not None
    assert replies(hub) == []


def test_under_load_a_cookie_carries_the_first_message_through_at_once() -> None:
    hub, b = pair()
    load_up(hub, 1.0)
    init = offered(b, 1.0)
    assert hand(hub, init, "b:1", 1.0) is None
    assert not datagrams(hub.take_effects(), "b")
    full = [datagram for datagram in init if len(datagram) == MAX_DATAGRAM]
    answers = replies(hub)
    assert [len(answer) for answer in answers] == [REPLY_SIZE] * len(full)
    assert REPLY_SIZE < MAX_DATAGRAM

    hand(b, answers, "hub", 1.1)
    again = datagrams(b.take_effects(), "hub")
    assert [one[:-MAC_SIZE] for one in again] == [one[:-MAC_SIZE] for one in init]  # once, though all were answered
    assert all(one[-MAC_SIZE:] != NO_COOKIE for one in again)
    assert hand(hub, again, "b:1", 1.2) is not None
    response = datagrams(hub.take_effects(), "b")
    hand(b, response, "hub", 1.3)
    commit = datagrams(b.take_effects(), "hub")
    hand(hub, commit, "b:1", 1.4)
    hand(b, datagrams(hub.take_effects(), "b"), "hub", 1.5)
    assert b.peers["hub"].context.floor == hub.peers["b"].context.floor == 1


def test_a_cookie_in_hand_goes_into_every_first_message_for_as_long_as_it_lasts() -> None:
    hub, b = pair()
    load_up(hub, 1.0)
    hand(hub, offered(b, 1.0), "b:1", 1.0)
    hand(b, replies(hub), "hub", 1.1)
    b.take_effects()
    b.tick(now(1.0 + LATEST_REPEAT))
    repeated = datagrams(b.take_effects(), "hub")
    assert repeated
    assert all(one[-MAC_SIZE:] != NO_COOKIE for one in repeated)
    load_up(hub, 1.0 + LATEST_REPEAT)
    assert hand(hub, repeated, "b:1", 1.0 + LATEST_REPEAT) is not None
    late = 1.1 + COOKIE_LIFETIME
    while b.peers["hub"].outbound.exchange is not None:
        b.tick(now(b.deadline or late))
    b.take_effects()
    assert all(one[-MAC_SIZE:] == NO_COOKIE for one in offered(b, late))


def test_a_cookie_is_of_one_address_and_port_and_of_one_secret() -> None:
    hub, b = pair()
    load_up(hub, 1.0)
    hand(hub, offered(b, 1.0), "b:1", 1.0)
    hand(b, replies(hub), "hub", 1.1)
    stamped = datagrams(b.take_effects(), "hub")
    for elsewhere in ("b:2", "c:1"):
        assert hand(hub, stamped, elsewhere, 1.2) is None
        assert len(replies(hub)) == 2  # a cookie of that address
    load_up(hub, 1.0 + COOKIE_LIFETIME)  # which made a new secret
    assert hand(hub, stamped, "b:1", 1.0 + COOKIE_LIFETIME) is None
    changed = [one[:-1] + bytes([one[-1] ^ 1]) for one in stamped]
    assert hand(hub, changed, "b:1", 1.2) is None
    assert hub.anybody.partials == PARTIALS or hub.anybody.partials <= LOAD_FRAGMENTS


def test_nothing_answers_what_has_no_mac1_or_is_small_or_of_another_type() -> None:
    hub, b = pair()
    load_up(hub, 1.0)
    init = offered(b, 1.0)
    spoilt = init[0][:30] + bytes([init[0][30] ^ 1]) + init[0][31:]
    small = cut(Message(MessageType.INIT, SUITE.id, bytes(16), bytes(1300)), mac1_key(IDENTITIES["hub"].public.id))[1]
    others = [
        cut(Message(kind, SUITE.id, bytes(16), bytes(3000)), mac1_key(IDENTITIES["hub"].public.id))[0]
        for kind in (MessageType.RESPONSE, MessageType.COMMIT, MessageType.COMMITTED)
    ]
    before = hub.anybody.partials
    for datagram in (spoilt, small, *others, b"", init[0][:60], bytes(MAX_DATAGRAM)):
        hub.receive(datagram, "b:1", now(1.0))
    assert replies(hub) == []
    assert hub.anybody.partials == before


def test_load_begins_with_many_datagrams_and_ends_with_few() -> None:
    hub, _ = pair()
    load_up(hub, 1.0)
    hand(hub, junk(3000), "x:1", 2.1)
    assert replies(hub)
    first = junk(3000)[0]
    for number in range(CALM_FRAGMENTS + 1):  # more than means calm, fewer than begin it
        hub.receive(first, f"y{number}:1", now(5.0))
    hub.take_replies()
    hand(hub, junk(3000), "x:1", 5.0 + LOAD_LASTS - 0.1)
    assert replies(hub)
    hand(hub, first_message("b", 11.0), "b:1", 5.0 + LOAD_LASTS + 2.0)
    assert not replies(hub)
    assert datagrams(hub.take_effects(), "b")
    for number in range(CALM_FRAGMENTS + 1):
        hub.receive(first, f"z{number}:1", now(20.0))
    assert not replies(hub)


def test_a_flood_from_forged_addresses_does_not_fill_the_memory_or_the_outbox() -> None:
    hub, b = pair()
    for number in range(3 * PARTIALS):
        hub.receive(junk(1200)[0], f"forged-{number}:1", now(1.0 + number / 50_000))
    assert hub.anybody.partials <= LOAD_FRAGMENTS
    assert COOKIE_BURST <= len(hub.take_replies()) < 2 * PARTIALS
    told = hub.take_effects()
    assert len(told) <= TELL_BURST + 5
    assert all(isinstance(effect, Notice) for effect in told)  # no call to a KME, no answer
    init = offered(b, 3.0)
    hand(hub, init, "b:1", 3.0)
    notices = [one for one in told + hub.take_effects() if isinstance(one, Notice)]
    counted = sum(1 + int(str(one.fields.get("more", 0))) for one in notices)
    assert counted == 3 * PARTIALS - LOAD_FRAGMENTS + len(init)  # so none is kept quiet


def test_who_has_an_address_of_its_own_gets_a_share_and_no_more() -> None:
    """With a cookie for each of its ports."""
    hub, _ = pair()
    load_up(hub, 1.0)
    taken = 0
    for port in range(FRAGMENT_BURST + 100):
        first = junk(3000)[0]
        hub.receive(first, f"mallory:{port}", now(1.0 + port / 1000))
        answer = replies(hub)
        if not answer:
            continue
        reply = CookieReply.unpack(answer[0])
        jar = node("b", settings("hub")).peers["hub"].context.cookie
        assert jar.accept(reply.nonce, reply.sealed, first[-2 * MAC_SIZE : -MAC_SIZE], 1.0)
        before = hub.anybody.partials
        hub.receive(first[:-MAC_SIZE] + jar.mac2(first[:-MAC_SIZE], 1.0), f"mallory:{port}", now(1.0 + port / 1000))
        taken += hub.anybody.partials != before
    assert taken <= FRAGMENT_BURST + 80


def test_a_flood_of_one_way_in_does_not_hinder_the_other() -> None:
    hub, b = pair()
    for number in range(5000):
        hub.receive(junk(1200)[0], f"forged-{number}:1", now(1.0 + number / 50_000))
    heard = None
    for datagram in offered(b, 1.0):
        heard = hub.receive(datagram, "b:1", now(1.0), expected=True)
    assert heard is not None
    assert datagrams(hub.take_effects(), "b")
    load_up(hub, 1.0, expected=True)  # from forged addresses of peers
    assert hub.expected.partials


def test_the_initiator_takes_a_cookie_only_for_its_own_mac1_and_once_for_each_transmission() -> None:
    hub, b = pair()
    load_up(hub, 1.0)
    init = offered(b, 1.0)
    hand(hub, init, "b:1", 1.0)
    first, second = replies(hub)
    good = CookieReply.unpack(first)
    wrong = [
        first[:-1] + bytes([first[-1] ^ 1]),
        dataclasses.replace(good, index=1).pack(),
        dataclasses.replace(good, index=200).pack(),
        dataclasses.replace(good, exchange=bytes(16)).pack(),
        dataclasses.replace(good, nonce=bytes(24)).pack(),
        first[:5] + b"\1" + first[6:],
        first[:1] + b"\1" + first[2:],
        first + b"\0",
    ]
    hand(b, wrong, "hub", 1.1)
    found = b.take_effects()
    assert not sent(found, "hub")
    assert sorted(map(str, reasons(found))) == ["authentication"] * 3 + ["exchange"] + ["malformed"] * 4
    hand(b, [first, first, second], "hub", 1.2)
    assert len(sent(b.take_effects(), "hub")) == 1
    load_up(hub, 1.0 + COOKIE_LIFETIME)
    hand(hub, init, "b:1", 1.0 + COOKIE_LIFETIME)
    other = replies(hub)
    hand(b, other, "hub", 1.3)  # another cookie, but nothing was sent by the clock since
    assert not sent(b.take_effects(), "hub")
    b.tick(now(1.0 + LATEST_REPEAT))
    b.take_effects()
    hand(b, other, "hub", 1.1 + LATEST_REPEAT)
    assert len(sent(b.take_effects(), "hub")) == 1


def test_a_cookie_that_comes_too_late_is_of_no_exchange() -> None:
    hub, b = pair()
    load_up(hub, 1.0)
    hand(hub, offered(b, 1.0), "b:1", 1.0)
    late = replies(hub)
    while b.peers["hub"].outbound.exchange is not None:
        b.tick(now(b.deadline or 100.0))
    b.take_effects()
    hand(b, late, "hub", 100.0)
    assert reasons(b.take_effects()) == ["exchange", "exchange"]


def test_both_ends_rekey_while_both_are_flooded() -> None:
    simulation = Simulation(3, Conditions(loss=0.2, duplicate=0.1))
    flood = junk(3000)[0]
    keys = {name: mac1_key(host.node.local.public.id) for name, host in simulation.hosts.items()}

    def made(name: str) -> bytes:
        message = Message(MessageType.INIT, SUITE.id, simulation.rng.randbytes(16), flood[24:1200] * 2)
        return cut(message, keys[name])[0]

    step = simulation.step

    def flooded() -> None:
        step()
        for name, host in simulation.hosts.items():
            host.node.anybody._gauge._until = simulation.now + 10.0  # as after more than one can afford to make here
            for number in range(3):
                host.node.receive(made(name), f"forged-{number}", simulation.clock())
            for datagram, address in host.node.take_replies():
                if address in simulation.hosts:
                    simulation._transmit(host, datagram)

    simulation.step = flooded  # type: ignore[method-assign]
    done(simulation, 8)
    assert simulation.agreed
    # one call for each epoch and end, and one more where an answer was lost for good
    assert simulation.kme.delivered <= rekeys(simulation) + 2


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


def forge(hub: RekeyNode, address: str, at: float, number: int = 3 * SOURCE_BURST) -> None:
    """Whole first messages with a right mac1 that claim to come from there, the last of them now, at a rate that is no
    load."""
    for count in range(number):
        hand(hub, junk(3400), address, at - (number - 1 - count) / (LOAD_FRAGMENTS / 3 - 10))
    while hub.anybody._sources.has(address.split(":")[0], at):
        hand(hub, junk(3400), address, at)
    assert not hub.anybody.loaded(at)
    hub.take_replies()
    hub.take_effects()


def test_forged_messages_below_load_do_not_use_up_the_share_of_who_has_the_address() -> None:
    hub, b = pair()
    forge(hub, "b:1", 10.0)
    assert hand(hub, offered(b, 10.0), "b:1", 10.0) is None
    answers = replies(hub)
    assert answers, "the owner of the address is asked for a cookie, not dropped"
    hand(b, answers, "hub", 10.1)
    again = datagrams(b.take_effects(), "hub")
    for datagram in again[:-1]:  # the flood goes on between its datagrams
        hub.receive(datagram, "b:1", now(10.1))
        for _ in range(8):
            hand(hub, junk(3400), "b:1", 10.1)
    assert not hub.anybody.loaded(10.1)
    assert hub.receive(again[-1], "b:1", now(10.1)) is not None
    assert datagrams(hub.take_effects(), "b"), "answered"


def test_fragments_of_who_only_claims_an_address_push_none_out_of_who_has_a_cookie() -> None:
    hub, b = pair()
    forge(hub, "b:1", 10.0)
    hand(hub, offered(b, 10.0), "b:1", 10.0)
    hand(b, replies(hub), "hub", 10.1)
    stamped = datagrams(b.take_effects(), "hub")
    hub.take_effects()
    for datagram in stamped[:-1]:
        hub.receive(datagram, "b:1", now(15.0))
        for _ in range(2 * PARTIALS_PER_SOURCE):  # beginnings, which use up no share
            hub.receive(junk(3400)[0], "b:1", now(15.0))
    assert replies(hub) == []
    assert hub.receive(stamped[-1], "b:1", now(15.0)) is not None


def test_a_cookie_is_asked_of_the_source_alone_and_only_until_its_share_is_filled_again() -> None:
    hub, b = pair()
    forge(hub, "b:1", 10.0)
    hand(hub, junk(3400), "c:1", 10.0)
    assert replies(hub) == []
    assert hand(hub, offered(b, 10.2), "b:1", 10.0 + 3.0 / SOURCE_RATE) is not None
    assert replies(hub) == []


@pytest.mark.usefixtures("never_loaded")
def test_a_cookie_gives_a_share_and_no_more() -> None:
    hub, b = pair()
    forge(hub, "b:1", 10.0)
    first = junk(3400)
    hand(hub, first, "b:1", 10.0)
    reply, jar = CookieReply.unpack(replies(hub)[0]), b.peers["hub"].context.cookie
    assert jar.accept(reply.nonce, reply.sealed, first[0][-2 * MAC_SIZE : -MAC_SIZE], 10.0)
    hub.take_effects()
    for _ in range(SOURCE_BURST + 5):
        hand(hub, [one[:-MAC_SIZE] + jar.mac2(one[:-MAC_SIZE], 10.0) for one in junk(3400)], "b:1", 10.0)
    assert reasons(hub.take_effects()) == ["authentication"] * SOURCE_BURST + ["flood"] * 5


@pytest.mark.parametrize("expected", [False, True])
def test_bounds_hold_for_each_way_in(expected: bool) -> None:
    hub = node("hub", settings("b"))
    for second in range(20):
        for number in range(2 * LOAD_FRAGMENTS):
            hub.receive(junk(1200)[0], f"{second}-{number}", now(float(second)), expected=expected)
        hub.take_replies()
        hub.take_effects()
        assert max(hub.expected.partials, hub.anybody.partials) <= min(PARTIALS, 11 * LOAD_FRAGMENTS)
    assert len(hub.anybody._fragments) + len(hub.anybody._sources) <= 2 * SOURCES
    assert LOAD_FRAGMENTS / 3 < UNPROVEN_RATE


@pytest.mark.parametrize("size", [0, 1, 79, 81, 1232])
def test_a_cookie_reply_has_one_size(size: int) -> None:
    with pytest.raises(HandshakeError, match="malformed"):
        CookieReply.unpack((b"\5\1" + bytes(1300))[:size])


def gaps(b: RekeyNode, at: float, until: float) -> list[float]:
    """Seconds between the transmissions of the first message that goes out at ``at``."""
    times = [at]
    while (deadline := b.deadline) is not None and deadline < until:
        b.tick(now(deadline))
        if sent(b.take_effects(), "hub"):
            times.append(deadline)
    return [round(later - earlier, 3) for earlier, later in pairwise(times)]


def about(*gaps: float) -> object:
    """These, but for what chance makes longer or shorter."""
    return pytest.approx(list(gaps), rel=RETRANSMIT_JITTER + 0.01)


def test_who_was_asked_for_a_cookie_repeats_its_message_often() -> None:
    """Where nine of ten datagrams find no room, the fragments of many transmissions make one message."""
    hub, b = pair()
    init = offered(b, 1.0)
    assert gaps(b, 1.0, 10.0) == about(0.5, 1.0, 2.0, 4.0)
    load_up(hub, 10.0)
    hand(hub, init, "b:1", 10.0)
    hand(b, replies(hub), "hub", 10.0)
    often = gaps(b, 10.0, 25.0)[1:]
    assert often == about(*[0.5] * len(often))
    rng = random.Random(1)
    hub, b = pair()
    load_up(hub, 1.0)
    hand(hub, offered(b, 1.0), "b:1", 1.0)
    hand(b, replies(hub), "hub", 1.0)
    heard = None
    while heard is None and (deadline := b.deadline) is not None and deadline < 15.0:
        load_up(hub, deadline)
        b.tick(now(deadline))
        kept = [datagram for datagram in datagrams(b.take_effects(), "hub") if rng.random() < 0.2]
        heard = hand(hub, kept, "b:1", deadline)
    assert heard is not None


def test_who_is_flooded_itself_repeats_often_and_the_answers_fragments_add_up() -> None:
    hub, b = pair()
    init = offered(b, 1.0)
    load_up(b, 1.0, to="b")
    hand(hub, init, "b:1", 1.0)
    first = gaps(b, 1.0, 1.0 + LOAD_LASTS)
    assert first == about(*[0.5] * len(first))
    assert gaps(b, 1.0 + LOAD_LASTS, 25.0)[1:] == about(1.0, 2.0, 4.0, 8.0)


def test_datagrams_that_get_no_answer_do_not_use_the_answers_up() -> None:
    """A message's last fragment is small, and is never answered, as the answer would be larger."""
    hub, b = pair()
    init = offered(b, 1.0)
    load_up(hub, 1.0)
    small = junk(3000)[-1]
    assert len(small) < len(init[0])
    for number in range(5000):
        hub.receive(small, f"forged-{number}:2", now(1.2))
    assert replies(hub) == []
    hand(hub, init[:1], "b:1", 1.2)
    assert len(replies(hub)) == 1
