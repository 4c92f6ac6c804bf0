"""Effects of the rekeying core on their way out: of one peer one after the other, of several side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from qtunnel.rekey.model import Effect, Install, Keep, Remember

Spawn = Callable[[Coroutine[Any, Any, None]], object]


EVERYBODY = "*"
"""The lane of what changes several peers at once; no peer has such a name."""


class Lanes:
    """One lane for each peer that has something to be done, one for what belongs to no peer, and ``EVERYBODY``'s.

    So a peer whose effect waits for disk or engine holds nobody else up, neither another peer nor a new configuration,
    and a disk writes for all that wait for it at once. carry_out: does one effect, and raises nothing that is not a
    defect. spawn: runs a task.
    """

    def __init__(self, carry_out: Callable[[Effect], Coroutine[Any, Any, None]], spawn: Spawn) -> None:
        self._carry_out, self._spawn = carry_out, spawn
        self._lanes: dict[str, deque[Effect]] = {}
        self._begun: set[str] = set()

    def busy(self, peer: str) -> bool:
        """Whether something is being done for that peer, or waits."""
        return peer in self._lanes

    def put(self, effect: Effect) -> None:
        """To be done when everything before it of the same peer is."""
        lane = self._lanes.get(effect.peer)
        if lane is not None:
            lane.append(effect)
            return
        self._lanes[effect.peer] = lane = deque([effect])
        self._spawn(self._drive(effect.peer, lane))

    def forget(self, peers: Collection[str]) -> None:
        """Drop what waits to be done for these peers, but for what has to be remembered of them; what is being done
        goes on. Of a lane that was made in this turn of the loop nothing is being done yet."""
        for peer in self._lanes.keys() & set(peers):
            lane = self._lanes[peer]
            begun = [lane.popleft()] if peer in self._begun else []
            kept = [effect for effect in lane if isinstance(effect, Remember)]
            for effect in lane:
                _wipe(effect)
            lane.clear()
            lane.extend([*begun, *kept])

    async def _drive(self, peer: str, lane: deque[Effect]) -> None:
        self._begun.add(peer)
        while lane:
            await self._carry_out(lane[0])
            lane.popleft()
        self._begun.discard(peer)
        del self._lanes[peer]


def _wipe(effect: Effect) -> None:
    """Of an effect that is not carried out no key may be left."""
    if isinstance(effect, Install):
        for psk in (effect.psk, effect.previous_psk):
            if psk is not None:
                psk.wipe()
    elif isinstance(effect, Keep) and effect.image is not None:
        effect.image.wipe()
