"""What offers, answers and messages must not hold, each refused with its reason; and the last thing that they may."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qtunnel.crypto.kem import ML_KEM_768, ML_KEM_1024, Kem
from qtunnel.crypto.kem_set import EphemeralKeys, KemSet
from qtunnel.errors import ConfigError, HandshakeError
from qtunnel.handshake import messages
from qtunnel.handshake.cookies import REPLY_SIZE, CookieReply
from qtunnel.handshake.fragments import FEW_FRAGMENTS, MAX_MESSAGE, Fragment, MessageType
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import (
    COMMIT_SIZE,
    MAX_ANSWER,
    MAX_OFFER,
    MIN_ANSWER,
    MIN_OFFER,
    Answer,
    ChainRef,
    Offer,
    Verdict,
    check_fits,
    check_init_size,
    check_length,
    clip,
    decode_answer,
    decode_offer,
    encode_answer,
    encode_offer,
    init_sizes,
    largest,
    parse_init,
    parse_response,
    response_sizes,
)
from qtunnel.handshake.responder import KnownPeer, Responder
from qtunnel.handshake.suites import SUITES, Suite, find_suite
from qtunnel.secret import RandomBytes, Secret
from qtunnel.terms import Inventory, KeyRef, Policy, QkdPolicy
from tests.handshake.test_exchange import ALICE, BOB, EVE, EXCHANGE, POLICY, SUITE, Run

OFFER = Offer(bytes(12), 7, Policy(QkdPolicy.REQUIRED, 2), 5, (), ())
ANSWER = Answer(Verdict.ACCEPTED, 7, Policy(QkdPolicy.PREFERRED), 6)
STORE = b"storage1"
KEYS = tuple(KeyRef("metro", f"key-{number:02}", 32) for number in range(17))
MARKS = tuple(struct.pack(">Q", number) for number in range(33))
CHAINS = tuple(ChainRef(number, bytes([number]) * 16) for number in range(1, 5))


def long_key(size: int) -> KeyRef:
    """One whose reference has that many bytes, 4 to 514."""
    return KeyRef("s" * ((size - 4) // 2), "k" * (size - 4 - (size - 4) // 2), 32)


def inventory_of(bytes_announced: int) -> Inventory:
    return Inventory(STORE, (long_key(500), long_key(501), long_key(bytes_announced - 1001)), ())


@pytest.mark.parametrize(
    ("allowed", "beyond"),
    [
        (replace(OFFER, keys=KEYS[:8]), replace(OFFER, keys=KEYS[:9])),
        (replace(OFFER, chains=CHAINS[:3]), replace(OFFER, chains=CHAINS)),
        (replace(OFFER, epoch=1), replace(OFFER, epoch=0)),
        (replace(OFFER, epoch=2**63 - 1), replace(OFFER, epoch=2**63)),
        (
            replace(OFFER, inventory=Inventory(STORE, KEYS[:16], MARKS[:32])),
            replace(OFFER, inventory=Inventory(STORE, KEYS[:17], ())),
        ),
        (
            replace(OFFER, inventory=Inventory(STORE, (), MARKS[:32])),
            replace(OFFER, inventory=Inventory(STORE, (), MARKS)),
        ),
        (replace(OFFER, inventory=inventory_of(1200)), replace(OFFER, inventory=inventory_of(1201))),
    ],
)
def test_an_offer_holds_so_much_and_no_more(allowed: Offer, beyond: Offer) -> None:
    assert decode_offer(encode_offer(allowed)) == allowed
    with pytest.raises(ValueError, match="holds at most"):
        encode_offer(beyond)


def refused(decode: Callable[[], object], words: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        decode()
    assert caught.value.reason == "malformed"
    assert caught.value.detail == words


def put(encoded: bytes, at: int, new: bytes, *, over: int | None = None) -> bytes:
    """``new`` in the place of ``over`` bytes, of as many where that is not told."""
    return encoded[:at] + new + encoded[at + (len(new) if over is None else over) :]


REF = b"\x05metro\x02id\x00\x20"
EMPTY = bytes(8) + b"\x00\x00"
"""An inventory."""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((12, struct.pack(">Q", 0)), "offer has an epoch out of range"),
        ((12, struct.pack(">Q", 2**63)), "offer has an epoch out of range"),
        ((20, b"\x03"), "offer has an unknown policy"),
        ((22, b"\x02"), "offer has an unknown policy"),
        ((23, b"\x01"), "offer has a reserved byte that is not zero"),
        ((28, b"\x04"), "offer has 4 chains"),
        ((28, b"\x03"), "offer is too short"),
        ((29, b"\x09"), "offer has 9 keys"),
        ((29, b"\x01\x00\x02id\x00\x20"), "offer has a text of 0 bytes"),
        ((29, b"\x01\x05metro\x00\x00\x20"), "offer has a text of 0 bytes"),
        ((29, b"\x01\x05metro\x02\xff\xff\x00\x20" + EMPTY), "offer has a text that is not UTF-8"),
        ((29, b"\x01\x05me\x1bro\x02id\x00\x20" + EMPTY), "offer has a text with control characters"),
        ((29, b"\x01\x05metro\x02id\x00\x00" + EMPTY), "offer names a key twice, or an empty one"),
        ((29, b"\x02" + REF + REF + EMPTY), "offer names a key twice, or an empty one"),
        ((29, b"\x00" + STORE + b"\x11"), "offer has 17 keys"),
        ((29, b"\x00" + STORE + b"\x00\x21"), "offer has 33 marks"),
        ((29, b"\x00" + STORE + b"\x00\x02" + MARKS[1] + MARKS[1]), "offer has a mark twice"),
        ((29, b"\x00" + bytes(8) + b"\x00\x01" + MARKS[1]), "offer has keys in no store, or an empty list"),
        ((29, b"\x00" + bytes(8) + b"\x01" + REF + b"\x00"), "offer has keys in no store, or an empty list"),
        ((29, b"\x00" + EMPTY + b"!"), "offer is 1 bytes too long"),
        ((29, b"\x00" + EMPTY[:-1]), "offer is too short"),
    ],
)
def test_what_is_wrong_with_an_offer_is_named(change: tuple[int, bytes], words: str) -> None:
    at, new = change
    encoded = encode_offer(OFFER)
    wrong = put(encoded, at, new, over=len(encoded) if at == 29 and len(new) > 1 else None)
    refused(lambda: decode_offer(wrong), words)


def test_announced_keys_are_bounded_in_bytes_when_they_are_read() -> None:
    most = encode_offer(replace(OFFER, inventory=inventory_of(1200)))
    assert decode_offer(most).inventory == inventory_of(1200)
    longer = b"".join(
        bytes([len(ref.source)]) + ref.source.encode() + bytes([len(ref.key_id)]) + ref.key_id.encode() + b"\x00\x20"
        for ref in inventory_of(1201).announced
    )
    wrong = put(encode_offer(OFFER), 30, STORE + b"\x03" + longer + b"\x00", over=100)
    refused(lambda: decode_offer(wrong), "offer announces more than 1200 bytes of keys")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((0, b"\x05"), "answer has the unknown verdict 5"),
        ((1, struct.pack(">Q", 2**63)), "answer has a chain or epoch out of range"),
        ((9, b"\x03"), "answer has an unknown policy"),
        ((11, b"\x02"), "answer has an unknown policy"),
        ((12, b"\x01"), "answer has a reserved byte that is not zero"),
        ((17, b"\x02"), "answer has a chain or epoch out of range"),
        ((33, b"\x01"), "answer has a chain or epoch out of range"),
        ((34, b"\x01\x02"), "answer accepts keys that were not offered, or not in order"),
        ((34, b"\x00\xc9"), "answer has a text of 201 bytes"),
        ((34, b"\x00\x02\xff\xff" + EMPTY), "answer has a text that is not UTF-8"),
        ((34, b"\x00\x00" + EMPTY + b"!!"), "answer is 2 bytes too long"),
        ((34, b"\x01"), "answer is too short"),
        ((34, b"\x00\x00" + STORE + b"\x11"), "answer has 17 keys"),
    ],
)
def test_what_is_wrong_with_an_answer_is_named(change: tuple[int, bytes], words: str) -> None:
    at, new = change
    wrong = put(encode_answer(ANSWER), at, new, over=100 if at == 34 else None)
    refused(lambda: decode_answer(wrong, 2), words)


def test_the_newest_epoch_of_all_and_the_longest_words_fit_an_answer() -> None:
    for answer in (
        replace(ANSWER, epoch=2**63 - 1),
        replace(ANSWER, epoch=0),
        replace(ANSWER, detail="w" * 200, keys=(0, 1)),
        replace(ANSWER, inventory=Inventory(STORE, KEYS[:16], MARKS[:32])),
    ):
        assert decode_answer(encode_answer(answer), 2) == answer


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_messages_have_lengths_between_bounds(suite: Suite) -> None:
    fixed = sum(init_sizes(suite))
    for size in (fixed + MIN_OFFER, fixed + MAX_OFFER):
        init = parse_init(suite, bytes(size))
        assert [len(one) for one in (init.e, init.ekem, init.ct1, init.id)] == list(init_sizes(suite))
        assert len(init.offer) == size - fixed
    refused(lambda: parse_init(suite, bytes(fixed + MIN_OFFER - 1)), "message 1 is too short")
    refused(lambda: parse_init(suite, bytes(fixed + MAX_OFFER + 1)), "message 1 is too long")
    fixed = sum(response_sizes(suite))
    response = parse_response(suite, bytes(fixed + MIN_ANSWER) + b"p" * 16)
    assert (response.proof, len(response.answer)) == (b"p" * 16, MIN_ANSWER)
    refused(lambda: parse_response(suite, bytes(fixed + MIN_ANSWER + 15)), "message 2 is too short")


def fragment(kind: MessageType, count: int, length: int, suite: int = 1) -> Fragment:
    return Fragment(kind, suite, EXCHANGE, 0, count, length, b"")


@pytest.mark.parametrize("kind", MessageType)
def test_many_fragments_are_only_for_a_suite_that_has_such_messages(kind: MessageType) -> None:
    most = {
        MessageType.INIT: sum(init_sizes(SUITE)) + MAX_OFFER,
        MessageType.RESPONSE: sum(response_sizes(SUITE)) + MAX_ANSWER + 16,
    }.get(kind, COMMIT_SIZE)
    assert largest(SUITE, kind) == most
    check_length(None, fragment(kind, FEW_FRAGMENTS, MAX_MESSAGE))
    check_length(SUITE, fragment(kind, FEW_FRAGMENTS + 1, most))
    with pytest.raises(HandshakeError) as caught:
        check_length(None, fragment(kind, FEW_FRAGMENTS + 1, most, suite=77))
    assert caught.value.reason == "suite"
    assert "uses suite 77," in caught.value.detail
    words = f"longer than any message {kind.value} of suite {SUITE.name}"
    refused(lambda: check_length(SUITE, fragment(kind, FEW_FRAGMENTS + 1, most + 1)), words)


def test_a_suite_whose_messages_are_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    size = largest(SUITE, MessageType.INIT)
    monkeypatch.setattr(messages, "MAX_MESSAGE", size)
    check_fits(SUITE)
    monkeypatch.setattr(messages, "MAX_MESSAGE", size - 1)
    with pytest.raises(ConfigError, match=rf"ml-kem-1024 takes {size:,} bytes .* holds {size - 1:,}: leave a KEM out"):
        check_fits(SUITE)


COOKIE_REPLY = CookieReply(2, 3, b"\xe5" * 16, bytes(24), bytes(32))


def test_a_cookie_reply_has_one_form() -> None:
    good = COOKIE_REPLY.pack()
    assert len(good) == REPLY_SIZE
    assert CookieReply.unpack(good) == COOKIE_REPLY
    wrong = [good[:-1], good + b"\0", *(put(good, at, bytes([good[at] ^ 1])) for at in (0, 1, 5, 6, 7))]
    for one in wrong:
        refused(lambda one=one: CookieReply.unpack(one), "not a cookie reply of this version")  # type: ignore[misc]


def test_an_answer_that_accepts_another_epoch_is_refused_before_it_is_judged() -> None:
    run = Run()
    initiator = run.offer()
    body, _ = replace(run, epoch=6).respond(run.read(initiator.message))
    judged: list[Answer] = []
    with pytest.raises(HandshakeError) as caught:
        initiator.read_response(body, {run.refs[0]: Secret(run.key_i)}, {}, judged.append)
    assert (caught.value.reason, caught.value.detail) == ("answer", "accepts epoch 6 instead of 5")
    assert judged == []


def test_a_refusal_is_not_judged_whatever_its_epoch() -> None:
    run = Run()
    initiator = run.offer()
    body, _ = replace(run, epoch=6).respond(run.read(initiator.message), Verdict.STALE_EPOCH)
    judged: list[Answer] = []
    answer, sealed = initiator.read_response(body, {run.refs[0]: Secret(run.key_i)}, {}, judged.append)
    assert (answer.verdict, answer.epoch, sealed, judged) == (Verdict.STALE_EPOCH, 6, None, [])


def test_a_chain_secret_that_we_hold_but_did_not_offer_is_refused() -> None:
    chain = Secret(b"\x09" * 64)
    run = Run(chain_r=chain)
    initiator = run.offer()
    body, _ = run.respond(run.read(initiator.message))
    with pytest.raises(HandshakeError, match="answer: chooses a chain secret that was not offered"):
        replace(run, chain_i=chain).finish(initiator, body)


def test_a_low_order_key_in_message_2_counts_as_forged() -> None:
    run = Run()
    initiator = run.offer()
    body, _ = run.respond(run.read(initiator.message))
    with pytest.raises(HandshakeError) as caught:
        run.finish(initiator, bytes(32) + body[32:])
    assert (caught.value.reason, caught.value.detail) == ("authentication", "an ephemeral key of low order")


def test_a_peer_whose_known_key_is_of_low_order_is_named() -> None:
    """Its public file would be refused; where it is there all the same, the message is no proof of anything."""
    broken = KnownPeer(replace(ALICE.public, x25519=bytes(32)))
    with pytest.raises(HandshakeError) as caught:
        Responder(BOB, SUITE, EXCHANGE, Run().offer().message, lambda _: broken)
    assert (caught.value.reason, caught.value.detail) == (
        "peer-key", "the peer's public file holds a key of low order",
    )  # fmt: skip


def test_an_ephemeral_kem_key_that_the_kem_refuses_makes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is authentic, but fails the input check of FIPS 203 section 7.2: nothing is sent."""
    run = Run(suite=SUITES[3])
    unusable = b"\xff" * ML_KEM_768.public_key_size

    def unusable_one(kems: KemSet, random_bytes: RandomBytes) -> EphemeralKeys:
        made = EphemeralKeys([kem.new_key_pair(random_bytes) for kem in kems.ephemeral])
        made.public = unusable
        return made

    monkeypatch.setattr(KemSet, "new_ephemeral", unusable_one)
    responder = run.read(run.offer().message)
    monkeypatch.undo()
    with pytest.raises(HandshakeError) as caught:
        run.respond(responder)
    assert caught.value.reason == "malformed"
    assert caught.value.detail.startswith("message 1 holds an unusable KEM key: ")


def test_forgotten_exchanges_keep_no_keys() -> None:
    run = Run()
    initiator = run.offer()
    responder = run.read(initiator.message)
    initiator.wipe()
    responder.wipe()
    body, _ = Run().respond(Run().read(Run().offer().message))
    with pytest.raises(Exception, match="wiped"):
        run.finish(initiator, body)
    with pytest.raises(Exception, match="wiped"):
        run.respond(responder)


def test_the_kem_of_the_ends_own_choice_makes_the_ciphertexts() -> None:
    run, made = Run(refs=(), accepted=()), []

    def encapsulate(kem: Kem, public: bytes) -> tuple[bytes, Secret]:
        made.append(public)
        return Kem.encapsulate(kem, public)

    initiator = Initiator(
        ALICE, BOB.public, SUITE, EXCHANGE, Offer(bytes(12), 5, POLICY, 0, (), ()), os.urandom, encapsulate=encapsulate
    )
    answer = Answer(Verdict.ACCEPTED, 5, POLICY, 0)
    _, theirs = run.read(initiator.message).respond(answer, None, [], os.urandom, encapsulate=encapsulate)
    ekem = initiator.message[32 : 32 + SUITE.kem.public_key_size]
    assert made == [BOB.public.kem[SUITE.kem.name], ekem, ALICE.public.kem[SUITE.kem.name]]
    assert theirs is not None


def told(action: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(HandshakeError) as caught:
        action()
    return caught.value.reason, caught.value.detail


def test_every_refusal_of_message_1_has_its_reason() -> None:
    run, eve = Run(), Run(initiator=EVE)
    body = run.offer().message
    fingerprint = EVE.public.fingerprint
    assert told(lambda: eve.read(eve.offer().message)) == (
        "unknown-peer",
        f"no peer here has the fingerprint {fingerprint}",
    )
    nobody = ("authentication", "message 1 was not made for this identity")
    assert told(lambda: replace(run, responder=EVE).read(body)) == nobody
    assert told(lambda: run.read(bytes(32) + body[32:])) == ("authentication", "an ephemeral key of low order")
    secret = replace(run, pairing_r=Secret(b"a" * 32))
    assert told(lambda: secret.read(body)) == (
        "authentication", "message 1 is not from the peer it names, or the pairing secrets differ",
    )  # fmt: skip


@pytest.mark.parametrize("which", ["x25519", "kem"])
def test_a_peer_with_an_unusable_key_is_offered_nothing(which: str) -> None:
    kem = {**BOB.public.kem, SUITE.kem.name: b"\xff" * 1568}
    broken = replace(BOB.public, x25519=bytes(32)) if which == "x25519" else replace(BOB.public, kem=kem)
    reason, detail = told(lambda: Run(to=broken).offer())
    assert reason == "peer-key"
    assert detail.startswith("the peer's public file holds an unusable key: ")


def test_a_peer_without_a_key_of_the_suite_is_named() -> None:
    suite = find_suite([ML_KEM_1024, replace(ML_KEM_768, name="other-kem")], "chacha20-poly1305")
    words = f"{BOB.public.fingerprint} has no other-kem key for suite {suite.name}"
    assert told(lambda: Run(suite=suite).offer()) == ("suite", words)


def test_every_refusal_of_message_2_has_its_reason() -> None:
    run = Run()
    initiator = run.offer()
    body, _ = run.respond(run.read(initiator.message))
    forged = body[:100] + bytes([body[100] ^ 1]) + body[101:]
    assert told(lambda: run.finish(initiator, forged)) == (
        "authentication",
        "message 2 is not from this peer",
    )
    mismatch = ("key-mismatch", "the two ends hold different QKD keys under the same key_ID")
    assert told(lambda: replace(run, key_i=bytes(32)).finish(initiator, body)) == mismatch
    assert told(lambda: run.finish(initiator, body[:3000])) == ("malformed", "message 2 is too short")


@pytest.mark.parametrize("chained", [False, True])
def test_both_ends_tell_whether_an_epoch_is_chained(chained: bool) -> None:
    chain = Secret(b"\x09" * 64) if chained else None
    for sealed in Run(chain_i=chain, chain_r=chain).whole():
        assert sealed.keys.chained is chained
        assert (sealed.keys.epoch, sealed.keys.suite, sealed.keys.keys) == (5, SUITE, Run().refs)


def test_words_are_cut_between_characters() -> None:
    assert clip("x" + "ü" * 300) == "x" + "ü" * 99


@pytest.mark.parametrize("accepting", [{"keys": (0,)}, {"chain": bytes(range(16))}])
def test_an_answer_that_refuses_and_accepts_is_malformed(accepting: dict[str, Any]) -> None:
    wrong = encode_answer(replace(ANSWER, verdict=Verdict.BUSY, **accepting))
    refused(lambda: decode_answer(wrong, 2), "answer refuses, and yet accepts keys or a chain")


def test_the_length_of_message_1_is_looked_at_before_anything_is_computed() -> None:
    fixed = sum(init_sizes(SUITE))
    for size in (fixed + MIN_OFFER, fixed + MAX_OFFER):
        check_init_size(SUITE, bytes(size))
    refused(lambda: check_init_size(SUITE, bytes(fixed + MIN_OFFER - 1)), "message 1 is too short")
    refused(lambda: check_init_size(SUITE, bytes(fixed + MAX_OFFER + 1)), "message 1 is too long")
