"""The preshared keys of an engine's peers: what each should have, and what the engine has said that it has."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from qtunnel.daemon.refusals import Refusals
from qtunnel.engines.base import Engine, Lease, PeerSpec
from qtunnel.engines.programs import OWN
from qtunnel.rekey.model import Install
from qtunnel.secret import Secret

PSK_SIZE = 32
UNKNOWN = object()
"""In place of an epoch: the engine was told, and did not say that it is done."""

CurrentPsk = Callable[[str], tuple[int, Secret] | None]
"""From a peer's name to epoch and PSK (a copy) that it should have now; None where it is to be blocked."""

LeaseOf = Callable[[str], Lease | None]
"""From a peer's name to when that PSK ends if nobody renews it, and those before it."""

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
    _owed: set[str]
    """Peers whose sessions have to go, until the engine has said that they are gone."""
    _alone: set[str]
    """Peers whose session had to go: a key that was on its way then comes without the one before it, or a handshake
    could fall back to that."""
    _unrenewed: set[str]
    """Peers whose key in place may have another end than the engine was told."""
    _record_suites: dict[str, str]

    @property
    def knows_epochs(self) -> bool:
        """Whether the engine tells the epoch of a session itself, and makes handshakes when told to."""
        return self.engine.name == OWN

    def epoch_in_place(self, peer: str) -> int | None:
        """The epoch whose PSK the engine has taken; None for a random one, or where that is not certain."""
        found = self._in_place.get(peer)
        return found if self.up and isinstance(found, int) else None

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
                if effect.peer in self._owed:
                    await self._block(effect.peer)
                    self._in_place[effect.peer] = UNKNOWN
                previous = None if effect.peer in self._alone else effect.previous_psk
                await self.engine.set_psk(
                    self._keys[effect.peer], effect.psk, effect.epoch, previous,
                    effect.previous_epoch or 0, effect.handshake_now, effect.record_suite, self._lease_of(effect.peer),
                )  # fmt: skip
                self._in_place[effect.peer] = effect.epoch
                self._alone.discard(effect.peer)
        finally:
            effect.psk.wipe()
            if effect.previous_psk is not None:
                effect.previous_psk.wipe()

    async def block(self, peer: str) -> None:
        """No traffic with the peer: a PSK that nobody has, no session. Routes stay, so nothing goes around."""
        async with self._lock:
            if self.up and peer in self._specs:
                await self._block(peer)

    async def renew(self, peer: str, lease: Lease) -> None:
        """The engine blocks the peer when the lease is over, unless another epoch comes; what it refuses ``reconcile``
        repeats."""
        async with self._lock:
            if self.up:
                self._unrenewed.add(peer)
                await self.engine.renew(self._keys[peer], lease)
                self._unrenewed.discard(peer)

    async def _renew_owed(self, refusals: Refusals) -> None:
        """Other ends for keys that are in place. The daemon itself is in time where the engine refuses; but the engine
        has to be, too, for as long as it may be alone."""
        for name in [name for name in self._specs if name in self._unrenewed]:
            if self.busy(name):  # perhaps with another key than the one in place, whose end is a later one
                continue
            with refusals.of(name):
                lease = self._lease_of(name) if isinstance(self._in_place.get(name), int) else None
                if lease is not None:  # else the key that comes brings its end along
                    await self.engine.renew(self._keys[name], lease)
                self._unrenewed.discard(name)

    async def _block(self, peer: str) -> None:
        self._kept.discard(peer)
        self._owed.add(peer)
        self._in_place[peer] = UNKNOWN
        with Secret.random(os.urandom, PSK_SIZE) as psk:
            await self.engine.block(self._keys[peer], psk)
        self._owed.discard(peer)
        self._in_place[peer] = None

    async def drop_session(self, peer: str) -> None:
        """End the present session and begin a new one with the PSK in place; what the engine refuses ``reconcile``
        repeats."""
        async with self._lock:
            if self.up and peer in self._specs:
                self._owed.add(peer)
                self._alone.add(peer)
                await self._put_right(peer)

    async def _drop(self, peer: str) -> None:
        if peer not in self._kept:
            await self._block(peer)
            return
        await self.engine.drop_sessions(self._keys[peer])  # nobody could put its key in place again
        self._owed.discard(peer)

    async def _put_right(self, peer: str) -> None:
        """Give the engine what the peer should have now, where it has something else, or a session that has to go."""
        if peer in self._owed:
            await self._drop(peer)
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
            self._alone.discard(peer)
