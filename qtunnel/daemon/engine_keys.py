"""The preshared keys of an engine's peers: what each should have, and what the engine has said that it has."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from qtunnel.engines.base import Engine, Lease, PeerSpec
from qtunnel.engines.programs import OWN
from qtunnel.errors import EngineError
from qtunnel.rekey.model import Install
from qtunnel.secret import Secret

PSK_SIZE = 32
UNKNOWN = object()
"""In place of an epoch: the engine was told, and did not say that it is done."""

CurrentPsk = Callable[[str], tuple[int, Secret] | None]
"""From a peer's name to epoch and PSK (a copy) that it should have now; None where it is to be blocked."""

LeaseOf = Callable[[str], Lease | None]
"""From a peer's name to how long that PSK may live if nobody renews it."""

Busy = Callable[[str], bool]
"""Whether effects of that peer are on their way, by its name."""


class EngineKeys:
    """The part of a tunnel that gives its engine keys; everything by the peer's name."""

    engine: Engine
    up: bool
    _lock: asyncio.Lock
    _current_psk: CurrentPsk
    _lease_of: LeaseOf
    busy: Busy
    _keys: dict[str, bytes]
    _specs: dict[str, PeerSpec]
    _in_place: dict[str, int | object | None]
    _kept: set[str]
    _record_suites: dict[str, str]

    @property
    def knows_epochs(self) -> bool:
        """Whether the engine tells the epoch of a session itself, and makes handshakes when told to."""
        return self.engine.name == OWN

    async def shake_hands(self, peer: str) -> None:
        """A WireGuard handshake now with the key in place, where the engine can be asked for one."""
        async with self._lock:
            current = self._current_psk(peer) if self.up and self.knows_epochs and peer in self._specs else None
            if current is None:
                return
            epoch, psk = current
            with psk:
                if self._in_place.get(peer) == epoch:
                    suite = self._record_suites.get(peer, "")
                    lease = self._lease_of(peer)
                    await self.engine.set_psk(
                        self._keys[peer], psk, epoch, handshake_now=True, record_suite=suite, lease=lease
                    )

    async def install(self, effect: Install) -> None:
        """Put an epoch's PSK in place; where the engine is down or refuses, ``reconcile`` does it later."""
        try:
            async with self._lock:
                self._record_suites[effect.peer] = effect.record_suite
                current = self._current_psk(effect.peer)
                if current is not None:
                    current[1].wipe()
                if not self.up or current is None or current[0] != effect.epoch:
                    return  # superseded: the effect that did so comes after this one
                self._in_place[effect.peer] = UNKNOWN
                self._kept.discard(effect.peer)
                await self.engine.set_psk(
                    self._keys[effect.peer], effect.psk, effect.epoch, effect.previous_psk,
                    effect.previous_epoch or 0, effect.handshake_now, effect.record_suite, self._lease_of(effect.peer),
                )  # fmt: skip
                self._in_place[effect.peer] = effect.epoch
        finally:
            effect.psk.wipe()
            if effect.previous_psk is not None:
                effect.previous_psk.wipe()

    async def block(self, peer: str) -> None:
        """No traffic with the peer: a PSK that nobody has, no session. Routes stay, so nothing goes around."""
        async with self._lock:
            if self.up and peer in self._specs:
                await self._block(peer)

    async def renew(self, peer: str, seconds: float) -> None:
        """The engine blocks the peer after that time, unless another epoch comes."""
        async with self._lock:
            if self.up:
                await self.engine.renew(self._keys[peer], seconds)

    async def _renew_all(self) -> None:
        """Perhaps with another max_age: what the engine refuses stays as it was, and the daemon itself is in time."""
        for name in self._specs if self.up else ():
            lease = self._lease_of(name) if isinstance(self._in_place.get(name), int) else None
            if lease is not None:
                with contextlib.suppress(EngineError):
                    await self.engine.renew(self._keys[name], lease.seconds)

    async def _block(self, peer: str) -> None:
        self._kept.discard(peer)
        self._in_place[peer] = UNKNOWN
        with Secret.random(os.urandom, PSK_SIZE) as psk:
            await self.engine.block(self._keys[peer], psk)
        self._in_place[peer] = None

    async def drop_session(self, peer: str) -> None:
        """End the present session and begin a new one with the PSK in place."""
        async with self._lock:
            if self.up and peer in self._specs and peer not in self._kept:  # those end by themselves, in time
                await self._block(peer)
                await self._put_right(peer)

    async def _put_right(self, peer: str) -> None:
        """Give the engine what the peer should have now, where it has something else."""
        current = self._current_psk(peer)
        if current is None:
            if self._in_place.get(peer) is not None and peer not in self._kept:
                await self._block(peer)
            return
        epoch, psk = current
        with psk:
            if self._in_place.get(peer) == epoch or self.busy(peer):
                return  # on its way, it may be: after what has to be on disk before it
            self._in_place[peer] = UNKNOWN
            handshake_now = self._specs[peer].endpoint is not None
            suite = self._record_suites.get(peer, "")
            await self.engine.set_psk(
                self._keys[peer], psk, epoch, handshake_now=handshake_now, record_suite=suite,
                lease=self._lease_of(peer),
            )  # fmt: skip
            self._in_place[peer] = epoch
