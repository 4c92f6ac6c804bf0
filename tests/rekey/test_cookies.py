"""Cookies under load: when they are asked for, what they are good for, and how a message is repeated for them."""

from __future__ import annotations

import dataclasses
import random
from itertools import pairwise

import pytest

from qtunnel.crypto.cookie import COOKIE_LIFETIME
from qtunnel.errors import HandshakeError
from qtunnel.handshake.cookies import REPLY_SIZE, CookieReply
from qtunnel.handshake.fragments import MAC_SIZE, MAX_DATAGRAM, NO_COOKIE, PARTIALS, Message, MessageType, cut, mac1_key
from qtunnel.rekey.limits import LOAD_FRAGMENTS, LOAD_LASTS
from qtunnel.rekey.node import RekeyNode
from qtunnel.rekey.timing import FIRST_RETRANSMIT, RETRANSMIT_JITTER
from tests.rekey.flooding import load_up, offered, pair, replies
from tests.rekey.gateways import IDENTITIES, SUITE, datagrams, hand, now, reasons, sent

LATEST_REPEAT = FIRST_RETRANSMIT * (1 + RETRANSMIT_JITTER)
"""Seconds until a message is sent again at the latest."""


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
