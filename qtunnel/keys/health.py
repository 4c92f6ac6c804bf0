"""How well one key source is, for all peers together: when it may be asked, and when not at all.

A source that is down is not asked for every peer's every rekey: it rests, ever longer up to a bound, and the first call
after that shows whether it is back. A source that warns as a whole, of a device that was opened, is put into
quarantine: nothing of it is used until an operator clears it, or where the configuration says so some time after its
alarm has ended. What it says of the keys with one peer alone is for trust.py.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

from qtunnel.keys.source import SourceStatus
from qtunnel.statemachine import Machine

FAILURES = 3
"""Calls in a row that find a source down before it rests: one or two are a restart or a lost connection."""
FIRST_REST = 1.0
"""Seconds of the first rest, doubling with each failure after it up to ..."""
LONGEST_REST = 15.0
"""... these, and ..."""
REST_SHARE = 1 / 8
"""... this share of the shortest time between rekeys: with the usual 120 s that is the same, and a KME that is back
serves again well before the next rekey but one."""
WINDOW = 3600.0
"""Seconds over which consumption is counted, in ..."""
PARTS = 60
"""... so many parts."""
DAY = 86_400.0
CLEAR = "qtunnel sources clear"
"""What ends a quarantine, with the source's name behind it."""


class SourceState(Enum):
    UNASKED = "not asked yet"
    WELL = "well"
    FAILING = "failing"
    RESTING = "resting"
    QUARANTINED = "in quarantine"


class SourceEvent(Enum):
    DELIVERED = "delivered"
    FAILED = "failed"
    GAVE_UP = "down for several calls"
    RESTED = "rested"
    ALARMED = "alarm, or QBER above its limit"
    CLEARED = "cleared"


_ALARMS = {
    (state, SourceEvent.ALARMED): SourceState.QUARANTINED for state in SourceState
}  # in quarantine as well: it begins anew

SOURCE_TABLE = {
    (SourceState.UNASKED, SourceEvent.DELIVERED): SourceState.WELL,
    (SourceState.UNASKED, SourceEvent.FAILED): SourceState.FAILING,
    (SourceState.UNASKED, SourceEvent.GAVE_UP): SourceState.RESTING,
    (SourceState.WELL, SourceEvent.DELIVERED): SourceState.WELL,
    (SourceState.WELL, SourceEvent.FAILED): SourceState.FAILING,
    (SourceState.WELL, SourceEvent.GAVE_UP): SourceState.RESTING,
    (SourceState.FAILING, SourceEvent.DELIVERED): SourceState.WELL,
    (SourceState.FAILING, SourceEvent.FAILED): SourceState.FAILING,
    (SourceState.FAILING, SourceEvent.GAVE_UP): SourceState.RESTING,
    (SourceState.RESTING, SourceEvent.RESTED): SourceState.FAILING,
    (SourceState.RESTING, SourceEvent.DELIVERED): SourceState.WELL,
    (SourceState.RESTING, SourceEvent.FAILED): SourceState.RESTING,
    (SourceState.RESTING, SourceEvent.GAVE_UP): SourceState.RESTING,
    (SourceState.QUARANTINED, SourceEvent.CLEARED): SourceState.UNASKED,
    **_ALARMS,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """qber: the quantum bit error rate, as a fraction, above which a source's keys are not used. quarantine: seconds
    without an alarm after which it ends by itself, ``None`` for not before an operator says so."""

    qber: float = 0.11
    quarantine: float | None = None


class Quarantine:
    """What forbids to use keys: an alarm, from when it came until it is cleared or, where ``limits`` say so, some time
    after it has ended. All times are monotonic seconds."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.alarm: str | None = None
        self._quiet_since: float | None = None

    def alarmed(self, alarm: str) -> None:
        """An alarm, in words; in quarantine as well, where it begins anew."""
        self.alarm, self._quiet_since = alarm, None

    def quiet(self, now: float) -> bool:
        """A look found no alarm; whether that ends the quarantine."""
        if self._quiet_since is None:  # not before it was seen to have ended: who keeps us from looking ends nothing
            self._quiet_since = now
        return self.limits.quarantine is not None and now - self._quiet_since >= self.limits.quarantine

    def words(self, clear: str) -> str:
        """Why no key is used, and how that ends. clear: what an operator has to type."""
        return f"in quarantine: {self.alarm}; {self._way_out(clear)}"

    def _way_out(self, clear: str) -> str:
        if self.limits.quarantine is None:
            return f"an operator has to clear it ({clear})"
        return f"it ends {self.limits.quarantine:g} s after the alarm does, or by {clear}"


class Consumption:
    """Keys taken from a source, counted over the last ``WINDOW`` seconds."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self._parts: deque[tuple[int, int]] = deque()

    def took(self, number: int, now: float) -> None:
        part = int(now // (WINDOW / PARTS))
        if self._parts and self._parts[-1][0] == part:
            number += self._parts.pop()[1]
        self._parts.append((part, number))

    def per_day(self, now: float) -> float | None:
        """Keys a day at the rate of the window; ``None`` in the first minute, which says nothing."""
        oldest = int((now - WINDOW) // (WINDOW / PARTS))
        while self._parts and self._parts[0][0] <= oldest:
            self._parts.popleft()
        counted = min(WINDOW, now - self._begun)
        if counted < WINDOW / PARTS:
            return None
        return sum(number for _, number in self._parts) * DAY / counted


def days_left(stored: int | None, used_per_day: float | None, made_per_day: float | None) -> float | None:
    """Days until a source is empty at these rates; infinite where no less is made than used, ``None`` where not known.

    made_per_day: ``None`` where the source does not tell; then it counts as nothing, and the days are a lower bound.
    """
    if stored is None or used_per_day is None:
        return None
    net = used_per_day - (made_per_day or 0.0)
    return float("inf") if net <= 0 else stored / net


class SourceHealth:
    """One source's state. name: as in the configuration. All times are monotonic seconds; interval: the shortest
    between the rekeys that use it."""

    def __init__(self, name: str, limits: Limits, now: float, interval: float = LONGEST_REST / REST_SHARE) -> None:
        self.name, self.interval = name, interval
        self.quarantine = Quarantine(limits)
        self._machine = Machine(SOURCE_TABLE, SourceState.UNASKED)
        self._in_a_row = 0
        self._rest = FIRST_REST
        self.rests_until = 0.0
        self.taken, self.lost = 0, 0
        """Keys that were delivered, and keys booked as lost, since the start."""
        self.consumption = Consumption(now)

    @property
    def state(self) -> SourceState:
        return self._machine.state

    def refusal(self, now: float) -> str | None:
        """Why the source must not be asked for a key now, in words; ``None`` where it may be."""
        if self.state is SourceState.QUARANTINED:
            return self.quarantine.words(f"{CLEAR} {self.name}")
        if self.state is SourceState.RESTING:
            if now < self.rests_until:
                left = math.ceil(self.rests_until - now)
                return f"was down {self._in_a_row} times in a row; it is asked again in {left} s"
            self._machine.fire(SourceEvent.RESTED)
        return None

    def delivered(self, number: int, now: float) -> None:
        """It gave ``number`` keys, or for 0 said that it is well."""
        self.taken += number
        if number:
            self.consumption.took(number, now)
        if self.state is SourceState.QUARANTINED:
            return  # asked before the alarm came
        self._in_a_row, self._rest = 0, FIRST_REST
        self._machine.fire(SourceEvent.DELIVERED)

    def failed(self, now: float, *, down: bool, lost: int = 0) -> None:
        """A call failed. down: nobody was there to answer it, so that the others would fail as well."""
        self.lost += lost
        if self.state is SourceState.QUARANTINED:
            return
        if not down:
            self._machine.fire(SourceEvent.FAILED)
            return
        self._in_a_row += 1
        if self._in_a_row < FAILURES or (self.state is SourceState.RESTING and now < self.rests_until):
            self._machine.fire(SourceEvent.FAILED)  # a call from before the rest does not make it longer
            return
        self._machine.fire(SourceEvent.GAVE_UP)
        self.rests_until = now + min(self._rest, self.interval * REST_SHARE)
        self._rest = min(LONGEST_REST, 2 * self._rest)

    def looked(self, status: SourceStatus, now: float) -> bool:
        """What the source says of itself as a whole; whether that put it into quarantine, or ended one that ends by
        itself."""
        alarm = alarm_of(status, self.quarantine.limits) if status.for_all else None
        if alarm is not None:
            news = self.state is not SourceState.QUARANTINED
            self._machine.fire(SourceEvent.ALARMED)
            self.quarantine.alarmed(alarm)
            return news
        return self.state is SourceState.QUARANTINED and self.quarantine.quiet(now) and self.clear()

    def clear(self) -> bool:
        """End the quarantine; whether there was one. An alarm that goes on brings it back at the next look."""
        if self.state is not SourceState.QUARANTINED:
            return False
        self._machine.fire(SourceEvent.CLEARED)
        self.quarantine.alarm, self._in_a_row, self._rest = None, 0, FIRST_REST
        return True

    @property
    def alarm(self) -> str | None:
        """Why it is in quarantine."""
        return self.quarantine.alarm


def alarm_of(status: SourceStatus, limits: Limits) -> str | None:
    """What a status says that forbids to use the source's keys, in words."""
    if status.alarm is not None:
        return f"it warns: {status.alarm}"
    if status.qber is not None and not 0 <= status.qber <= limits.qber:  # NaN is in no range
        return f"QBER {status.qber:.1%}, above its limit of {limits.qber:.1%}"
    return None
