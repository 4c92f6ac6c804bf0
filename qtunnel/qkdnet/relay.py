"""The way of keys from node to node: a message for each hop, which can be lost, come late, or be forged.

A message is sealed under bits of the link's store, as many as it carries, and authenticated with ``TAG_BITS`` more of
them; both are used for nothing else. A node opens a message once, and only while it waits for it. So whatever becomes
of messages on their way, a key arrives as it was sent, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from qtunnel.crypto.kdf import frame
from qtunnel.crypto.onetime import HASH_KEY_SIZE, MASK_SIZE, tag, verifies
from qtunnel.qkdnet.pad import combined
from qtunnel.qkdnet.routing import Path
from qtunnel.secret import RandomBytes, Secret

TAG_BITS = 8 * MASK_SIZE
"""Of each link's store that a message on it costs besides what it carries."""

TRIES = 3
"""Times that a message is sent, always the same bytes: where a tenth of them is lost, one in a thousand fails."""


@dataclass(frozen=True, slots=True)
class Message:
    """One hop of a transfer. first: the number of the first bit of the link's store that it is sealed with."""

    link: str
    sender: str
    receiver: str
    first: int
    transfer: str
    sealed: bytes
    tag: bytes

    @property
    def authenticated(self) -> bytes:
        """All of it but the tag, each part behind its length."""
        words = (self.link, self.sender, self.receiver, str(self.first), self.transfer)
        return frame(*(word.encode() for word in words), self.sealed)


Carrier = Callable[[Message], Iterable[Message]]
"""What arrives when a message is sent: in the best case this one, alone."""

See = Callable[[str, Secret], None]
"""Is told what a node holds, before that is wiped."""


class RefusedError(Exception):
    """A node does not take a message; the text says why."""


class TransferError(Exception):
    """Nothing got over ``link``; its bits for it are used all the same."""

    def __init__(self, link: str, message: str) -> None:
        super().__init__(message)
        self.link = link


@dataclass(slots=True)
class Traffic:
    """Of one link, in messages. unheard: sent, and nothing that the receiver could take came; refused: what it got and
    did not take."""

    sent: int = 0
    unheard: int = 0
    refused: int = 0


class RelayNode:
    """One node's end of its links: the pads that wait here, and the keys of the links' tags."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pads: dict[tuple[str, int], tuple[Secret, Secret]] = {}
        self._hash_keys: dict[str, Secret] = {}

    @property
    def waiting(self) -> int:
        return len(self._pads)

    def knows(self, link: str) -> bool:
        return link in self._hash_keys

    def agree(self, link: str, hash_key: Secret) -> None:
        """The part of a link's tags that stays: of the secret that its ends were given before their first light."""
        self._hash_keys[link] = hash_key

    def expect(self, link: str, first: int, pad: Secret, mask: Secret) -> None:
        """Bits of the link that this node has, for one message."""
        self._pads[link, first] = (pad, mask)

    def seal(self, link: str, receiver: str, first: int, transfer: str, held: Secret) -> Message:
        """The message with what is held, which is wiped, as are the bits that it took."""
        pad, mask = self._pads.pop((link, first))
        with held, pad, mask, combined(held, pad) as sealed:
            plain = Message(link, self.name, receiver, first, transfer, bytes(sealed.reveal()), b"")
            found = tag(self._hash_keys[link], mask, plain.authenticated)
        return Message(link, self.name, receiver, first, transfer, plain.sealed, found)

    def open(self, message: Message) -> Secret:
        """What it carries; raises ``RefusedError``. One that is forged leaves the bits for the true one."""
        if message.receiver != self.name or not self.knows(message.link):
            raise RefusedError("is for another node")
        waits = self._pads.get((message.link, message.first))
        if waits is None:
            raise RefusedError("came too late, or twice")
        pad, mask = waits
        if len(message.sealed) != len(pad):
            raise RefusedError("has another length")
        if not verifies(self._hash_keys[message.link], mask, message.authenticated, message.tag):
            raise RefusedError("is forged")
        del self._pads[message.link, message.first]
        with pad, mask, Secret(message.sealed) as sealed:
            return combined(sealed, pad)

    def forget(self, link: str, first: int) -> None:
        """The message that these bits were for is waited for no more."""
        for secret in self._pads.pop((link, first), ()):
            secret.wipe()


@dataclass(slots=True)
class Relay:
    """All nodes of a network, and the messages between them. refusals: since somebody took them, (link, words)."""

    nodes: dict[str, RelayNode]
    traffic: dict[str, Traffic] = field(default_factory=dict)
    refusals: list[tuple[str, str]] = field(default_factory=list)

    def send(
        self,
        share: Secret,
        path: Path,
        firsts: Sequence[int],
        transfer: str,
        random_bytes: RandomBytes,
        carrier: Carrier,
        see: See | None = None,
    ) -> Secret:
        """What arrives at the path's end. share: is wiped. firsts: of the bits of each link on it. Raises
        ``TransferError``."""
        held = share
        for link, first, sender, receiver in zip(path.links, firsts, path.nodes, path.nodes[1:], strict=False):
            held = self._hop(held, (link, first, sender, receiver), transfer, random_bytes, carrier)
            if see is not None:
                see(receiver, held)
        return held

    def _hop(
        self,
        held: Secret,
        hop: tuple[str, int, str, str],
        transfer: str,
        random_bytes: RandomBytes,
        carrier: Carrier,
    ) -> Secret:
        link, first, sender, receiver = hop
        here, there = self.nodes[sender], self.nodes[receiver]
        self._prepare(link, first, here, there, len(held), random_bytes)
        message = here.seal(link, receiver, first, transfer, held)
        traffic = self.traffic.setdefault(link, Traffic())
        for _ in range(TRIES):
            traffic.sent += 1
            came = None
            for arrived in carrier(message):
                came = self._arrived(arrived) or came
            if came is not None:
                return came
            traffic.unheard += 1
        there.forget(link, first)
        raise TransferError(link, f"{TRIES} messages from {sender} to {receiver} did not arrive as they were sent")

    def _arrived(self, message: Message) -> Secret | None:
        node = self.nodes.get(message.receiver)
        try:
            if node is None:
                raise RefusedError("is for nobody here")
            return node.open(message)
        except RefusedError as error:
            self.traffic.setdefault(message.link, Traffic()).refused += 1
            self.refusals.append((message.link, f"a message to {message.receiver} {error}"))
            return None

    @staticmethod
    def _prepare(
        link: str, first: int, here: RelayNode, there: RelayNode, size: int, random_bytes: RandomBytes
    ) -> None:
        """The same bits of the link at both ends. They are drawn now, as nobody could look at them before."""
        if not here.knows(link):
            hash_key = Secret.random(random_bytes, HASH_KEY_SIZE)
            here.agree(link, hash_key)
            there.agree(link, hash_key.copy())
        pad, mask = Secret.random(random_bytes, size), Secret.random(random_bytes, MASK_SIZE)
        here.expect(link, first, pad, mask)
        there.expect(link, first, pad.copy(), mask.copy())


def overhead(paths: Sequence[Path]) -> int:
    """Bits of each link that a transfer over these ways costs besides the keys. Over a single link nothing is sent: its
    own bits are the key."""
    return 0 if len(paths) == 1 and len(paths[0].links) == 1 else TAG_BITS
