"""Cookies on a first message: asked for, given, carried, and worth nothing elsewhere or later."""

from __future__ import annotations

import random

from qtunnel.crypto.cookie import COOKIE_LIFETIME
from qtunnel.handshake.cookies import CookieReply as Reply
from qtunnel.handshake.cookies import carries_cookie, held, may_answer, mint, reply_to, stamped
from qtunnel.handshake.fragments import MAC_SIZE, MAX_DATAGRAM, NO_COOKIE, Message, MessageType, cut, mac1_key, parse

BOB, EVE = b"\x01" * 64, b"\x02" * 64
SOURCE, ELSEWHERE = b"\x0a\x00\x00\x01\xca\x6d", b"\x0a\x00\x00\x02\xca\x6d"
EXCHANGE = b"\xe5" * 16
DATAGRAMS = cut(Message(MessageType.INIT, 3, EXCHANGE, b"body" * 700), mac1_key(BOB))
"""Three of full size, and a shorter one."""


def test_what_is_answered_is_of_full_size() -> None:
    assert [may_answer(datagram) for datagram in DATAGRAMS] == [len(one) == MAX_DATAGRAM for one in DATAGRAMS]
    assert [may_answer(datagram) for datagram in DATAGRAMS] == [True, True, False]


def test_a_cookie_makes_a_first_message_good_from_where_it_was_sent_to() -> None:
    its, cookie = mint(BOB, random.Random(1).randbytes), held(BOB)
    assert not any(carries_cookie(one, SOURCE, its, 0.0) for one in DATAGRAMS), "none was given yet"
    reply = Reply.unpack(reply_to(DATAGRAMS[1], parse(DATAGRAMS[1], mac1_key(BOB)), SOURCE, its, 5.0))
    assert (reply.suite, reply.index, reply.exchange) == (3, 1, EXCHANGE)
    assert stamped(DATAGRAMS, cookie, 5.0) == tuple(DATAGRAMS), "zeros as long as there is none"
    assert cookie.accept(reply.nonce, reply.sealed, DATAGRAMS[1][-2 * MAC_SIZE : -MAC_SIZE], 5.0)
    made = stamped(DATAGRAMS, cookie, 6.0)
    assert [one[:-MAC_SIZE] for one in made] == [one[:-MAC_SIZE] for one in DATAGRAMS]
    assert all(carries_cookie(one, SOURCE, its, 7.0) for one in made)
    assert not any(carries_cookie(one, ELSEWHERE, its, 7.0) for one in made)
    assert not any(carries_cookie(one, SOURCE, mint(BOB, random.Random(2).randbytes), 7.0) for one in made)
    assert not any(carries_cookie(one[:-MAC_SIZE] + NO_COOKIE, SOURCE, its, 7.0) for one in made)
    assert not carries_cookie(made[0][:-MAC_SIZE] + made[1][-MAC_SIZE:], SOURCE, its, 7.0), "mac2 of another datagram"


def test_a_cookie_lasts_for_its_time_at_both_ends() -> None:
    its, cookie = mint(BOB, random.Random(1).randbytes), held(BOB)
    mac1 = DATAGRAMS[0][-2 * MAC_SIZE : -MAC_SIZE]
    reply = Reply.unpack(reply_to(DATAGRAMS[0], parse(DATAGRAMS[0], mac1_key(BOB)), SOURCE, its, 0.0))
    assert cookie.accept(reply.nonce, reply.sealed, mac1, 0.0)
    late = COOKIE_LIFETIME - 0.1
    (made, *_) = stamped(DATAGRAMS, cookie, late)
    assert carries_cookie(made, SOURCE, its, late)
    assert not carries_cookie(made, SOURCE, its, COOKIE_LIFETIME)
    assert stamped(DATAGRAMS, cookie, COOKIE_LIFETIME) == tuple(DATAGRAMS)


def test_a_reply_is_for_the_datagram_that_it_answers_and_from_who_was_asked() -> None:
    its = mint(BOB, random.Random(1).randbytes)
    reply = Reply.unpack(reply_to(DATAGRAMS[0], parse(DATAGRAMS[0], mac1_key(BOB)), SOURCE, its, 0.0))
    mac1, other = (one[-2 * MAC_SIZE : -MAC_SIZE] for one in DATAGRAMS[:2])
    assert held(BOB).accept(reply.nonce, reply.sealed, other, 0.0) is None
    assert held(EVE).accept(reply.nonce, reply.sealed, mac1, 0.0) is None
    cookie = held(BOB)
    assert cookie.accept(reply.nonce, reply.sealed, mac1, 0.0) is True
    assert cookie.accept(reply.nonce, reply.sealed, mac1, 1.0) is False, "the one in hand"
