"""What the checks share: both ends' KMEs, the limits of the status, and the count of keys that may be taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qtunnel.drivers.answers import NOTHING_DONE
from qtunnel.keys import quality
from qtunnel.probe import container
from qtunnel.probe.target import Target
from qtunnel.probe.wire import Answer, NoAnswerError, Wire
from qtunnel.secret import RandomBytes, Secret

TUNNEL_BITS = 256
"""What a tunnel takes."""

MAX_BITS = 1 << 20
"""Bits of a key beyond which no status is believed."""

MAX_COUNT = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What the status says; ``None`` where it does not, or not as a positive number. Sizes in bits."""

    size: int | None = None
    min_size: int | None = None
    max_size: int | None = None
    per_request: int | None = None

    def allow(self, bits: int) -> bool:
        return (self.min_size or 8) <= bits <= (self.max_size or MAX_BITS)


@dataclass(slots=True)
class Reply:
    """answer: its body is wiped. keys: what could be read, wiped after the check."""

    answer: Answer
    words: str
    keys: container.Keys = field(default_factory=list, repr=False)

    @property
    def ok(self) -> bool:
        return self.answer.status == 200

    @property
    def bits(self) -> list[int]:
        return [8 * len(key) for _, key in self.keys]


class BudgetError(Exception):
    """A check wants to take more keys than it has said: a defect of the check."""


class Session:
    """posts, dec_posts: whether enc_keys and dec_keys know POST. taken: keys given out, or perhaps given out. odd: what
    containers were not as they should be. defects: what keys were."""

    def __init__(self, target: Target, random_bytes: RandomBytes) -> None:
        self.target = target
        self.random_bytes = random_bytes
        self.master = target.master.wire()
        self.slave: Wire | None = None
        if target.slave is not None:
            self.slave = target.slave.wire()
            self.slave.slash = target.slave.options.trailing_slash  # whether our own needs one is found out
        self.status: Answer | None = None
        self.limits = Limits()
        self.posts = self.dec_posts = True
        self.taken = self.left = self.seen_keys = 0
        self.odd: container.Oddities = {}
        self.defects: list[str] = []
        self._seen = quality.SeenKeys(Secret.random(random_bytes, 32))
        self._held: list[Secret] = []

    @property
    def bits(self) -> int:
        """The size of key to ask for."""
        fixed = self.target.master.options.key_size
        if fixed is not None:
            return fixed
        return TUNNEL_BITS if self.limits.allow(TUNNEL_BITS) else self.limits.size or TUNNEL_BITS

    def read_limits(self, fields: Mapping[str, Any]) -> None:
        def number(name: str, most: int) -> int | None:
            value = fields.get(name)
            return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most else None

        size, low, high = (number(name, MAX_BITS) for name in ("key_size", "min_key_size", "max_key_size"))
        self.limits = Limits(size, low, high, number("max_key_per_request", MAX_COUNT))

    async def enc(
        self, number: int = 1, bits: int | None = None, *, method: str | None = None, plain: bool = False, **more: Any
    ) -> Reply:
        """Get key (clause 5.3), for ``number`` keys; raises ``NoAnswerError``. plain: by a GET without parameters.

        more: further fields of a POST, besides the extensions of the configuration.
        """
        if number > self.left:
            raise BudgetError(f"{number} keys asked for, {self.left} left")
        self.left -= number
        asked = {"number": number, "size": self.bits if bits is None else bits}
        options = self.target.master.options
        fields: dict[str, Any] = dict(asked)
        for name in ("extension_mandatory", "extension_optional"):
            both = [*getattr(options, name), *more.get(name, ())]
            fields |= {name: both} if both else {}
        peer = self.target.slave_sae
        try:
            if plain or method == "GET" or (method is None and not self.posts):
                answer = await self.master.ask("GET", "enc_keys", peer, query=None if plain else asked)
            else:
                answer = await self.master.ask("POST", "enc_keys", peer, fields=fields)
        except NoAnswerError:
            self.taken += number
            raise
        reply = self._read(answer, asked["size"])
        if reply.ok:
            # What cannot be read may have cost as many as were asked for.
            self.taken += len(reply.keys) if reply.keys else number
            for key_id, key in reply.keys:
                self._judge(key_id, key)
        elif answer.status < 300 or (answer.status >= 500 and answer.status not in NOTHING_DONE):
            self.taken += number  # perhaps: it failed in the middle, or does not say what it did
        return reply

    async def dec(self, wire: Wire, master: str, key_id: str, *, method: str | None = None) -> Reply:
        """Get key with key IDs (clause 5.4), for one; raises ``NoAnswerError``."""
        if method == "GET" or (method is None and not self.dec_posts):
            answer = await wire.ask("GET", "dec_keys", master, query={"key_ID": key_id})
        else:
            answer = await wire.ask("POST", "dec_keys", master, fields={"key_IDs": [{"key_ID": key_id}]})
        return self._read(answer, self.bits)

    def drop(self) -> None:
        """Wipe the keys of the check that has ended."""
        for key in self._held:
            key.wipe()
        self._held.clear()

    def _read(self, answer: Answer, bits: int) -> Reply:
        try:
            reply = Reply(answer, answer.words)
            if reply.ok:
                reply.keys, odd = container.read(answer.document(), bits)
                self._held += [key for _, key in reply.keys]
                self.odd |= odd
                if not answer.is_json:
                    kind = f"content type {answer.kind[:60] or 'none'} in the place of application/json"
                    self.odd.setdefault("fields", (kind, container.AS_IT_IS))
            return reply
        finally:
            if answer.status < 300:
                answer.wipe()

    def _judge(self, key_id: str, key: Secret) -> None:
        if len(key) < quality.FEWEST_BYTES:
            return
        self.seen_keys += 1
        what = quality.defect(key)
        if what is not None:
            self.defects.append(what)
        elif self._seen.taken_for(key_id, key) is not None:
            self.defects.append("it came before under another key_ID")


def none(session: Session) -> int:
    return 0


def one(session: Session) -> int:
    return 1


def with_peer(number: int) -> Callable[[Session], int]:
    """As many where the other gateway's KME can be asked."""
    return lambda session: number if session.slave is not None else 0
