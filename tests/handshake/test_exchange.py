"""Whole exchanges between an initiator and a responder, right ones and every wrong one."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest

from qtunnel.errors import HandshakeError
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import Answer, ChainRef, Offer, Verdict, init_sizes, response_sizes
from qtunnel.handshake.responder import KnownPeer, Responder
from qtunnel.handshake.suites import SUITES, Suite
from qtunnel.handshake.transcript import Sealed
from qtunnel.identity import Identity, PublicIdentity
from qtunnel.keys.chain import link
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef, Policy, QkdPolicy

ALICE, BOB, EVE = (Identity.create(os.urandom) for _ in range(3))
EXCHANGE = bytes(range(16))
REF = KeyRef("metro", "2f9c", 32)
OTHER = KeyRef("backup", "77", 32)
POLICY = Policy(QkdPolicy.REQUIRED)
SUITE = SUITES[1]


def allow(answer: Answer) -> None:
    """A judge that accepts everything."""


@dataclass
class Run:
    """One exchange with everything that can be varied."""

    suite: Suite = SUITE
    initiator: Identity = ALICE
    responder: Identity = BOB
    to: PublicIdentity = BOB.public
    known: tuple[PublicIdentity, ...] = (ALICE.public,)
    pairing_i: Secret | None = None
    pairing_r: Secret | None = None
    key_i: bytes = b"\x07" * 32
    key_r: bytes = b"\x07" * 32
    refs: tuple[KeyRef, ...] = (REF,)
    accepted: tuple[int, ...] = (0,)
    epoch: int = 5
    chain_i: Secret | None = None
    chain_r: Secret | None = None

    def offer(self) -> Initiator:
        chains = () if self.chain_i is None else (ChainRef(4, link(4, self.chain_i, qkd=True).id),)
        offer = Offer(bytes(12), self.epoch, POLICY, 0, chains, self.refs)
        return Initiator(
            self.initiator, self.to, self.suite, EXCHANGE, offer, os.urandom, pairing=self.pairing_i
        )  # fmt: skip

    def read(self, body: bytes, suite: Suite | None = None, exchange: bytes = EXCHANGE) -> Responder:
        def find(identity: bytes) -> KnownPeer | None:
            return next((KnownPeer(one, self.pairing_r) for one in self.known if one.id == identity), None)

        return Responder(self.responder, suite or self.suite, exchange, body, find)

    def respond(self, responder: Responder, verdict: Verdict = Verdict.ACCEPTED) -> tuple[bytes, Sealed | None]:
        chain = None if self.chain_r is None else link(4, self.chain_r, qkd=True)
        accepted = self.accepted if verdict is Verdict.ACCEPTED else ()
        answer = Answer(verdict, self.epoch, POLICY, 0, None if chain is None else chain.id, accepted, "because")
        keys = [(self.refs[index], Secret(self.key_r)) for index in accepted]
        return responder.respond(answer, self.chain_r, keys, os.urandom)

    def finish(self, initiator: Initiator, body: bytes) -> tuple[Answer, Sealed | None]:
        chains = {} if self.chain_i is None else {link(4, self.chain_i, qkd=True).id: self.chain_i}
        keys = {ref: Secret(self.key_i) for ref in self.refs}
        return initiator.read_response(body, keys, chains, allow)

    def whole(self) -> tuple[Sealed, Sealed]:
        initiator = self.offer()
        body, theirs = self.respond(self.read(initiator.message))
        _, ours = self.finish(initiator, body)
        assert ours is not None
        assert theirs is not None
        return ours, theirs


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_both_ends_get_the_same_and_confirm_it(suite: Suite) -> None:
    ours, theirs = Run(suite=suite).whole()
    assert ours.keys.psk == theirs.keys.psk
    assert ours.keys.chain == theirs.keys.chain
    assert (ours.commit, ours.committed) == (theirs.commit, theirs.committed)
    assert ours.commit != ours.committed
    assert ours.keys.keys == theirs.keys.keys == (REF,)
    assert len(ours.keys.psk) == 32


def test_no_two_exchanges_give_the_same_keys() -> None:
    assert Run().whole()[0].keys.psk != Run().whole()[0].keys.psk


def test_an_exchange_without_qkd_keys() -> None:
    ours, theirs = Run(refs=(), accepted=()).whole()
    assert ours.keys.psk == theirs.keys.psk
    assert ours.keys.keys == ()


def test_two_sources_of_which_one_is_accepted() -> None:
    ours, theirs = Run(refs=(REF, OTHER), accepted=(1,)).whole()
    assert ours.keys.psk == theirs.keys.psk
    assert ours.keys.keys == (OTHER,)


def test_the_chain_secret_goes_in() -> None:
    chain = Secret(b"\x09" * 64)
    ours, theirs = Run(chain_i=chain, chain_r=chain).whole()
    assert ours.keys.psk == theirs.keys.psk
    assert ours.keys.chained


def test_a_chain_secret_that_was_not_offered_is_refused() -> None:
    run = Run(chain_r=Secret(b"\x09" * 64))
    initiator = run.offer()
    body, _ = run.respond(run.read(initiator.message))
    with pytest.raises(HandshakeError, match="not offered"):
        run.finish(initiator, body)


def test_another_qkd_key_under_the_same_key_id_is_named() -> None:
    run = Run(key_r=b"\x08" * 32)
    initiator = run.offer()
    body, _ = run.respond(run.read(initiator.message))
    with pytest.raises(HandshakeError, match="key-mismatch"):
        run.finish(initiator, body)


def test_a_refusal_is_authenticated_and_carries_its_reason() -> None:
    run = Run()
    initiator = run.offer()
    body, sealed = run.respond(run.read(initiator.message), Verdict.QKD_REQUIRED)
    assert sealed is None
    answer, ours = run.finish(initiator, body)
    assert (answer.verdict, answer.detail, ours) == (Verdict.QKD_REQUIRED, "because", None)


def test_a_judge_ends_the_exchange() -> None:
    run = Run()
    initiator = run.offer()
    body, _ = run.respond(run.read(initiator.message))

    def judge(answer: Answer) -> None:
        raise HandshakeError("qkd-required", "no")

    with pytest.raises(HandshakeError, match="qkd-required"):
        initiator.read_response(body, {REF: Secret(bytes(32))}, {}, judge)


def test_an_unknown_initiator_is_named_by_its_identity() -> None:
    run = Run(initiator=EVE)
    with pytest.raises(HandshakeError, match=f"unknown-peer: .*fingerprint {EVE.public.fingerprint}$"):
        run.read(run.offer().message)


def test_a_message_for_another_responder_is_not_read() -> None:
    run = Run(to=EVE.public)
    with pytest.raises(HandshakeError, match="authentication"):
        run.read(run.offer().message)


def test_only_the_holder_of_the_static_key_can_speak_for_a_peer() -> None:
    claims_to_be_alice = Identity.create(os.urandom)
    claims_to_be_alice.public = ALICE.public
    run = Run(initiator=claims_to_be_alice)
    with pytest.raises(HandshakeError, match="authentication"):
        run.read(run.offer().message)


@pytest.mark.parametrize("pairing", [(b"a" * 32, b"b" * 32), (b"a" * 32, None), (None, b"b" * 32)])
def test_pairing_secrets_that_differ(pairing: tuple[bytes | None, bytes | None]) -> None:
    ours, theirs = (None if secret is None else Secret(secret) for secret in pairing)
    run = Run(pairing_i=ours, pairing_r=theirs)
    with pytest.raises(HandshakeError, match="authentication"):
        run.read(run.offer().message)


def test_the_same_pairing_secret() -> None:
    ours, theirs = Run(pairing_i=Secret(b"a" * 32), pairing_r=Secret(b"a" * 32)).whole()
    assert ours.keys.psk == theirs.keys.psk


def test_suite_and_exchange_id_are_part_of_the_transcript() -> None:
    run = Run()
    body = run.offer().message
    with pytest.raises(HandshakeError, match="authentication"):
        run.read(body, suite=SUITES[2])
    with pytest.raises(HandshakeError, match="authentication"):
        run.read(body, exchange=bytes(16))


def field_offsets(sizes: tuple[int, ...], total: int) -> list[int]:
    """First, middle and last byte of every field, and of what follows them."""
    offsets, at = [], 0
    for size in (*sizes, total - sum(sizes)):
        offsets += [at, at + size // 2, at + size - 1]
        at += size
    return offsets


def test_a_bit_flipped_anywhere_in_message_1_is_noticed() -> None:
    run = Run()
    body = run.offer().message
    for at in field_offsets(init_sizes(SUITE), len(body)):
        flipped = bytearray(body)
        flipped[at] ^= 0x40
        with pytest.raises(HandshakeError):
            run.read(bytes(flipped))


def test_a_bit_flipped_anywhere_in_message_2_is_noticed_and_does_no_harm() -> None:
    run = Run()
    initiator = run.offer()
    body, theirs = run.respond(run.read(initiator.message))
    for at in field_offsets(response_sizes(SUITE), len(body) - 16):
        flipped = bytearray(body)
        flipped[at] ^= 0x40
        with pytest.raises(HandshakeError, match="authentication"):
            run.finish(initiator, bytes(flipped))
    _, ours = run.finish(initiator, body)
    assert ours is not None
    assert theirs is not None
    assert ours.keys.psk == theirs.keys.psk


@pytest.mark.parametrize("change", [-1, 1])
def test_other_lengths_are_refused(change: int) -> None:
    run = Run()
    initiator = run.offer()
    body, _ = run.respond(run.read(initiator.message))

    def resize(data: bytes) -> bytes:
        return data[:change] if change < 0 else data + b"\0"

    with pytest.raises(HandshakeError):
        run.read(resize(initiator.message))
    with pytest.raises(HandshakeError):
        run.finish(initiator, resize(body))


def test_a_low_order_ephemeral_key_is_refused() -> None:
    run = Run()
    body = run.offer().message
    with pytest.raises(HandshakeError, match="low order"):
        run.read(bytes(32) + body[32:])


def test_an_unusable_public_file_is_named() -> None:
    broken = replace(BOB.public, x25519=bytes(32))
    with pytest.raises(HandshakeError, match="peer-key"):
        Run(to=broken).offer()


def test_the_response_to_one_exchange_does_not_fit_another() -> None:
    run = Run()
    one, other = run.offer(), run.offer()
    body, _ = run.respond(run.read(one.message))
    with pytest.raises(HandshakeError, match="authentication"):
        run.finish(other, body)


def test_no_error_shows_a_key() -> None:
    run = Run(key_i=b"SECRETKEY" * 3 + b"12345", key_r=b"\x08" * 32)
    initiator = run.offer()
    body, _ = run.respond(run.read(initiator.message))
    with pytest.raises(HandshakeError) as caught:
        run.finish(initiator, body)
    assert "SECRETKEY" not in str(caught.value)
    assert "SECRETKEY" not in repr(caught.value)
