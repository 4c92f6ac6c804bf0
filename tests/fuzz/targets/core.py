"""The rekeying core: two gateways in virtual time, whose datagrams an input holds up, repeats and spoils, and to whom a
peer with the right keys says whatever the input wants."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from qtunnel.handshake.fragments import MAX_DATAGRAM, Message, MessageType, cut, mac, mac1_key
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import ChainRef, Offer
from qtunnel.rekey.model import (
    Defect,
    Effect,
    FetchAhead,
    FetchById,
    Fetched,
    FetchNew,
    Install,
    Look,
    Memory,
    Notice,
    PeerSettings,
    Remember,
    Send,
)
from qtunnel.rekey.node import RekeyNode
from qtunnel.secret import Secret
from qtunnel.tai64n import tai64n
from qtunnel.terms import ChainPolicy, Inventory, KeyRef, Policy, QkdPolicy
from tests.fuzz.draw import Draw, spoiled
from tests.fuzz.target import Target, say
from tests.rekey.gateways import IDENTITIES, SUITE, now

NAMES = ("hub", "b")
POLICIES = tuple(Policy(qkd, 1, chain) for qkd in QkdPolicy for chain in ChainPolicy)
REASONS_OF_DEFECTS = {"defect"}


class World:
    """Two cores and all around them, as an input has it."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.now = 0.0
        self.rng = random.Random(1)
        self.wire: list[tuple[str, bytes]] = []
        self.keys: dict[str, bytes] = {}
        self.installed: dict[str, dict[int, bytes]] = {name: {} for name in NAMES}
        self.settings: dict[str, PeerSettings] = {}
        self.nodes: dict[str, RekeyNode] = {}
        for name, other in (NAMES, NAMES[::-1]):
            policy, reservoir = draw.choice(POLICIES), draw.choice((0, 0, 4))
            plain = PeerSettings(
                other, IDENTITIES[other].public, SUITE, policy, 10.0, 0.1, 600.0, sources=draw.choice((("s",), ("s",
                "t"), ())),
                reservoir=reservoir, reservoir_low=reservoir // 2, capabilities=4 * bool(reservoir),
            )  # fmt: skip
            self.settings[name] = plain
            self.nodes[name] = RekeyNode(IDENTITIES[name], random.Random(name).randbytes)
            self.nodes[name].add_peer(plain, Memory(), now(0.0))

    def run(self) -> None:
        steps: tuple[Callable[[], None], ...] = (
            self.wait, self.deliver, self.deliver_all, self.lose, self.repeat, self.spoil, self.offer, self.raw,
            self.restart,
        )  # fmt: skip
        for _ in range(30):
            if not self.draw.left:
                break
            self.draw.choice(steps)()
            self.settle()

    def settle(self) -> None:
        """Carry out what the cores ask for."""
        for _ in range(20):
            effects = [(name, effect) for name in NAMES for effect in self.nodes[name].take_effects()]
            if not effects:
                return
            for name, effect in effects:
                self._carry_out(name, effect)
        raise AssertionError("effects without end")

    def _carry_out(self, name: str, effect: Effect) -> None:
        other, core = self.settings[name].name, self.nodes[name]
        match effect:
            case Defect():
                raise effect.error
            case Notice():
                assert effect.fields.get("reason") not in REASONS_OF_DEFECTS, effect.fields
                for field in effect.fields.values():
                    say(str(field))
            case Send():
                assert all(len(datagram) <= MAX_DATAGRAM for datagram in effect.datagrams)
                self.wire += [(other, datagram) for datagram in effect.datagrams]
                del self.wire[:-64]
            case FetchNew():
                made = [self._new(source, effect.size) for source in effect.sources[: effect.enough]]
                self._answer(core, other, effect.ticket, made)
            case FetchAhead():
                self._answer(
                    core, other, effect.ticket, [self._new(effect.source, effect.size) for _ in range(effect.number)]
                )
            case FetchById():
                assert len(effect.refs) <= 24
                found = [
                    (ref, Secret(self.keys[ref.key_id][: ref.size])) for ref in effect.refs if ref.key_id in self.keys
                ]
                self._answer(core, other, effect.ticket, [one for one in found if len(one[1]) == one[0].size])
            case Look():
                core.fetched(other, effect.ticket, Fetched(), now(self.now))
            case Install():
                psk = bytes(effect.psk.reveal())
                assert len(psk) == 32
                theirs = self.installed[other].get(effect.epoch)
                assert theirs in (None, psk) or self.forged, "one epoch with two keys"
                self.installed[name][effect.epoch] = psk
            case Remember():
                assert effect.memory.epoch < 2**63

    forged = False
    """Somebody with hub's keys has made messages of its own."""

    def _new(self, source: str, size: int) -> tuple[KeyRef, Secret]:
        key_id = f"key-{len(self.keys)}"
        self.keys[key_id] = self.rng.randbytes(size)
        return KeyRef(source, key_id, size), Secret(self.keys[key_id])

    def _answer(self, core: RekeyNode, peer: str, ticket: int, keys: list[tuple[KeyRef, Secret]]) -> None:
        if self.draw.flag(6):
            keys = []
        core.fetched(peer, ticket, Fetched(tuple(keys), () if keys else (("s", "503"),)), now(self.now))

    def wait(self) -> None:
        self.now += self.draw.choice((0.3, 0.01, 1.0, 5.0, 12.0, 100.0, 700.0))
        for core in self.nodes.values():
            core.tick(now(self.now))

    def _hand(self, to: str, datagram: bytes) -> None:
        self.nodes[to].receive(datagram, self.draw.choice(("home", "home", "elsewhere")), now(self.now))
        assert len(self.nodes[to].take_replies()) <= 1

    def deliver(self) -> None:
        if self.wire:
            self._hand(*self.wire.pop(0))

    def deliver_all(self) -> None:
        for _ in range(8):
            waiting, self.wire = self.wire, []
            for to, datagram in waiting:
                self._hand(to, datagram)
            self.settle()

    def lose(self) -> None:
        if self.wire:
            self.wire.pop(self.draw.number(0, 255) % len(self.wire))

    def repeat(self) -> None:
        if self.wire:
            self._hand(*self.wire[self.draw.number(0, 255) % len(self.wire)])

    def spoil(self) -> None:
        """One datagram changed, perhaps with a right mac1."""
        if not self.wire:
            return
        at = self.draw.number(0, 255) % len(self.wire)
        to, datagram = self.wire.pop(at)
        inner = spoiled(self.draw, datagram[:-32], 2)[: MAX_DATAGRAM - 32]
        again = inner + mac(mac1_key(IDENTITIES[to].public.id), inner) + datagram[-16:]
        self._hand(to, again if self.draw.flag() else inner + datagram[-32:])

    def offer(self) -> None:
        """A first message by hub's own keys, with whatever offer."""
        draw, self.forged = self.draw, True
        exchange = draw.take(1).ljust(16, b"e")
        unix = now(self.now + draw.choice((0.0, 1.0, -1.0, 1e6))).unix_ns
        refs = tuple(
            KeyRef(
                draw.choice(("s", "t", "u")),
                draw.choice(("key-0", "key-1", draw.text(9) or "x")),
                draw.choice((32, 1, 65535)),
            )
            for _ in range(draw.number(0, 3))
        )
        inventory = Inventory(
            draw.choice((bytes(8), b"store-01")),
            refs if draw.flag() else (),
            tuple(draw.take(8) for _ in range(draw.number(0, 3))),
        )
        chains = tuple(ChainRef(draw.number(0, 9), draw.take(16)) for _ in range(draw.number(0, 2)))
        made = Offer(
            tai64n(unix), draw.choice((1, 2, 3, 1000, 2**63 - 1)), draw.choice(POLICIES), draw.choice((0, 4, 7)),
            chains,
            tuple(dict.fromkeys(refs)), inventory,
        )  # fmt: skip
        try:
            message = Initiator(
                IDENTITIES["hub"], IDENTITIES["b"].public, SUITE, exchange, made, self.rng.randbytes
            ).message
        except ValueError:
            return
        for datagram in cut(
            Message(MessageType.INIT, SUITE.id, exchange, message), mac1_key(IDENTITIES["b"].public.id)
        ):
            self._hand("b", datagram)

    def raw(self) -> None:
        """Anything behind a right mac1, of an exchange that there is or not."""
        draw, to = self.draw, self.draw.choice(NAMES)
        known = [datagram[8:24] for _, datagram in self.wire if len(datagram) > 24] or [bytes(16)]
        body = draw.choice((bytes(24), draw.piece(40), bytes(2300)))
        if not body:
            return
        kind = draw.choice(list(MessageType))
        message = Message(kind, draw.choice((SUITE.id, draw.number(0, 65535))), draw.choice(known), body)
        for datagram in cut(message, mac1_key(IDENTITIES[to].public.id)):
            self._hand(to, datagram)

    def restart(self) -> None:
        """Another policy for a peer, or a rekey at once."""
        name = self.draw.choice(NAMES)
        settings = self.settings[name]
        if self.draw.flag():
            self.nodes[name].rekey_now(settings.name, now(self.now))
            return
        self.settings[name] = replace(settings, policy=self.draw.choice(POLICIES))
        self.nodes[name].change_peer(self.settings[name], now(self.now))


def world(data: bytes) -> None:
    """No defect, no two keys under one epoch unless somebody has a gateway's keys, no effects without end."""
    World(Draw(data)).run()


TARGETS = {"world": Target(world, (), 200)}
