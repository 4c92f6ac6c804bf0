"""What the two directions of one peer share: the epochs, the chain, the keys in hand, and the effects to come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from qtunnel.crypto.kem import Encapsulate
from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.handshake.transcript import EpochKeys
from qtunnel.identity import Identity
from qtunnel.keys.chain import EpochChain
from qtunnel.keys.held import HeldKeys
from qtunnel.keys.policy import Protection
from qtunnel.keys.schedule import Schedule
from qtunnel.rekey.model import Effect, EpochInfo, Install, Memory, Notice, Now, PeerSettings, Remember
from qtunnel.rekey.protection import Guard
from qtunnel.rekey.timing import KEY_LIFETIME
from qtunnel.secret import RandomBytes, Secret
from qtunnel.terms import Policy, QkdPolicy

EPOCHS_REMEMBERED = 16
"""Descriptions of past epochs, so that the one in force can be named while a newer one is installed already."""


class PeerContext:
    """State of one peer, and the outbox that its machines write to."""

    def __init__(
        self,
        local: Identity,
        settings: PeerSettings,
        memory: Memory,
        now: Now,
        random_bytes: RandomBytes,
        tickets: Iterator[int],
        encapsulate: Encapsulate | None,
    ) -> None:
        self.local, self.settings, self.memory = local, settings, memory
        self.random_bytes, self.tickets, self.encapsulate = random_bytes, tickets, encapsulate
        self.mac_key = mac1_key(settings.public.id)
        self.chain = EpochChain()
        self.ours = HeldKeys(KEY_LIFETIME)  # got from our source, to be offered
        self.theirs = HeldKeys(KEY_LIFETIME)  # fetched by the references that the peer offered
        self.guard = Guard(settings, now.mono)
        self.schedule = Schedule(settings.interval, settings.jitter)
        self.floor = memory.epoch  # the newest epoch known to be committed: older ones are never installed
        self.epoch = memory.epoch  # the newest epoch that anybody proposed
        self.epochs: dict[int, EpochInfo] = {}
        self.effects: list[Effect] = []
        self._psk: tuple[int, Secret] | None = None
        self._protection = Protection.STARTING

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def policy(self) -> Policy:
        """Our policy as it stands now: relaxed where ``on_expiry: pqc-only`` says so."""
        policy = self.settings.policy
        return replace(policy, qkd=QkdPolicy.PREFERRED) if self.guard.relaxed else policy

    @property
    def higher(self) -> bool:
        """Whether our identity is the higher of the two: it decides the roles."""
        return self.local.public.id > self.settings.public.id

    def fraction(self) -> float:
        """A random number, 0 <= x < 1."""
        return int.from_bytes(self.random_bytes(6), "big") / (1 << 48)

    def notice(self, kind: str, **fields: object) -> None:
        self.effects.append(Notice(self.name, kind, fields))

    def datagrams(self, kind: MessageType, exchange: bytes, body: bytes) -> list[bytes]:
        return cut(Message(kind, self.settings.suite.id, exchange, body), self.mac_key)

    def remember(self, **changes: object) -> None:
        """Keep epoch or replay times in the state directory."""
        self.memory = replace(self.memory, **changes)  # type: ignore[arg-type]  # fields of Memory by name
        self.effects.append(Remember(self.name, self.memory.epoch, self.memory.sent, self.memory.seen))

    def install(self, keys: EpochKeys, now: Now, *, handshake_now: bool, chain: Callable[[], None]) -> None:
        """An epoch is committed: hand its PSK to the engine. chain: brings the epoch chain up to date."""
        previous, self._psk = self._psk, (keys.epoch, keys.psk)
        if previous is not None:
            # A blocked tunnel's last PSK is dead: nobody may finish a handshake with it.
            self.effects.append(
                Install(self.name, keys.epoch, keys.psk.copy(), previous[0], previous[1].copy(), handshake_now)
            )
            previous[1].wipe()
        else:
            self.effects.append(Install(self.name, keys.epoch, keys.psk.copy(), None, None, handshake_now))
        chain()
        info = EpochInfo.of(keys, now.mono)
        self.epochs[keys.epoch] = info
        while len(self.epochs) > EPOCHS_REMEMBERED:
            del self.epochs[min(self.epochs)]
        self.floor = max(self.floor, keys.epoch)
        self.epoch = max(self.epoch, keys.epoch)
        self.remember(epoch=self.floor)
        self.guard.install(info)
        self.show_protection()

    def block(self) -> None:
        """Forget the PSK, so that no later handshake can fall back to it."""
        if self._psk is not None:
            self._psk[1].wipe()
            self._psk = None

    def current_psk(self) -> tuple[int, Secret] | None:
        """Epoch and PSK (a copy) as installed: for an engine that was restarted."""
        return None if self._psk is None else (self._psk[0], self._psk[1].copy())

    def show_protection(self) -> None:
        """Tell when the level of protection changed."""
        level = self.guard.protection()
        if level is not self._protection:
            self.notice("protection.changed", before=self._protection.value, after=level.value)
            self._protection = level
