"""When to look at the status of which pair of peer and source: within a budget for each source, however many peers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from qtunnel.daemon.clock import monotonic
from qtunnel.daemon.steady import Steady

LOOK_INTERVAL = 30.0
"""Seconds between two looks at one pair: an outage or an alarm shows before the next rekey at the default 120 s."""
CALL_GAP = 0.5
"""Seconds from one look at a source to the next: a KME that serves a thousand peers is asked twice a second at most, a
quarter of what their rekeys cost it, and each peer's turn comes every eight minutes, besides those before its keys."""
FIRST_AT_ONCE = 8
"""First looks under way at one source: before them no key is used, so a hub that starts has to come through those of
all its peers in a few seconds. Half the calls that a KME gets at a time, so that keys for peers which were looked at
already do not wait for the looks at others."""
SOON = 30.0
"""Seconds before its rekey from which a peer's turn comes before others'."""

Look = Callable[[str, str], Awaitable[object]]
"""At a source towards a peer (peer, source). Consumes no key, raises nothing that is not a defect."""
NextRekey = Callable[[str], float | None]
"""From a peer to when it rekeys, monotonic seconds; ``None`` where that is not known."""


class Watch:
    """Looks at all pairs in turn: first those that nobody has looked at, several at once, then by turns one that rekeys
    soon, and the one that was not looked at for longest, one at a time for each source. One that hangs keeps no other
    source's.

    resting: whether a source is left alone for now, so that first looks, too, go there one at a time.
    """

    def __init__(self, look: Look, next_rekey: NextRekey, resting: Callable[[str], bool] = lambda name: False) -> None:
        self._look, self._next_rekey, self._resting = look, next_rekey, resting
        self._looked: dict[str, dict[str, float]] = {}
        """By source and peer, when a look last began; monotonic seconds."""
        self._under_way: dict[str, list[asyncio.Future[object]]] = {}
        self._turns: dict[str, bool] = {}
        self._news = asyncio.Event()

    def heed(self, pairs: Iterable[tuple[str, str]]) -> None:
        """These pairs of peer and source from now on; what is known of those that stay is kept."""
        before, self._looked = self._looked, {}
        for peer, name in pairs:
            self._looked.setdefault(name, {})[peer] = before.get(name, {}).get(peer, float("-inf"))
        self._news.set()

    def looked(self, peer: str, name: str) -> None:
        """A look begins, by whomever."""
        if peer in self._looked.get(name, {}):
            self._looked[name][peer] = monotonic()

    def anew(self, name: str, peers: Iterable[str]) -> None:
        """Their turn is now."""
        known = self._looked.get(name, {})
        known |= {peer: float("-inf") for peer in peers if peer in known}
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        steady = Steady("sources")
        try:
            while True:
                self._news.clear()
                with steady.look():
                    for name in self._looked:
                        self._begin(name)
                try:
                    async with asyncio.timeout(CALL_GAP):
                        await self._news.wait()
                except TimeoutError:
                    pass
        finally:
            for tasks in self._under_way.values():
                for task in tasks:
                    task.cancel()

    def _begin(self, name: str) -> None:
        """The next looks at that source, where their turn has come; raises what one before failed with."""
        tasks = self._under_way.get(name, [])
        self._under_way[name] = going = [task for task in tasks if not task.done()]
        for task in tasks:
            if task.done():
                task.result()
        known = self._looked[name]
        firsts = [peer for peer, looked in known.items() if looked == float("-inf")]
        most = 1 if not firsts or self._resting(name) else FIRST_AT_ONCE
        while len(going) < most:
            peer = firsts.pop(0) if firsts else None if going else self.choose(name, monotonic())
            if peer is None:
                break
            self.looked(peer, name)
            task = asyncio.ensure_future(self._look(peer, name))
            if firsts:
                task.add_done_callback(lambda _: self._news.set())  # the next one's turn has come
            going.append(task)

    def choose(self, name: str, now: float) -> str | None:
        """The peer towards which that source is looked at next; ``None`` where none is due."""
        known = self._looked.get(name, {})
        due = [peer for peer, looked in known.items() if now - looked >= LOOK_INTERVAL]
        if not due:
            return None
        oldest = min(due, key=lambda peer: known[peer])
        turn = self._turns[name] = not self._turns.get(name, False)
        if known[oldest] == float("-inf") or not turn:
            return oldest
        times = {peer: its for peer in due if (its := self._next_rekey(peer)) is not None and its - now <= SOON}
        return min(times, key=lambda peer: times[peer]) if times else oldest
