"""The messages of the handshake: what is inside, datagrams, and both ends of an exchange with known keys."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

from qtunnel.crypto import dh
from qtunnel.crypto.kem import Kem
from qtunnel.crypto.noise import SymmetricState
from qtunnel.errors import HandshakeError
from qtunnel.handshake import transcript
from qtunnel.handshake.cookies import CookieReply
from qtunnel.handshake.fragments import (
    MAX_DATAGRAM,
    PARTIAL_BYTES,
    PARTIALS_PER_SOURCE,
    Message,
    MessageType,
    Reassembler,
    cut,
    mac,
    mac1_key,
    parse,
)
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import (
    CHAIN_ID_SIZE,
    MIN_OFFER,
    Answer,
    ChainRef,
    Offer,
    Verdict,
    decode_answer,
    decode_offer,
    encode_answer,
    encode_offer,
    init_sizes,
    parse_init,
)
from qtunnel.handshake.responder import KnownPeer, Responder
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from qtunnel.secret import Secret
from qtunnel.terms import ChainPolicy, Inventory, KeyRef, Policy, QkdPolicy
from tests.fuzz.draw import Draw, spoiled
from tests.fuzz.target import Target, say

_rng = random.Random(11)
ALICE, BOB = (Identity.create(_rng.randbytes) for _ in range(2))
SUITE = SUITES[4]
EXCHANGE = bytes(range(16))
POLICY = Policy(QkdPolicy.PREFERRED)
REFS = tuple(KeyRef(f"source-{number}", f"key-{number}", 32) for number in range(3))
KEYS = {ref: Secret(bytes([number]) * 32) for number, ref in enumerate(REFS)}
CHAIN_ID, CHAIN = bytes(range(CHAIN_ID_SIZE)), Secret(b"\x09" * 64)
OFFER = Offer(bytes(12), 5, POLICY, 0, (ChainRef(4, CHAIN_ID),), REFS)
KEY = mac1_key(BOB.public.id)


def draw_text(draw: Draw) -> str:
    """What a text of a message may hold."""
    return draw.choice(("metro", "a", "é" * 9, "x" * 255, draw.text(20))) or "b"


def draw_refs(draw: Draw, most: int) -> tuple[KeyRef, ...]:
    return tuple(KeyRef(draw_text(draw), draw_text(draw), draw.number(0, 65535)) for _ in range(draw.number(0, most)))


def draw_inventory(draw: Draw) -> Inventory:
    marks = tuple(draw.take(8) for _ in range(draw.number(0, 33)))
    return Inventory(draw.choice((bytes(8), b"store-01", draw.take(8))), draw_refs(draw, 5), marks)


def draw_policy(draw: Draw) -> Policy:
    return Policy(draw.choice(list(QkdPolicy)), draw.number(0, 255), draw.choice(list(ChainPolicy)))


def draw_offer(draw: Draw) -> bytes:
    """An offer, mostly a good one."""
    chains = tuple(ChainRef(draw.number(0, 2**64 - 1), draw.take(16)) for _ in range(draw.number(0, 3)))
    epoch = draw.choice((1, 5, 2**63 - 1, 2**62, draw.number(1, 2**63 - 1)))
    refs, capabilities = draw_refs(draw, 8), draw.number(0, 2**32 - 1)
    offer = Offer(draw.take(12), epoch, draw_policy(draw), capabilities, chains, refs, draw_inventory(draw))
    try:
        return encode_offer(offer)
    except ValueError:  # a text, or an inventory, that is too long
        return b""


def draw_answer(draw: Draw, verdict: Verdict | None = None) -> bytes:
    keys = tuple(sorted({draw.number(0, 3) for _ in range(draw.number(0, 4))}))
    chain = draw.choice((None, CHAIN_ID, draw.take(16)))
    verdict = draw.choice(list(Verdict)) if verdict is None else verdict
    epoch = draw.choice((5, 4, 0, 2**63 - 1))
    answer = Answer(
        verdict, epoch, draw_policy(draw), draw.number(0, 7), chain, keys, draw.text(300), draw_inventory(draw)
    )
    try:
        return encode_answer(answer)
    except ValueError:
        return b""


def _drawn(data: bytes, make: Callable[[Draw], bytes]) -> bytes:
    """From an input: itself, or what is made of it, perhaps spoiled."""
    if data[:1] < b"\x60":
        return data[1:]
    draw = Draw(data[1:])
    made = make(draw)
    return spoiled(draw, made) if draw.flag() else made


def offer(data: bytes) -> None:
    """What reads as an offer is written as the same bytes."""
    plain = _drawn(data, draw_offer)
    assert encode_offer(decode_offer(plain)) == plain


def answer(data: bytes) -> None:
    """What reads as an answer is written as the same bytes, and accepts only what was offered."""
    plain = _drawn(data[1:], draw_answer)
    offered = min(8, data[0] if data else 0)
    found = decode_answer(plain, offered)
    assert encode_answer(found) == plain
    assert all(index < offered for index in found.keys)
    assert found.verdict is Verdict.ACCEPTED or not (found.keys or found.chain)
    say(found.detail)


def datagrams(data: bytes) -> None:
    """Datagrams of a few messages, of which some are spoiled and have a right mac1 again, from a few sources: memory is
    bounded, the books are right, and what is put together is as long as it says."""
    draw = Draw(data)
    reassembler = Reassembler()
    stock = []
    for _ in range(draw.number(1, 3)):
        body = random.Random(draw.number(0, 3)).randbytes(draw.choice((1, 24, 1176, 1177, 3000, 9408, 65_535)))
        message = Message(draw.choice(list(MessageType)), draw.number(0, 5), draw.take(1).ljust(16, b"x"), body)
        stock.append(cut(message, KEY))
    now = 0.0
    while draw.left:
        whole = draw.choice(stock)
        datagram = whole[draw.number(0, 255) % len(whole)]
        if draw.flag(4):
            head = draw.take(8) if draw.flag() else spoiled(draw, datagram[:24], 2)
            inner = (head + datagram[len(head) : -32])[: MAX_DATAGRAM - 32]
            datagram = inner + mac(KEY, inner) + bytes(16)
        datagram = spoiled(draw, datagram, 1)
        now += draw.choice((0.0, 0.1, 11.0))
        try:
            fragment = parse(datagram, KEY)
        except HandshakeError as error:
            say(str(error))
            continue
        made = reassembler.add(draw.number(0, 2), fragment, now)
        assert made is None or len(made.body) == fragment.length
        held = reassembler._partials.values()
        assert reassembler._bytes == sum(partial.size for partial in held) <= PARTIAL_BYTES
        assert len(held) <= 3 * PARTIALS_PER_SOURCE
        assert sum(map(len, reassembler._by_source.values())) == len(held)


def frame(data: bytes) -> None:
    """One datagram, or a cookie reply: what is read is written as it was read."""
    with contextlib.suppress(HandshakeError):
        assert CookieReply.unpack(data).pack() == data
    inner = data[: MAX_DATAGRAM - 32]
    found = parse(inner + mac(KEY, inner) + bytes(16), KEY)
    assert len(found.payload) == len(inner) - 24
    if found.count == 1:
        again = cut(Message(found.type, found.suite, found.exchange, found.payload), KEY)
        assert again == [inner + mac(KEY, inner) + bytes(16)]


def _sealed_before_offer() -> tuple[bytes, SymmetricState]:
    """Message 1 of alice to bob as far as her offer, and the state there."""
    state = transcript.begin(SUITE, EXCHANGE, BOB.public)
    message = INITIATOR.message[: sum(init_sizes(SUITE))]
    its = parse_init(SUITE, message + bytes(MIN_OFFER))
    e = INITIATOR._e
    state.mix_hash(its.e)
    state.mix_hash(its.ekem)
    state.mix_key(e.exchange(BOB.public.x25519))
    transcript.mix_kem(state, its.ct1, SUITE.kem.decapsulate(BOB.kem, its.ct1))
    assert state.encrypt_and_hash(ALICE.public.id) == its.id
    transcript.mix_statics(state, SUITE, ALICE.public)
    state.mix_key(ALICE.dh.exchange(BOB.public.x25519))
    return message, state


def _sealed_before_answer() -> tuple[bytes, SymmetricState]:
    """Message 2 of bob to alice as far as his answer, and the state there."""
    responder = Responder(BOB, SUITE, EXCHANGE, INITIATOR.message, find)
    state = responder._state
    with Secret.random(_rng.randbytes, dh.KEY_SIZE) as private:
        e = dh.KeyPair(private)
    state.mix_hash(e.public)
    state.mix_key(e.exchange(responder._e_initiator))
    state.mix_key(e.exchange(ALICE.public.x25519))
    ct2, secrets = SUITE.kem.encapsulate_ephemeral(responder._ekem, Kem.encapsulate)
    transcript.mix_kem(state, ct2, secrets)
    ct3, secrets = SUITE.kem.encapsulate(ALICE.public.kem, Kem.encapsulate)
    transcript.mix_kem(state, ct3, secrets)
    return e.public + ct2 + ct3, state


def find(identity: bytes) -> KnownPeer | None:
    return KnownPeer(ALICE.public) if identity == ALICE.public.id else None


INITIATOR = Initiator(ALICE, BOB.public, SUITE, EXCHANGE, OFFER, _rng.randbytes)
BEFORE_OFFER, OFFER_STATE = _sealed_before_offer()
BEFORE_ANSWER, ANSWER_STATE = _sealed_before_answer()


def responder(data: bytes) -> None:
    """A message 1 that alice has made, with whatever offer, or one that is spoiled: bob reads the offer that she wrote,
    and can answer it."""
    draw = Draw(data)
    genuine = not draw.flag(8)
    plain = _drawn(draw.rest(), draw_offer) if genuine else encode_offer(OFFER)
    state = OFFER_STATE.fork()
    body = BEFORE_OFFER + state.encrypt_and_hash(plain)
    if not genuine:
        body = spoiled(draw, body)
    its = Responder(BOB, SUITE, EXCHANGE, body, find)
    assert its.offer == decode_offer(plain)
    chosen = [(ref, Secret(bytes(32))) for ref in its.offer.keys]
    reply = Answer(Verdict.ACCEPTED, its.offer.epoch, POLICY, 0, None, tuple(range(len(chosen))), "fine")
    message, sealed = its.respond(reply, None, chosen, random.Random(1).randbytes)
    assert sealed is not None
    assert (sealed.keys.epoch, sealed.keys.keys) == (its.offer.epoch, its.offer.keys)
    assert message


def initiator(data: bytes) -> None:
    """A message 2 that bob has made, with whatever answer, over whatever keys: alice has an epoch only where it is that
    of her offer, with keys and chain that she offered, and where both hold the same."""
    draw = Draw(data)
    accept = Verdict.ACCEPTED if draw.flag() else None
    same_keys, spoils = not draw.flag(4), draw.flag(8)
    plain = _drawn(draw.rest(), lambda its: draw_answer(its, accept))
    state = ANSWER_STATE.fork()
    body = BEFORE_ANSWER + state.encrypt_and_hash(plain)
    try:
        found = decode_answer(plain, len(REFS))
        keys = [(REFS[index], KEYS[REFS[index]] if same_keys else Secret(b"\xff" * 32)) for index in found.keys]
        transcript.mix_psk(state, CHAIN if found.chain is not None else None, keys)
    except HandshakeError:
        found = None
    body += state.encrypt_and_hash(b"")
    if spoils:
        body = spoiled(draw, body)
    read, sealed = INITIATOR.read_response(body, KEYS, {CHAIN_ID: CHAIN}, lambda answer: None)
    assert read == found
    assert (sealed is not None) == (read.verdict is Verdict.ACCEPTED)
    if sealed is not None:
        assert read.epoch == OFFER.epoch
        assert read.chain in (None, CHAIN_ID)
        assert same_keys or not read.keys


_REFUSED = (HandshakeError,)
TARGETS = {
    "offer": Target(offer, _REFUSED, 2048),
    "answer": Target(answer, _REFUSED, 1024),
    "datagrams": Target(datagrams, (), 512),
    "frame": Target(frame, _REFUSED, 96, (b"\5\2", b"\1\2\0\1\0\1\0\1")),
    "responder": Target(responder, _REFUSED, 1024),
    "initiator": Target(initiator, _REFUSED, 1024),
}
