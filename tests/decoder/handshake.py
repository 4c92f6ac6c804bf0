"""Sections 3 and 4 of docs/protocol.md: datagrams, fragments, the four messages, the keys of the epoch."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt
from nacl.exceptions import CryptoError

from tests.decoder.contents import Answer, Key, MalformedError, Offer, read_answer, read_offer
from tests.decoder.pcap import Datagram
from tests.decoder.primitives import (
    SUITES,
    Disclosed,
    Identity,
    Suite,
    agree,
    expand,
    frame,
    hkdf,
    hmac512,
    label,
    sha512,
)

VERSION = 2
INIT, RESPONSE, COMMIT, COMMITTED, COOKIE = 1, 2, 3, 4, 5
HEADER, MAC, PAYLOAD = 24, 16, 1176


class State:
    """Section 4.1."""

    def __init__(self, suite: Suite) -> None:
        name = suite.name.encode()
        self.suite, self.k, self.n = suite, b"", 0
        self.h = self.ck = name.ljust(64, b"\x00") if len(name) <= 64 else sha512(name)

    def mix_hash(self, content: bytes) -> None:
        self.h = sha512(self.h + content)

    def mix_key(self, material: bytes) -> None:
        out = hkdf(self.ck, material, 128)
        self.ck, self.k, self.n = out[:64], out[64:96], 0

    def mix_key_and_hash(self, material: bytes) -> None:
        out = hkdf(self.ck, material, 192)
        self.mix_hash(out[64:128])
        self.ck, self.k, self.n = out[:64], out[128:160], 0

    def open(self, sealed: bytes) -> bytes:
        plain = self.suite.opened(self.k, self.n, sealed, self.h)
        self.n += 1
        self.mix_hash(sealed)
        return plain


@dataclass
class Exchange:
    """One exchange, as far as it was captured. psk, chain_id, transcript (h after step 25): where it was accepted."""

    id: bytes
    suite: Suite
    initiator: Identity
    responder: Identity
    offer: Offer
    datagrams: dict[int, int] = field(default_factory=dict)
    """How many of each type came, retransmissions counted."""
    answer: Answer | None = None
    psk: bytes = b""
    chain_id: bytes = b""
    transcript: bytes = b""
    confirmed: list[int] = field(default_factory=list)
    """Types of the confirmations seen, each as it has to be: 3, 4."""

    @property
    def keys(self) -> list[Key]:
        """The QKD keys in the epoch."""
        return [self.offer.keys[index] for index in self.answer.accepted] if self.answer else []


@dataclass
class _Underway:
    exchange: Exchange
    state: State
    e_i: bytes
    ekem: bytes
    body: bytes
    answer_body: bytes = b""
    confirmations: dict[int, bytes] = field(default_factory=dict)


class Handshakes:
    """Feed it the datagrams of the handshake's port in order; ``exchanges`` is what they say.

    MalformedError and InvalidTag are raised at the first datagram that is not as the document has it.
    """

    def __init__(self, disclosed: Disclosed) -> None:
        self._disclosed = disclosed
        self._partial: dict[tuple[object, ...], dict[int, bytes]] = {}
        self._mac1: dict[tuple[bytes, int], list[bytes]] = {}
        self._cookies: set[bytes] = set()
        self._underway: dict[bytes, _Underway] = {}
        self._chains = dict(disclosed.chains)
        self.exchanges: list[Exchange] = []
        self.cookies = 0

    def feed(self, datagram: Datagram) -> None:
        content = datagram.payload
        if len(content) == 80 and content[0] == COOKIE:
            self._cookie(content)
            return
        if not 57 <= len(content) <= 1232:
            raise MalformedError(f"a datagram of {len(content)} bytes")
        kind, version, number, index, count, length = struct.unpack_from(">BBHBBH", content)
        exchange_id, payload = content[8:HEADER], content[HEADER : -2 * MAC]
        if version != VERSION or number not in SUITES or kind not in (INIT, RESPONSE, COMMIT, COMMITTED):
            raise MalformedError(f"type {kind}, version {version}, suite {number}")
        if count != -(-length // PAYLOAD) or index >= count or len(payload) != min(PAYLOAD, length - index * PAYLOAD):
            raise MalformedError(f"fragment {index} of {count}, {length} bytes in all, has {len(payload)}")
        receiver = self._receiver(kind, exchange_id, content)
        held = self._partial.setdefault((datagram.source, exchange_id, kind, number, count, length), {})
        if held.setdefault(index, payload) != payload:
            raise MalformedError("a retransmission has other bytes")
        if len(held) == count:
            body = b"".join(held[at] for at in range(count))
            self._message(kind, exchange_id, SUITES[number], receiver, body)
        if (underway := self._underway.get(exchange_id)) is not None:
            told = underway.exchange.datagrams
            told[kind] = told.get(kind, 0) + (1 if told or kind != INIT else len(held))

    def _receiver(self, kind: int, exchange_id: bytes, content: bytes) -> Identity:
        covered, mac1, mac2 = content[: -2 * MAC], content[-2 * MAC : -MAC], content[-MAC:]
        for identity in self._disclosed.identities:
            if hmac512(sha512(label("handshake/mac1") + identity.id)[:32], covered)[:MAC] == mac1:
                break
        else:
            raise MalformedError("mac1 is for nobody known")
        if any(mac2) and not (
            kind == INIT and any(hmac512(cookie, covered + mac1)[:MAC] == mac2 for cookie in self._cookies)
        ):
            raise MalformedError("mac2 is of no cookie that was seen")
        if kind == INIT:
            self._mac1.setdefault((exchange_id, content[4]), []).append(mac1)
        return identity

    def _cookie(self, content: bytes) -> None:
        """Section 3.4."""
        version, number, index, reserved = struct.unpack_from(">xBHB3s", content)
        if version != VERSION or number not in SUITES or any(reserved):
            raise MalformedError("a cookie reply's header")
        for mac1 in self._mac1.get((content[8:24], index), []):
            for identity in self._disclosed.identities:
                key = sha512(label("handshake/cookie") + identity.id)[:32]
                try:
                    cookie = crypto_aead_xchacha20poly1305_ietf_decrypt(content[48:], mac1, content[24:48], key)
                except CryptoError:
                    continue
                self._cookies.add(cookie)
                self.cookies += 1
                return
        raise MalformedError("a cookie reply that answers nothing seen")

    def _message(self, kind: int, exchange_id: bytes, suite: Suite, receiver: Identity, body: bytes) -> None:
        underway = self._underway.get(exchange_id)
        if kind == INIT:
            if underway is None:
                self._init(exchange_id, suite, receiver, body)
            elif underway.body != body:
                raise MalformedError("another message 1 under the same exchange id")
            return
        if underway is None:
            raise MalformedError(f"a message {kind} whose message 1 was not seen")
        if suite != underway.exchange.suite:
            raise MalformedError(f"a message {kind} of another suite")
        if receiver is not (underway.exchange.responder if kind == COMMIT else underway.exchange.initiator):
            raise MalformedError(f"a message {kind} for the wrong end")
        if kind == RESPONSE:
            if not underway.answer_body:
                self._response(underway, body)
            elif underway.answer_body != body:
                raise MalformedError("another message 2 in the same exchange")
        elif body != underway.confirmations.get(kind):
            raise MalformedError(f"message {kind} does not confirm the exchange")
        elif kind not in underway.exchange.confirmed:
            underway.exchange.confirmed.append(kind)

    def _init(self, exchange_id: bytes, suite: Suite, responder: Identity, body: bytes) -> None:
        """Steps 1 to 15 of section 4.2, as the responder reads them."""
        fields, offer = _cut(body, 32, suite.public_size, suite.ciphertext_size, 80)
        e_i, ekem, ct1, sealed_id = fields
        state = State(suite)
        state.mix_hash(label("handshake/prologue") + struct.pack(">BH", VERSION, suite.number) + exchange_id)
        state.mix_hash(responder.public["x25519"])
        state.mix_hash(responder.public[suite.kem])
        state.mix_hash(e_i)
        state.mix_hash(ekem)
        state.mix_key(agree(responder.x25519, e_i))
        state.mix_hash(ct1)
        state.mix_key(responder.kems[suite.kem].decapsulate(ct1))
        identity = state.open(sealed_id)
        initiator = next((one for one in self._disclosed.identities if one.id == identity), None)
        if initiator is None:
            raise MalformedError("an initiator that is not known")
        state.mix_hash(initiator.public["x25519"])
        state.mix_hash(initiator.public[suite.kem])
        state.mix_key(agree(responder.x25519, initiator.public["x25519"]))
        if self._disclosed.pairing is not None:
            state.mix_key_and_hash(self._disclosed.pairing)
        exchange = Exchange(exchange_id, suite, initiator, responder, read_offer(state.open(offer)))
        self._underway[exchange_id] = _Underway(exchange, state, e_i, ekem, body)
        self.exchanges.append(exchange)

    def _response(self, underway: _Underway, body: bytes) -> None:
        """Steps 16 to 25, as the initiator reads them, and section 4.7."""
        exchange, state = underway.exchange, underway.state
        suite, size = exchange.suite, exchange.suite.ciphertext_size
        (e_r, ct2, ct3), rest = _cut(body, 32, size, size)
        ephemeral, kem = self._disclosed.curves.get(underway.e_i), self._disclosed.kems.get(underway.ekem)
        if ephemeral is None or kem is None:
            raise MalformedError("the initiator's ephemeral keys were not disclosed")
        state.mix_hash(e_r)
        state.mix_key(agree(ephemeral, e_r))
        state.mix_key(agree(exchange.initiator.x25519, e_r))
        state.mix_hash(ct2)
        state.mix_key(kem.decapsulate(ct2))
        state.mix_hash(ct3)
        state.mix_key(exchange.initiator.kems[suite.kem].decapsulate(ct3))
        exchange.answer = answer = read_answer(state.open(rest[:-16]), exchange.offer)
        underway.answer_body = body
        chain = self._chains[answer.chain] if answer.chain else b""
        names = [(source.encode(), key_id.encode()) for source, key_id, _ in exchange.keys]
        bits = [self._disclosed.qkd_keys[source, key_id] for source, key_id, _ in exchange.keys]
        fields = [part for (source, key_id), key in zip(names, bits, strict=True) for part in (source, key_id, key)]
        state.mix_key_and_hash(frame(label("handshake/psk-frames"), chain, *fields))
        if state.open(rest[-16:]):
            raise MalformedError("a proof with contents")
        if answer.verdict == "ACCEPTED":
            self._epoch(underway, [part for pair in names for part in pair])

    def _epoch(self, underway: _Underway, names: Sequence[bytes]) -> None:
        exchange, state = underway.exchange, underway.state
        if exchange.answer is None or exchange.answer.epoch != exchange.offer.epoch:
            raise MalformedError("accepted, but for another epoch")
        number = struct.pack(">Q", exchange.offer.epoch)
        context = struct.pack(">H", exchange.suite.number) + exchange.initiator.id + exchange.responder.id + number
        context += state.h + frame(*names)
        exchange.psk = expand(state.ck, "epoch/psk", context, 32)
        chain = expand(state.ck, "epoch/chain", context, 64)
        exchange.chain_id = expand(chain, "epoch/chain-id", number, 16)
        self._chains[exchange.chain_id] = chain
        exchange.transcript = state.h
        keys = hkdf(state.ck, b"", 128)
        for kind, key in ((COMMIT, keys[:32]), (COMMITTED, keys[64:96])):
            sealed = exchange.suite.cipher(key).encrypt(exchange.suite.nonce(0), number, state.h)
            underway.confirmations[kind] = sealed


def _cut(body: bytes, *sizes: int) -> tuple[list[bytes], bytes]:
    """Fields of these sizes, and what is left of a body."""
    fields = []
    for size in sizes:
        field, body = body[:size], body[size:]
        if len(field) != size:
            raise MalformedError("a message is too short")
        fields.append(field)
    return fields, body
