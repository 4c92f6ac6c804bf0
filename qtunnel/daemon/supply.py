"""What key sources have left for each peer whose schedule goes by it, as looks at their status tell it (watch.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qtunnel.keys.pace import Stock
from qtunnel.keys.source import SourceStatus

Tell = Callable[[str, Stock], None]


@dataclass(slots=True)
class Reading:
    """What is known of one source towards one peer. problem: why the last look failed; the stock is then that of the
    one before."""

    stock: Stock | None = None
    problem: str | None = None

    def words(self, name: str) -> str:
        known = f"{name} was not asked yet" if self.stock is None else self.stock.words
        return known if self.problem is None else f"{known} (the last look failed: {self.problem})"


class Supply:
    """Readings of all pairs of peer and source in ``heeded``; others are of no meaning."""

    def __init__(self, heeded: Iterable[tuple[str, str]], tell: Tell) -> None:
        self._readings = {pair: Reading() for pair in heeded}
        self._tell = tell

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
