"""Suites of other and of several KEMs, and the combiner of ETSI TS 103 744: whole exchanges, with real keys."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from qtunnel.crypto import kem_liboqs
from qtunnel.crypto.catkdf import catkdf, format_context
from qtunnel.crypto.kdf import Label
from qtunnel.crypto.kem import KEMS, ML_KEM_768, ML_KEM_1024, Kem
from qtunnel.crypto.kem_set import LARGEST_EPHEMERAL, KemSet, find_kem
from qtunnel.errors import ConfigError, HandshakeError
from qtunnel.handshake import transcript
from qtunnel.handshake.fragments import FEW_FRAGMENTS, MAX_MESSAGE, MAX_PAYLOAD, Fragment, MessageType
from qtunnel.handshake.messages import (
    Answer,
    Verdict,
    check_fits,
    check_length,
    init_sizes,
    largest,
    response_sizes,
)
from qtunnel.handshake.responder import Responder
from qtunnel.handshake.suites import SUITES, Combiner, Suite, SuitesInUse, find_suite
from qtunnel.identity import Identity
from qtunnel.secret import Secret
from tests.docs_tables import Document
from tests.handshake.test_exchange import POLICY, Run

CHACHA = "chacha20-poly1305"
COMBINATIONS = [
    ["hqc-128"],
    ["frodokem-640-shake"],
    ["sntrup761"],
    ["hqc-256", "ml-kem-1024"],
    ["frodokem-1344-shake", "ml-kem-1024"],
    ["classic-mceliece-348864", "ml-kem-768"],
    ["hqc-128", "ml-kem-768", "sntrup761"],
]


@functools.cache
def identities(*names: str) -> tuple[Identity, Identity]:
    kems = [find_kem(name) for name in names]
    return Identity.create(os.urandom, kems), Identity.create(os.urandom, kems)


def run_of(names: Sequence[str], combiner: Combiner = "hkdf") -> Run:
    alice, bob = identities(*names)
    suite = find_suite([find_kem(name) for name in names], CHACHA, combiner)
    check_fits(suite)
    return Run(suite=suite, initiator=alice, responder=bob, to=bob.public, known=(alice.public,))


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("combiner", ["hkdf", "catkdf"])
def test_both_ends_get_the_same(names: list[str], combiner: Combiner, liboqs: None) -> None:
    run = run_of(names, combiner)
    initiator = run.offer()
    body, theirs = run.respond(run.read(initiator.message))
    _, ours = run.finish(initiator, body)
    assert ours is not None
    assert theirs is not None
    assert ours.keys.psk == theirs.keys.psk
    assert ours.keys.chain == theirs.keys.chain
    assert (ours.commit, ours.committed) == (theirs.commit, theirs.committed)
    for kind, message in ((MessageType.INIT, initiator.message), (MessageType.RESPONSE, body)):
        assert len(message) <= largest(run.suite, kind) <= MAX_MESSAGE


def test_catkdf_with_ml_kem_alone() -> None:
    suite = find_suite([ML_KEM_1024], CHACHA, "catkdf")
    ours, theirs = Run(suite=suite).whole()
    assert ours.keys.psk == theirs.keys.psk
    assert suite.id not in SUITES


def test_catkdf_is_over_the_ephemeral_secrets_and_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/protocol.md, section 4.7, computed again from what the exchange had."""
    suite = find_suite([ML_KEM_1024], CHACHA, "catkdf")
    seen: list[tuple[bytes, list[bytes]]] = []
    kept: list[bytes] = []

    def spy(psk: Secret, secrets: list[Secret], label: bytes, context: bytes, size: int, algorithm: object) -> Secret:
        seen.append((label, [bytes(one.reveal()) for one in (psk, *secrets)]))
        assert context == format_context(hashes.SHA512(), expected_info(run, h[-1]), initiator.message, kept[-1])
        return catkdf(psk, secrets, label, context, size, hashes.SHA512())

    h: list[bytes] = []
    finish = transcript.finish

    def watch(state: object, *arguments: object) -> object:
        h.append(state.h)  # type: ignore[attr-defined]
        kept.append(arguments[-1][1])  # type: ignore[index]
        return finish(state, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(transcript, "catkdf", spy)
    monkeypatch.setattr(transcript, "finish", watch)
    run = Run(suite=suite)
    initiator = run.offer()
    body, theirs = run.respond(run.read(initiator.message))
    _, ours = run.finish(initiator, body)
    assert kept == [body, body]
    labels = [Label.EPOCH_PSK.value, Label.EPOCH_CHAIN.value]
    assert [label for label, _ in seen] == labels * 2
    assert seen[0][1] == seen[2][1]
    assert [len(one) for one in seen[0][1]] == [64, 32, 32]  # ck, X25519, ML-KEM
    assert ours is not None
    assert theirs is not None


def expected_info(run: Run, h: bytes) -> bytes:
    refs = b"".join(len(part).to_bytes(4, "big") + part for part in (b"metro", b"2f9c"))
    ids = run.initiator.public.id + run.responder.public.id
    return run.suite.id.to_bytes(2, "big") + ids + run.epoch.to_bytes(8, "big") + h + refs


def test_the_combiners_give_different_keys_and_do_not_understand_each_other() -> None:
    plain, combined = Run(suite=SUITES[1]), Run(suite=find_suite([ML_KEM_1024], CHACHA, "catkdf"))
    with pytest.raises(HandshakeError, match="not made for this identity"):
        combined.read(plain.offer().message)


class Known:
    """A KEM that somebody has broken: the secret is all zero, whatever the keys. Sizes are those of the real one."""

    def __init__(self, *broken: str) -> None:
        self._broken = broken

    def __call__(self, kem: Kem, public: bytes) -> tuple[bytes, Secret]:
        ciphertext, secret = kem.encapsulate(public)
        return ciphertext, Secret(bytes(len(secret))) if kem.name in self._broken else secret


@pytest.mark.parametrize("combiner", ["hkdf", "catkdf"])
def test_either_kem_alone_protects(combiner: Combiner) -> None:
    """Whoever knows all secrets of one KEM and everything else that is mixed still lacks those of the other."""
    suite = find_suite([ML_KEM_1024, ML_KEM_768], CHACHA, combiner)
    mixed: list[list[bytes]] = []
    original = transcript.mix_kem

    def watch(state: object, ciphertext: bytes, secrets: list[Secret]) -> None:
        mixed.append([bytes(secret.reveal()) for secret in secrets])
        original(state, ciphertext, secrets)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcript, "mix_kem", watch)
        ours, theirs = Run(suite=suite).whole()
    assert ours.keys.psk == theirs.keys.psk
    assert len(mixed) == 6  # three of each end
    assert all(len(secrets) == 2 and secrets[0] != secrets[1] for secrets in mixed)

    for broken in (ML_KEM_1024.name, ML_KEM_768.name):
        # the responder's secrets of one KEM are known; the initiator, who opens the real ones, does not arrive there
        run = Run(suite=suite)
        initiator = run.offer()
        responder = run.read(initiator.message)
        answer_body = respond_with(run, responder, Known(broken))
        with pytest.raises(HandshakeError, match="authentication"):
            run.finish(initiator, answer_body)


def respond_with(run: Run, responder: Responder, encapsulate: Known) -> bytes:
    answer = Answer(Verdict.ACCEPTED, run.epoch, POLICY, 0, None, (0,), "")
    keys = [(run.refs[0], Secret(run.key_r))]
    body, _ = responder.respond(answer, None, keys, os.urandom, encapsulate=encapsulate)
    return body


def test_a_set_of_one_kem_is_what_that_kem_was() -> None:
    for suite in SUITES.values():
        (kem,) = suite.kem.kems
        assert (suite.kem.name, suite.kem.noise_name) == (kem.name, kem.noise_name)
        assert suite.kem.public_key_size == kem.public_key_size
        assert suite.kem.ciphertext_size == suite.kem.ephemeral_ciphertext_size == kem.ciphertext_size
        assert find_suite([kem], suite.aead.name) is suite


def test_numbers_and_names() -> None:
    both = find_suite([ML_KEM_1024, ML_KEM_768], CHACHA)
    assert both == find_suite([ML_KEM_768, ML_KEM_1024], CHACHA), "their order in the file does not matter"
    assert both.protocol_name == b"QTunnel_IKpsk2+pqIK_25519+MLKEM1024+MLKEM768_ChaChaPoly_SHA512"
    assert both.name == "ml-kem-1024+ml-kem-768+chacha20-poly1305"
    catkdf_too = find_suite([ML_KEM_1024, ML_KEM_768], CHACHA, "catkdf")
    assert catkdf_too.protocol_name == both.protocol_name + b"_CatKDF"
    assert catkdf_too.name == both.name + "+catkdf"
    assert len({both.id, catkdf_too.id, find_suite([ML_KEM_1024, ML_KEM_768], "aes-256-gcm").id}) == 3
    assert all(0x8000 <= one.id <= 0xFFFF for one in (both, catkdf_too))


def test_sets_that_make_no_suite(liboqs: None) -> None:
    with pytest.raises(ConfigError, match="names ml-kem-1024 twice"):
        find_suite([ML_KEM_1024, ML_KEM_1024], CHACHA)
    with pytest.raises(ConfigError, match=r"public keys of 261,120 bytes; .* \[classic-mceliece-348864, ml-kem-1024\]"):
        find_suite([find_kem("classic-mceliece-348864")], CHACHA)
    frodo = [find_kem("frodokem-1344-aes"), find_kem("frodokem-1344-shake")]
    with pytest.raises(ConfigError, match=r"takes [\d,]+ bytes in one message of the handshake, which holds 65,535"):
        check_fits(find_suite(frodo, CHACHA))
    with pytest.raises(KeyError):
        find_suite([ML_KEM_1024], "rot13")


def test_a_peer_without_a_key_of_the_kem_is_refused_by_name(liboqs: None) -> None:
    """Of another peer's suite: the public file of the one who speaks has no such key."""
    run = run_of(["hqc-128"])
    eve = Identity.create(os.urandom, [find_kem("hqc-128")])
    poor = replace(eve.public, kem={name: key for name, key in eve.public.kem.items() if name != "hqc-128"})
    poor.__dict__["id"] = eve.public.id
    message = replace(run, initiator=eve).offer().message
    with pytest.raises(HandshakeError, match="has no hqc-128 key for suite"):
        replace(run, known=(poor,)).read(message)


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_forged_messages_are_not_authentic_and_change_nothing(names: list[str], liboqs: None) -> None:
    """Whether the KEM rejects a ciphertext by another secret or in so many words."""
    run = run_of(names)
    other = Identity.create(os.urandom, [find_kem(name) for name in names])
    initiator = run.offer()
    with pytest.raises(HandshakeError, match="authentication: message 1 was not made for this identity"):
        replace(run, responder=other).read(initiator.message)
    ekem, ct1, _ = init_sizes(run.suite)[1:]
    for at in (32, 32 + ekem - 1, 32 + ekem, 32 + ekem + ct1 - 1):
        changed = bytearray(initiator.message)
        changed[at] ^= 1
        with pytest.raises(HandshakeError, match="authentication"):
            run.read(bytes(changed))
    body, theirs = run.respond(run.read(initiator.message))
    _, ct2, ct3 = response_sizes(run.suite)
    for at in (32, 32 + ct2 - 1, 32 + ct2, 32 + ct2 + ct3 - 1):
        changed = bytearray(body)
        changed[at] ^= 1
        with pytest.raises(HandshakeError, match="authentication: message 2 is not from this peer"):
            run.finish(initiator, bytes(changed))
    _, ours = run.finish(initiator, body)
    assert ours is not None
    assert theirs is not None
    assert ours.keys.psk == theirs.keys.psk


def fragment(suite: Suite, length: int, kind: MessageType = MessageType.INIT) -> Fragment:
    return Fragment(kind, suite.id, bytes(16), 0, -(-length // MAX_PAYLOAD), length, bytes(MAX_PAYLOAD))


def test_long_messages_only_of_suites_that_take_them() -> None:
    big = Suite(0x9000, KemSet((replace(ML_KEM_1024, name="big", public_key_size=20_000),)), SUITES[1].aead)
    most, few = largest(big, MessageType.INIT), FEW_FRAGMENTS * MAX_PAYLOAD
    assert most > few > largest(SUITES[1], MessageType.INIT)
    check_length(None, fragment(big, few))
    check_length(big, fragment(big, most))
    with pytest.raises(HandshakeError, match="suite: the sender uses suite 36864, which no peer is configured for"):
        check_length(None, fragment(big, few + 1))
    with pytest.raises(HandshakeError, match="malformed: longer than any message 1 of suite big"):
        check_length(big, fragment(big, most + 1))
    with pytest.raises(HandshakeError, match="malformed"):
        check_length(SUITES[1], fragment(SUITES[1], few + 1))
    with pytest.raises(HandshakeError, match="malformed: longer than any message 2"):
        check_length(big, fragment(big, few + 1, MessageType.RESPONSE))


def test_suites_in_use() -> None:
    use = SuitesInUse()
    one = find_suite([ML_KEM_1024, ML_KEM_768], CHACHA)
    other = replace(find_suite([ML_KEM_1024], CHACHA, "catkdf"), id=one.id)  # by chance the same number
    assert use.get(1) is SUITES[1]
    assert use.get(one.id) is None
    use.set("a", one)
    assert use.get(one.id) is one
    use.set("b", SUITES[2])
    use.set("c", other)
    assert use.get(one.id) is one
    use.set("a", SUITES[1])
    assert use.get(one.id) is other
    use.forget("c")
    use.forget("nobody")
    assert use.get(one.id) is None
    assert use.get(4) is SUITES[4]


def test_sizes_of_fields(liboqs: None) -> None:
    suite = find_suite([find_kem("classic-mceliece-348864"), find_kem("hqc-256")], CHACHA)
    assert init_sizes(suite) == (32, 7245, 96 + 14421, 80)
    assert response_sizes(suite) == (32, 14421, 96 + 14421)


def test_the_document_has_the_sizes_of_the_library(liboqs: None) -> None:
    """docs/protocol.md, section 4.9."""
    rows = Document(Path(__file__).parents[2] / "docs" / "protocol.md").table("4.9", "KEM of liboqs").rows
    assert {row["KEM of liboqs"] for row in rows} == set(kem_liboqs.names()) - {"ml-kem-512", *KEMS}
    for row in rows:
        kem = find_kem(row["KEM of liboqs"])
        ephemeral = kem.public_key_size <= LARGEST_EPHEMERAL
        sizes = (kem.public_key_size, kem.ciphertext_size)
        assert (int(row["public key"]), int(row["ciphertext"]), row["ephemeral"] == "yes") == (*sizes, ephemeral)
        for column, kems in (("fits alone", [kem]), ("with ml-kem-1024", [kem, ML_KEM_1024])):
            try:
                check_fits(find_suite(kems, CHACHA))
                fits = True
            except ConfigError:
                fits = False
            assert (row[column] == "yes") == fits, row
