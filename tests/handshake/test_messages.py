"""Payload codecs: exact lengths or reject, and nothing but a HandshakeError for any bytes."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.crypto.kem import ML_KEM_1024
from qtunnel.errors import HandshakeError
from qtunnel.handshake.messages import (
    Answer,
    ChainRef,
    Offer,
    Verdict,
    clip,
    decode_answer,
    decode_offer,
    encode_answer,
    encode_offer,
    parse_init,
    parse_response,
)
from qtunnel.handshake.suites import SUITES, find_suite
from qtunnel.terms import ChainPolicy, Inventory, KeyRef, Policy, QkdPolicy

texts = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=60)
policies = st.builds(
    Policy, st.sampled_from(QkdPolicy), min_sources=st.integers(0, 255), chain=st.sampled_from(ChainPolicy)
)
epochs = st.integers(1, (1 << 63) - 1)
chains = st.builds(ChainRef, st.integers(0, (1 << 64) - 1), st.binary(min_size=16, max_size=16))
refs = st.builds(KeyRef, texts, texts, st.integers(1, 65535))
offers = st.builds(
    Offer,
    st.binary(min_size=12, max_size=12),
    epochs,
    policies,
    st.integers(0, (1 << 32) - 1),
    st.lists(chains, max_size=3).map(tuple),
    st.lists(refs, max_size=8, unique=True).map(tuple),
)
accepted = st.builds(
    Answer,
    st.just(Verdict.ACCEPTED),
    st.integers(0, (1 << 63) - 1),
    policies,
    st.integers(0, (1 << 32) - 1),
    st.none() | st.binary(min_size=16, max_size=16),
    st.lists(st.integers(0, 7), max_size=8, unique=True).map(lambda found: tuple(sorted(found))),
    texts | st.just(""),
)
REFUSALS = tuple(verdict for verdict in Verdict if verdict is not Verdict.ACCEPTED)
answers = accepted | st.builds(
    lambda answer, verdict: replace(answer, verdict=verdict, chain=None, keys=()),
    accepted,
    st.sampled_from(REFUSALS),
)


@given(offers)
def test_offers_survive_the_way(offer: Offer) -> None:
    assert decode_offer(encode_offer(offer)) == offer


@given(answers)
def test_answers_survive_the_way(answer: Answer) -> None:
    assert decode_answer(encode_answer(answer), 8) == Answer(
        answer.verdict, answer.epoch, answer.policy, answer.capabilities, answer.chain, answer.keys, clip(answer.detail)
    )


marks = st.lists(st.binary(min_size=8, max_size=8), max_size=16, unique=True).map(tuple)
inventories = st.builds(
    Inventory,
    st.binary(min_size=8, max_size=8).filter(any),
    st.lists(refs.filter(lambda ref: ref.wire_size < 70), max_size=16, unique=True).map(tuple),
    marks,
    marks,
)


@given(offers, accepted, inventories)
def test_inventories_survive_the_way(offer: Offer, answer: Answer, inventory: Inventory) -> None:
    assert decode_offer(encode_offer(replace(offer, inventory=inventory))).inventory == inventory
    assert decode_answer(encode_answer(replace(answer, inventory=inventory)), 8).inventory == inventory


def test_one_without_withdrawals_is_as_it_was_before_there_were_any() -> None:
    """So that a peer of an older version reads it."""
    offer = Offer(bytes(12), 1, Policy(QkdPolicy.OFF), 0, (), (), Inventory(b"s" * 8, (), (b"m" * 8,)))
    assert encode_offer(offer).endswith(b"s" * 8 + b"\0\1" + b"m" * 8)


@pytest.mark.parametrize(
    "end",
    [
        b"s" * 8 + b"\0\x80\0",  # an empty list
        b"s" * 8 + b"\0\x80\2" + b"m" * 16,  # a mark twice
        b"s" * 8 + b"\0\x80\x21" + b"".join(bytes([at]) * 8 for at in range(33)),  # too many
        b"s" * 8 + b"\0\xa0" + b"".join(bytes([at]) * 8 for at in range(32)) + b"\1" + b"m" * 8,  # together
        bytes(8) + b"\0\x80\1" + b"m" * 8,  # of no store
    ],
)
def test_withdrawals_that_cannot_be_are_refused(end: bytes) -> None:
    encoded = encode_offer(Offer(bytes(12), 1, Policy(QkdPolicy.OFF), 0, (), ()))
    with pytest.raises(HandshakeError, match="malformed"):
        decode_offer(encoded[:-10] + end)


@given(offers, st.data())
def test_an_offer_of_another_length_is_refused(offer: Offer, data: st.DataObject) -> None:
    encoded = encode_offer(offer)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + b"\0"):
        with pytest.raises(HandshakeError, match="malformed"):
            decode_offer(wrong)


@given(answers, st.data())
def test_an_answer_of_another_length_is_refused(answer: Answer, data: st.DataObject) -> None:
    encoded = encode_answer(answer)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + b"\0"):
        with pytest.raises(HandshakeError, match="malformed"):
            decode_answer(wrong, 8)


@given(st.binary(max_size=300), st.integers(0, 8))
def test_any_bytes_give_a_value_or_a_handshake_error(data: bytes, offered: int) -> None:
    for decode in (decode_offer, lambda found: decode_answer(found, offered)):
        try:
            decode(data)
        except HandshakeError as error:
            assert error.reason == "malformed"  # noqa: PT017  # both outcomes are right


@given(offers, st.data())
def test_a_changed_offer_never_reads_as_the_same(offer: Offer, data: st.DataObject) -> None:
    encoded = bytearray(encode_offer(offer))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(HandshakeError):
        assert decode_offer(bytes(encoded)) != offer


POLICY = Policy(QkdPolicy.REQUIRED)
KEY = KeyRef("metro", "id", 32)


def test_what_an_offer_must_not_hold() -> None:
    good = Offer(bytes(12), 1, POLICY, 0, (), (KEY,))
    encoded = encode_offer(good)
    for at, value in ((20, 3), (22, 2), (23, 1), (28, 4)):  # policy, chain policy, reserved, chains
        wrong = bytearray(encoded)
        wrong[at] = value
        with pytest.raises(HandshakeError):
            decode_offer(bytes(wrong))
    twice = encode_offer(Offer(bytes(12), 1, POLICY, 0, (), (KEY, KeyRef("metro", "ie", 32))))
    with pytest.raises(HandshakeError, match="twice"):
        decode_offer(twice.replace(b"ie", b"id"))
    with pytest.raises(HandshakeError, match="control"):
        decode_offer(encode_offer(Offer(bytes(12), 1, POLICY, 0, (), (KeyRef("a\nb", "id", 32),))))
    for epoch in (0, 1 << 63):
        with pytest.raises(ValueError, match="epoch"):
            encode_offer(Offer(bytes(12), epoch, POLICY, 0, (), ()))


def test_an_answer_accepts_only_what_was_offered_in_order() -> None:
    def answer(*keys: int) -> bytes:
        return encode_answer(Answer(Verdict.ACCEPTED, 1, POLICY, 0, None, keys))

    assert decode_answer(answer(0, 2), 3).keys == (0, 2)
    for keys in ((3,), (1, 0), (1, 1)):
        with pytest.raises(HandshakeError, match="accepts"):
            decode_answer(answer(*keys), 3)


@pytest.mark.parametrize("verdict", REFUSALS)
def test_a_refusal_accepts_nothing(verdict: Verdict) -> None:
    good = Answer(verdict, 1, POLICY, 0)
    assert decode_answer(encode_answer(good), 1) == good
    for accepting in (replace(good, keys=(0,)), replace(good, chain=bytes(range(16)))):
        with pytest.raises(HandshakeError, match="refuses, and yet accepts"):
            decode_answer(encode_answer(accepting), 1)


def test_clip_keeps_what_an_answer_can_carry() -> None:
    assert clip("kme-b:\n503\x1b[31m") == "kme-b: 503 [31m"
    assert len(clip("ü" * 300).encode()) == 200


def test_message_bodies_shorter_than_their_fields_are_refused() -> None:
    for suite in SUITES.values():
        for size in (0, 31, 2000):
            with pytest.raises(HandshakeError, match="too short"):
                parse_init(suite, bytes(size))
            with pytest.raises(HandshakeError, match="too short"):
                parse_response(suite, bytes(size))


def test_suites_are_found_by_the_names_of_the_configuration() -> None:
    assert find_suite([ML_KEM_1024], "chacha20-poly1305").id == 1
    assert len({suite.protocol_name for suite in SUITES.values()}) == len(SUITES)
    with pytest.raises(KeyError):
        find_suite([ML_KEM_1024], "rot13")
