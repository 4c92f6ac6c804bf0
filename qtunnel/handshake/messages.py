"""The encrypted payloads and the layouts of the four messages: tables, and codecs that accept exact lengths only."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from qtunnel.crypto.aead import TAG_SIZE
from qtunnel.errors import ConfigError, HandshakeError
from qtunnel.handshake.fragments import FEW_FRAGMENTS, MAX_MESSAGE, Fragment, MessageType
from qtunnel.handshake.suites import Suite
from qtunnel.identity import ID_SIZE
from qtunnel.terms import (
    CHAIN_REMEDY,
    MARK_SIZE,
    MAX_ANNOUNCED,
    MAX_ANNOUNCED_BYTES,
    MAX_MARKS,
    NOTHING,
    STORE_SIZE,
    ChainPolicy,
    Inventory,
    KeyRef,
    Policy,
    QkdPolicy,
)

MAX_KEYS = 8
"""QKD keys in one offer: one per source, and nobody has more sources than this towards one peer."""
MAX_CHAINS = 3
"""Chain epochs in one offer: one that may have been committed, and the two that were."""
CHAIN_ID_SIZE = 16
MAX_DETAIL = 200
"""Bytes of the words that go with an answer; enough for a KME's name and what it said."""
EPOCH_LIMIT = 1 << 63


class Verdict(IntEnum):
    """The answer to an offer: accepted, or why not."""

    ACCEPTED = 0
    QKD_REQUIRED = 1
    CHAIN_REQUIRED = 2
    STALE_EPOCH = 3
    BUSY = 4

    @property
    def words(self) -> str:
        return _VERDICT_WORDS[self]

    @property
    def reason(self) -> str:
        """One word, for events and tests."""
        return self.name.lower().replace("_", "-")


_VERDICT_WORDS = {
    Verdict.ACCEPTED: "accepted",
    Verdict.QKD_REQUIRED: "too few QKD keys for the policy of one end",
    Verdict.CHAIN_REQUIRED: f"no common chain secret, and the policy of one end requires one; {CHAIN_REMEDY}",
    Verdict.STALE_EPOCH: "the epoch offered is not newer than the one in place",
    Verdict.BUSY: "the peer is busy with an exchange of its own",
}


@dataclass(frozen=True, slots=True)
class ChainRef:
    """A chain secret's public name: the epoch that made it, and 16 bytes derived from it."""

    epoch: int
    id: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """What the initiator proposes. timestamp: TAI64N, 12 bytes; keys and chains in order of preference. inventory: of
    its keys for later."""

    timestamp: bytes
    epoch: int
    policy: Policy
    capabilities: int
    chains: tuple[ChainRef, ...]
    keys: tuple[KeyRef, ...]
    inventory: Inventory = NOTHING


@dataclass(frozen=True, slots=True)
class Answer:
    """What the responder says to it.

    epoch: that of the offer where accepted, else the newest that the responder knows. chain: id of the chain secret
    chosen, or None. keys: indices into the offer's keys, ascending, of those that the responder holds too. detail:
    words for people. inventory: of the responder's keys for later.
    """

    verdict: Verdict
    epoch: int
    policy: Policy
    capabilities: int
    chain: bytes | None = None
    keys: tuple[int, ...] = ()
    detail: str = ""
    inventory: Inventory = NOTHING


_OFFER = struct.Struct("!12sQBBBxI")  # timestamp, epoch, qkd, min_sources, chain policy, reserved 0, capabilities
_ANSWER = struct.Struct("!BQBBBxIB16s")  # verdict, epoch, qkd, min_sources, chain policy, 0, capabilities, has chain
_CHAIN = struct.Struct("!Q16s")
EPOCH = struct.Struct("!Q")  # the payload of commit and committed
_WITHDRAWS = 0x80  # in the number of marks: those of withdrawn keys follow


class _Reader:
    """Takes exact lengths from the front of a payload."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.at = data, what, 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise HandshakeError("malformed", f"{self.what} is too short")
        piece = self.data[self.at : self.at + size]
        self.at += size
        return piece

    def byte(self) -> int:
        return self.take(1)[0]

    def text(self, least: int, most: int) -> str:
        size = self.byte()
        if not least <= size <= most:
            raise HandshakeError("malformed", f"{self.what} has a text of {size} bytes")
        try:
            text = self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise HandshakeError("malformed", f"{self.what} has a text that is not UTF-8") from None
        if not text.isprintable():
            raise HandshakeError("malformed", f"{self.what} has a text with control characters")
        return text

    def end(self) -> None:
        if self.at != len(self.data):
            raise HandshakeError("malformed", f"{self.what} is {len(self.data) - self.at} bytes too long")


def _policy(qkd: int, min_sources: int, chain: int, what: str) -> Policy:
    try:
        return Policy(QkdPolicy(qkd), min_sources, ChainPolicy(chain))
    except ValueError:
        raise HandshakeError("malformed", f"{what} has an unknown policy") from None


def _zero(data: bytes, at: int, what: str) -> None:
    if data[at]:
        raise HandshakeError("malformed", f"{what} has a reserved byte that is not zero")


def _text(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def encode_offer(offer: Offer) -> bytes:
    """Bytes of an offer; raises ``ValueError`` for one that the format cannot hold."""
    if len(offer.keys) > MAX_KEYS or len(offer.chains) > MAX_CHAINS or not 0 < offer.epoch < EPOCH_LIMIT:
        raise ValueError("an offer holds at most 8 keys and 3 chains, and an epoch from 1 to 2^63 - 1")
    policy = offer.policy
    parts = [
        _OFFER.pack(offer.timestamp, offer.epoch, policy.qkd, policy.min_sources, policy.chain, offer.capabilities),
        bytes([len(offer.chains)]),
        *(_CHAIN.pack(chain.epoch, chain.id) for chain in offer.chains),
        bytes([len(offer.keys)]),
    ]
    parts += [*map(_encode_ref, offer.keys), _encode_inventory(offer.inventory)]
    return b"".join(parts)


def _encode_ref(ref: KeyRef) -> bytes:
    return _text(ref.source) + _text(ref.key_id) + ref.size.to_bytes(2, "big")


def _encode_inventory(its: Inventory) -> bytes:
    refs = b"".join(map(_encode_ref, its.announced))
    marks = len(its.held) + len(its.withdrawn)
    if len(its.announced) > MAX_ANNOUNCED or len(refs) > MAX_ANNOUNCED_BYTES or marks > MAX_MARKS:
        raise ValueError(f"an inventory holds at most {MAX_ANNOUNCED} announced keys and {MAX_MARKS} marks")
    held = bytes([len(its.held) | (_WITHDRAWS if its.withdrawn else 0)]) + b"".join(its.held)
    more = bytes([len(its.withdrawn)]) + b"".join(its.withdrawn) if its.withdrawn else b""
    return its.store + bytes([len(its.announced)]) + refs + held + more


def _decode_refs(reader: _Reader, most: int) -> tuple[KeyRef, ...]:
    count = reader.byte()
    if count > most:
        raise HandshakeError("malformed", f"{reader.what} has {count} keys")
    refs = tuple(
        KeyRef(reader.text(1, 255), reader.text(1, 255), int.from_bytes(reader.take(2), "big")) for _ in range(count)
    )
    if len(set(refs)) != len(refs) or any(ref.size == 0 for ref in refs):
        raise HandshakeError("malformed", f"{reader.what} names a key twice, or an empty one")
    return refs


def _decode_inventory(reader: _Reader) -> Inventory:
    store = reader.take(STORE_SIZE)
    announced = _decode_refs(reader, MAX_ANNOUNCED)
    if sum(ref.wire_size for ref in announced) > MAX_ANNOUNCED_BYTES:
        raise HandshakeError("malformed", f"{reader.what} announces more than {MAX_ANNOUNCED_BYTES} bytes of keys")
    count = reader.byte()
    more, count = count & _WITHDRAWS, count & ~_WITHDRAWS
    held = _decode_marks(reader, count, MAX_MARKS)
    number = reader.byte() if more else 0
    withdrawn = _decode_marks(reader, number, MAX_MARKS - count)
    if (more and not withdrawn) or (not any(store) and (announced or held or withdrawn)):
        raise HandshakeError("malformed", f"{reader.what} has keys in no store, or an empty list")
    return Inventory(store, announced, held, withdrawn)


def _decode_marks(reader: _Reader, count: int, most: int) -> tuple[bytes, ...]:
    if count > most:
        raise HandshakeError("malformed", f"{reader.what} has {count} marks")
    marks = tuple(reader.take(MARK_SIZE) for _ in range(count))
    if len(set(marks)) != len(marks):
        raise HandshakeError("malformed", f"{reader.what} has a mark twice")
    return marks


def decode_offer(data: bytes) -> Offer:
    """The offer; raises ``HandshakeError("malformed")``."""
    reader = _Reader(data, "offer")
    fixed = reader.take(_OFFER.size)
    timestamp, epoch, qkd, min_sources, chain_policy, capabilities = _OFFER.unpack(fixed)
    _zero(fixed, 23, "offer")
    if not 0 < epoch < EPOCH_LIMIT:
        raise HandshakeError("malformed", "offer has an epoch out of range")
    count = reader.byte()
    if count > MAX_CHAINS:
        raise HandshakeError("malformed", f"offer has {count} chains")
    chains = tuple(ChainRef(*_CHAIN.unpack(reader.take(_CHAIN.size))) for _ in range(count))
    keys = _decode_refs(reader, MAX_KEYS)
    inventory = _decode_inventory(reader)
    reader.end()
    policy = _policy(qkd, min_sources, chain_policy, "offer")
    return Offer(timestamp, epoch, policy, capabilities, chains, keys, inventory)


def clip(text: str) -> str:
    """``text`` as an answer can carry it: printable, at most 200 bytes of UTF-8."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean.encode()[:MAX_DETAIL].decode("utf-8", "ignore")


def encode_answer(answer: Answer) -> bytes:
    """Bytes of an answer."""
    policy = answer.policy
    fixed = _ANSWER.pack(
        answer.verdict,
        answer.epoch,
        policy.qkd,
        policy.min_sources,
        policy.chain,
        answer.capabilities,
        answer.chain is not None,
        answer.chain or bytes(CHAIN_ID_SIZE),
    )
    keys = bytes([len(answer.keys), *answer.keys])
    return fixed + keys + _text(clip(answer.detail)) + _encode_inventory(answer.inventory)


def decode_answer(data: bytes, keys_offered: int) -> Answer:
    """The answer to an offer of that many keys; raises ``HandshakeError("malformed")``."""
    reader = _Reader(data, "answer")
    fixed = reader.take(_ANSWER.size)
    verdict, epoch, qkd, min_sources, chain_policy, capabilities, has_chain, chain = _ANSWER.unpack(fixed)
    _zero(fixed, 12, "answer")
    try:
        known = Verdict(verdict)
    except ValueError:
        raise HandshakeError("malformed", f"answer has the unknown verdict {verdict}") from None
    if has_chain not in (0, 1) or (not has_chain and any(chain)) or epoch >= EPOCH_LIMIT:
        raise HandshakeError("malformed", "answer has a chain or epoch out of range")
    keys = tuple(reader.take(reader.byte()))
    if any(index >= keys_offered for index in keys) or list(keys) != sorted(set(keys)):
        raise HandshakeError("malformed", "answer accepts keys that were not offered, or not in order")
    if known is not Verdict.ACCEPTED and (keys or has_chain):
        raise HandshakeError("malformed", "answer refuses, and yet accepts keys or a chain")
    detail = reader.text(0, MAX_DETAIL)
    inventory = _decode_inventory(reader)
    reader.end()
    policy = _policy(qkd, min_sources, chain_policy, "answer")
    return Answer(known, epoch, policy, capabilities, chain if has_chain else None, keys, detail, inventory)


@dataclass(frozen=True, slots=True)
class Init:
    """Message 1: ``-> e, ekem, es, skem, {id_i}, ss, {offer}``."""

    e: bytes
    ekem: bytes
    ct1: bytes
    id: bytes
    offer: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """Message 2: ``<- e, ee, se, ekem, skem_i, {answer}, psk, {proof}``."""

    e: bytes
    ct2: bytes
    ct3: bytes
    answer: bytes
    proof: bytes


def init_sizes(suite: Suite) -> tuple[int, ...]:
    """Bytes of message 1's fields; the offer has what is left, at least its smallest."""
    return (32, suite.kem.public_key_size, suite.kem.ciphertext_size, ID_SIZE + TAG_SIZE)


def response_sizes(suite: Suite) -> tuple[int, ...]:
    """Bytes of message 2's fields; the answer has what is left before the proof."""
    return (32, suite.kem.ephemeral_ciphertext_size, suite.kem.ciphertext_size)


COMMIT_SIZE = EPOCH.size + TAG_SIZE
_MAX_REF = 2 * (1 + 255) + 2
MIN_INVENTORY = STORE_SIZE + 2
MAX_INVENTORY = MIN_INVENTORY + MAX_ANNOUNCED_BYTES + 1 + MAX_MARKS * MARK_SIZE
MIN_OFFER = _OFFER.size + 2 + MIN_INVENTORY + TAG_SIZE
MAX_OFFER = MIN_OFFER - MIN_INVENTORY + MAX_CHAINS * _CHAIN.size + MAX_KEYS * _MAX_REF + MAX_INVENTORY
MIN_ANSWER = _ANSWER.size + 2 + MIN_INVENTORY + TAG_SIZE
MAX_ANSWER = MIN_ANSWER - MIN_INVENTORY + MAX_KEYS + MAX_DETAIL + MAX_INVENTORY


def largest(suite: Suite, kind: MessageType) -> int:
    """Bytes of the longest message of that type."""
    if kind is MessageType.INIT:
        return sum(init_sizes(suite)) + MAX_OFFER
    return sum(response_sizes(suite)) + MAX_ANSWER + TAG_SIZE if kind is MessageType.RESPONSE else COMMIT_SIZE


def check_length(suite: Suite | None, fragment: Fragment) -> None:
    """See that a fragment's message is none longer than those of its suite, None where no peer has that; raises
    ``HandshakeError``."""
    if fragment.count <= FEW_FRAGMENTS:
        return  # as long as any may be; what is wrong with it shows when it is whole
    if suite is None:
        raise HandshakeError("suite", unknown_suite(fragment.suite))
    if fragment.length > largest(suite, fragment.type):
        raise HandshakeError("malformed", f"longer than any message {fragment.type.value} of suite {suite.name}")


def unknown_suite(number: int) -> str:
    """Words for a suite that nobody has here."""
    return f"the sender uses suite {number}, which no peer is configured for (kem, cipher, combiner)"


def check_fits(suite: Suite) -> None:
    """See that the messages of a suite are not longer than a message can be; raises ``ConfigError``."""
    size = max(largest(suite, kind) for kind in MessageType)
    if size > MAX_MESSAGE:
        raise ConfigError(
            f"{suite.kem.name} takes {size:,} bytes in one message of the handshake, which holds {MAX_MESSAGE:,}: "
            "leave a KEM out, or take one with smaller keys and ciphertexts"
        )


def _cut(body: bytes, sizes: Sequence[int], least: int, what: str) -> list[bytes]:
    if len(body) < sum(sizes) + least:
        raise HandshakeError("malformed", f"{what} is too short")
    pieces, at = [], 0
    for size in sizes:
        pieces.append(body[at : at + size])
        at += size
    return [*pieces, body[at:]]


def check_init_size(suite: Suite, body: bytes) -> None:
    """See that message 1 can be one by its length; raises ``HandshakeError("malformed")``."""
    fixed = sum(init_sizes(suite))
    if not fixed + MIN_OFFER <= len(body) <= fixed + MAX_OFFER:
        raise HandshakeError("malformed", f"message 1 is too {'long' if len(body) > fixed + MAX_OFFER else 'short'}")


def parse_init(suite: Suite, body: bytes) -> Init:
    """Cut message 1; raises ``HandshakeError("malformed")``."""
    check_init_size(suite, body)
    return Init(*_cut(body, init_sizes(suite), MIN_OFFER, "message 1"))


def parse_response(suite: Suite, body: bytes) -> Response:
    """Cut message 2; raises ``HandshakeError("malformed")``."""
    e, ct2, ct3, rest = _cut(body, response_sizes(suite), MIN_ANSWER + TAG_SIZE, "message 2")
    return Response(e, ct2, ct3, rest[:-TAG_SIZE], rest[-TAG_SIZE:])
