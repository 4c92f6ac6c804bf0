"""How the supply of QKD keys moves the interval between rekeys: longer when it runs low, shorter when it is full.

What a KME cannot store is lost, so a full one is made use of; one that runs low is spared before it is empty. As the
level answers to the interval, the two settle where keys are used as quickly as the link makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LOW = 0.25
"""Level below which the interval grows. At the usual 120 s a quarter of a KME's hundred keys is most of an hour: time
for a person to look, before anything is lost."""
HIGH = 0.75
"""Level above which it shrinks; between the two it is the usual one, so that an ordinary day moves nothing."""
ENOUGH = 0.5
"""Level of a source that does not say how much it can hold, at best: nobody knows that it is full."""
FEW = 32
"""Keys that count as ``LOW`` where a KME does not say how many it can hold: an hour at the usual 120 s."""
SMOOTHING = 0.3
"""Weight of a new reading: a KME for ten keys shows a tenth more or less by each key, and that is no news."""
BAND = 0.1
"""Part of the interval by which the supply has to ask for another one, before it changes: the usual jitter. Smaller
changes nobody could tell from it, and each is an event."""
STEP = 1.25
"""Most that one rekey may change the interval by. The other end takes over only after 1.5 times what it last saw, so a
step of the initiator's never looks overdue to it."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What a key source has left for one peer.

    stored: keys, ``None`` where it does not tell; capacity: keys that it can hold, likewise. delivers: whether it had a
    key when it was last asked for one; counts where it tells no number.
    """

    source: str
    stored: int | None = None
    capacity: int | None = None
    delivers: bool = True

    @property
    def level(self) -> float:
        """From 0, empty, to 1, full."""
        if self.stored is None:
            return ENOUGH if self.delivers else 0.0
        if self.capacity:
            return min(1.0, self.stored / self.capacity)
        return min(ENOUGH, LOW * self.stored / FEW)

    @property
    def words(self) -> str:
        if self.stored is None:
            return f"{self.source} {'does not say how many keys it has' if self.delivers else 'has no keys'}"
        of = f" of {self.capacity}" if self.capacity else ""
        return f"{self.source} has {self.stored}{of} keys left"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds: the usual interval, the shortest and the longest; equal to the usual one where none is wanted."""

    usual: float
    shortest: float
    longest: float

    @classmethod
    def of(cls, usual: float, shortest: float | None, longest: float | None, ceiling: float) -> Bounds:
        """ceiling: what age limits allow; the usual interval stands all the same."""
        at_most = usual if longest is None else max(usual, min(longest, ceiling))
        return cls(usual, usual if shortest is None else min(usual, shortest), at_most)

    @property
    def move(self) -> bool:
        """Whether there is anything to move in."""
        return self.shortest < self.usual or self.longest > self.usual


def wanted(level: float, bounds: Bounds) -> float:
    """The interval that a level asks for, in seconds: falls as the level rises, in equal proportions for equal parts of
    it."""
    if level < LOW:
        return float(bounds.usual * (bounds.longest / bounds.usual) ** ((LOW - level) / LOW))
    if level > HIGH:
        return float(bounds.usual * (bounds.shortest / bounds.usual) ** ((level - HIGH) / (1 - HIGH)))
    return bounds.usual


def moved(interval: float, target: float, bounds: Bounds) -> float:
    """The interval after the present one: by a step towards the target, or the same where that is not worth a change.

    A target at the usual interval or beyond it, as seen from here, always is: otherwise one that was stretched would
    never quite come back.
    """
    crosses = min(interval, target) <= bounds.usual <= max(interval, target)
    if abs(target - interval) <= BAND * interval:
        target = bounds.usual if crosses else interval
    return min(max(target, interval / STEP, bounds.shortest), interval * STEP, bounds.longest)


@dataclass(slots=True)
class Pace:
    """The interval in force for one peer, and why it is not the usual one."""

    bounds: Bounds
    interval: float = 0.0
    reason: str = ""
    shown: float | None = None
    """The interval that the other end will have seen, where a rekey comes earlier than by this one: the next is within
    a step of that."""
    _levels: dict[str, float] = field(default_factory=dict)
    _stocks: dict[str, Stock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.interval = self.bounds.usual

    def tell(self, stock: Stock) -> None:
        """A reading of one source. A source that cannot be read is not told of, and changes nothing."""
        known, level = self._stocks.get(stock.source), stock.level
        if known is not None and (known.stored is None) == (stock.stored is None):
            before = self._levels[stock.source]
            level = before + SMOOTHING * (level - before)
        self._levels[stock.source], self._stocks[stock.source] = level, stock

    def advance(self) -> bool:
        """Once for each rekey: move by what was told since. Whether the interval changed.

        The scarcest source decides: every one of them gives a key to each rekey.
        """
        if not self._levels or not self.bounds.move:
            return False
        scarcest = min(self._levels, key=lambda source: self._levels[source])
        before, target = self.interval, wanted(self._levels[scarcest], self.bounds)
        self.interval = moved(before, target, self.bounds)
        if self.shown is not None:
            self.interval, self.shown = min(self.interval, STEP * max(self.bounds.usual, self.shown)), None
        usual = self.interval == self.bounds.usual
        self.reason = "" if usual else self._stocks[scarcest].words
        return self.interval != before

    @property
    def scarce(self) -> bool:
        """Whether keys run low as far as is known, or the interval is still stretched because they did."""
        return self.interval > self.bounds.usual or min(self._levels.values(), default=1.0) < LOW

    def know(self, before: Pace) -> None:
        """What another one was told; the interval begins with the usual one."""
        self._levels, self._stocks = dict(before._levels), dict(before._stocks)
