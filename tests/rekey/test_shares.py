"""Each address has a share of what a gateway answers: who only claims one uses none up, who has one gets no more."""

from __future__ import annotations

import pytest

from qtunnel.handshake.cookies import CookieReply
from qtunnel.handshake.fragments import MAC_SIZE, PARTIALS_PER_SOURCE
from qtunnel.rekey.limits import FRAGMENT_BURST, LOAD_FRAGMENTS, SOURCE_BURST, SOURCE_RATE
from qtunnel.rekey.node import RekeyNode
from tests.rekey.flooding import load_up, offered, pair, replies
from tests.rekey.gateways import datagrams, hand, junk, node, now, reasons, settings


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
