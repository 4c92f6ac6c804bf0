"""Effects of the rekeying core on their way out: of one peer one after the other, of several side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from qtunnel.rekey.model import Effect, Install

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Lanes:
    """One lane for each peer that has something to be done, and one for what belongs to no peer.

    So a peer whose effect waits for disk or engine holds nobody else up, and a disk writes for all that wait for it at
    once. carry_out: does one effect, and raises nothing that is not a defect. spawn: runs a task.
    """

    def __init__(self, carry_out: Callable[[Effect], Coroutine[Any, Any, None]], spawn: Spawn) -> None:
        self._carry_out, self._spawn = carry_out, spawn
        self._lanes: dict[str, deque[Effect]] = {}
        self._free = asyncio.Event()
        self._held: deque[tuple[Effect, bool]] | None = None

    def empty(self) -> bool:
        """Whether all is done."""
        return not self._lanes and self._held is None

    def put(self, effect: Effect) -> None:
        """To be done when everything before it of the same peer is."""
        if self._held is not None:
            self._held.append((effect, False))
            return
        lane = self._lanes.get(effect.peer)
        if lane is not None:
            lane.append(effect)
            return
        self._lanes[effect.peer] = lane = deque([effect])
        self._spawn(self._drive(effect.peer, lane))

    def put_alone(self, effect: Effect) -> None:
        """To be done when everything before it is, of all peers, and before anything that comes after it."""
        if self._held is not None:
            self._held.append((effect, True))
            return
        self._held = deque()
        self._spawn(self._drive_alone(effect))

    def forget(self, peers: Collection[str]) -> None:
        """Drop what waits to be done for these peers; what is being done goes on."""
        for peer in peers:
            lane = self._lanes.get(peer)
            while lane is not None and len(lane) > 1:
                _wipe(lane.pop())
        if self._held is not None:
            held, self._held = self._held, deque()
            for effect, alone in held:
                if alone or effect.peer not in peers:
                    self._held.append((effect, alone))
                else:
                    _wipe(effect)

    async def _drive(self, peer: str, lane: deque[Effect]) -> None:
        while lane:
            await self._carry_out(lane[0])
            lane.popleft()
        del self._lanes[peer]
        self._free.set()

    async def _drive_alone(self, effect: Effect) -> None:
        while self._lanes:
            self._free.clear()
            await self._free.wait()
        await self._carry_out(effect)
        held, self._held = self._held, None
        for waiting, alone in held or ():
            (self.put_alone if alone else self.put)(waiting)


def _wipe(effect: Effect) -> None:
    """Of an effect that is not carried out no key may be left."""
    if isinstance(effect, Install):
        for psk in (effect.psk, effect.previous_psk):
            if psk is not None:
                psk.wipe()
