"""Sections 4.4, 4.5 and 4.8 of docs/protocol.md: what offers and answers say."""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tests.decoder.primitives import frame, sha512

Key = tuple[str, str, int]
"""Source, key_ID, and size in bytes."""
VERDICTS = ("ACCEPTED", "QKD_REQUIRED", "CHAIN_REQUIRED", "STALE_EPOCH", "BUSY")


class MalformedError(Exception):
    """A message has not the form that the document gives it."""


@dataclass(frozen=True)
class Policy:
    qkd: int
    min_sources: int
    chain: int


@dataclass(frozen=True)
class Inventory:
    store: bytes
    announced: Sequence[Key]
    marks: Sequence[bytes]


@dataclass(frozen=True)
class Offer:
    """``time``: of the timestamp, Unix time in nanoseconds."""

    time: int
    epoch: int
    policy: Policy
    capabilities: int
    chains: Sequence[tuple[int, bytes]]
    keys: Sequence[Key]
    inventory: Inventory


@dataclass(frozen=True)
class Answer:
    verdict: str
    epoch: int
    policy: Policy
    capabilities: int
    chain: bytes | None
    accepted: Sequence[int]
    detail: str
    inventory: Inventory


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._rest = content

    def take(self, size: int) -> bytes:
        if len(self._rest) < size:
            raise MalformedError("it is too short")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def number(self, size: int, most: int | None = None) -> int:
        value = int.from_bytes(self.take(size), "big")
        if most is not None and value > most:
            raise MalformedError(f"{value} where {most} is the most")
        return value

    def text(self, least: int, most: int) -> str:
        size = self.number(1, most)
        if size < least:
            raise MalformedError("a text is empty")
        try:
            text = self.take(size).decode()
        except UnicodeDecodeError:
            raise MalformedError("a text is no UTF-8") from None
        if any(unicodedata.category(one)[0] in "CZ" and one != " " for one in text):
            raise MalformedError("a text is not printable")
        return text

    def keys(self, most: int, room: int | None = None) -> list[Key]:
        number, before = self.number(1, most), len(self._rest)
        keys = [(self.text(1, 255), self.text(1, 255), self.number(2)) for _ in range(number)]
        if len(set(keys)) != number or any(not size for *_, size in keys):
            raise MalformedError("a key comes twice, or has no size")
        if room is not None and before - len(self._rest) > room:
            raise MalformedError("the announced keys are too long")
        return keys

    def policy(self) -> Policy:
        policy = Policy(self.number(1, 2), self.number(1), self.number(1, 1))
        self.number(1, 0)
        return policy

    def inventory(self) -> Inventory:
        store, announced = self.take(8), self.keys(16, 1200)
        marks = [self.take(8) for _ in range(self.number(1, 32))]
        if len(set(marks)) != len(marks) or (store == bytes(8) and (announced or marks)):
            raise MalformedError("a mark comes twice, or there is no store")
        if self._rest:
            raise MalformedError("it is too long")
        return Inventory(store, announced, marks)


def read_offer(content: bytes) -> Offer:
    """Section 4.4; MalformedError where it is."""
    reader = _Reader(content)
    seconds, nanoseconds = struct.unpack(">QI", reader.take(12))
    epoch = reader.number(8, 2**63 - 1)
    if not epoch:
        raise MalformedError("there is no epoch 0")
    policy, capabilities = reader.policy(), reader.number(4)
    chains = [(reader.number(8), reader.take(16)) for _ in range(reader.number(1, 3))]
    time = (seconds - 2**62 - 10) * 10**9 + nanoseconds
    return Offer(time, epoch, policy, capabilities, chains, reader.keys(8), reader.inventory())


def read_answer(content: bytes, offer: Offer) -> Answer:
    """Section 4.5; MalformedError where it is."""
    reader = _Reader(content)
    verdict, epoch = VERDICTS[reader.number(1, len(VERDICTS) - 1)], reader.number(8, 2**63 - 1)
    policy, capabilities = reader.policy(), reader.number(4)
    has_chain, chain = reader.number(1, 1), reader.take(16)
    if not has_chain and any(chain):
        raise MalformedError("a chain where there is none")
    accepted = [reader.number(1, len(offer.keys) - 1) for _ in range(reader.number(1, 8))]
    if accepted != sorted(set(accepted)) or (verdict != "ACCEPTED" and (accepted or has_chain)):
        raise MalformedError("the keys accepted are not in order, or a refusal accepts some")
    detail = reader.text(0, 200)
    chosen = chain if has_chain else None
    return Answer(verdict, epoch, policy, capabilities, chosen, accepted, detail, reader.inventory())


def mark(key: Key) -> bytes:
    """Section 4.8."""
    source, key_id, size = key
    return sha512(frame(source.encode(), key_id.encode(), struct.pack(">H", size)))[:8]
