"""What key sources have left for each peer whose schedule goes by it: asked seldom, told to the rekeying core."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from qtunnel.daemon.clock import monotonic
from qtunnel.daemon.steady import Steady
from qtunnel.keys.pace import Stock
from qtunnel.keys.source import SourceStatus

LOOK_INTERVAL = 30.0
"""Seconds between two looks at one peer's keys: several for each rekey at the default 120 s."""
CALL_GAP = 0.5
"""Seconds from the end of a call for one source to the next: a KME that serves a thousand peers is asked twice a second
at most, a quarter of what their rekeys cost it, and each peer's turn comes every eight minutes."""

Ask = Callable[[str, str], Awaitable[SourceStatus | str]]
"""From peer and source to its status, or in words why there is none. Consumes no key."""
Tell = Callable[[str, Stock], None]


@dataclass(slots=True)
class Reading:
    """What is known of one source towards one peer. problem: why the last look failed; the stock is then that of the
    one before. looked: monotonic seconds."""

    stock: Stock | None = None
    problem: str | None = None
    looked: float = float("-inf")

    def words(self, name: str) -> str:
        known = f"{name} was not asked yet" if self.stock is None else self.stock.words
        return known if self.problem is None else f"{known} (the last look failed: {self.problem})"


class Supply:
    """Readings of all pairs of peer and source in ``heeded``; others are not asked about."""

    def __init__(self, heeded: Iterable[tuple[str, str]], ask: Ask, tell: Tell) -> None:
        self._readings = {pair: Reading() for pair in heeded}
        self._ask, self._tell = ask, tell

    def heed(self, heeded: Iterable[tuple[str, str]]) -> None:
        """Other pairs from now on, as of another configuration; what is known of those that stay is kept."""
        self._readings = {pair: self._readings.get(pair, Reading()) for pair in heeded}

    def words(self, peer: str) -> list[str]:
        """A line for each source of the peer's that is asked about."""
        return [reading.words(name) for (owner, name), reading in self._readings.items() if owner == peer]

    def told(self, peer: str, name: str, status: SourceStatus | str) -> None:
        """A source's status was looked at; a failure leaves everything as it is."""
        reading = self._readings.get((peer, name))
        if reading is None:
            return
        reading.looked = monotonic()
        if isinstance(status, str):
            reading.problem = status
            return
        reading.problem = None
        if status.stored_keys is not None:
            self._take(peer, reading, Stock(name, status.stored_keys, status.max_keys))

    def delivered(self, peer: str, name: str, *, key: bool) -> None:
        """A key was asked for, and came or is not there; all that is known where a source tells no number."""
        reading = self._readings.get((peer, name))
        if reading is not None and (reading.stock is None or reading.stock.stored is None):
            self._take(peer, reading, Stock(name, delivers=key))

    def _take(self, peer: str, reading: Reading, stock: Stock) -> None:
        reading.stock = stock
        self._tell(peer, stock)

    async def watch(self) -> None:
        """Look at each pair in turn, one call at a time for each source; runs until cancelled."""
        steady = Steady("supply")
        while True:
            with steady.look():
                await asyncio.gather(*(self._next(name) for name in {name for _, name in self._readings}))
            await asyncio.sleep(CALL_GAP)

    async def _next(self, name: str) -> None:
        """Look at the one pair of that source that was not looked at for longest, where it is time."""
        own = [(reading.looked, peer) for (peer, its), reading in self._readings.items() if its == name]
        if not own:
            return  # a reload took it away in this very moment
        looked, peer = min(own)
        if monotonic() - looked >= LOOK_INTERVAL:
            self.told(peer, name, await self._ask(peer, name))
