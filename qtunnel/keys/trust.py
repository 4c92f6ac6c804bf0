"""Whether keys of one source may be used with one peer, by what the source's status towards that peer says.

Each pair of peer and source has a link of its own behind it, or may have: the status of a KME is one for each pair of
SAEs (ETSI GS QKD 014 clause 5.1). So no key is used before somebody has looked, and an alarm towards one peer says
nothing of the others.

Not every source offers a status, and one that hangs must not end a tunnel for ever: without an answer the first keys
wait ``HOLD``, and are used then, which is shown and told. A status that came and whose QBER cannot be read is no such
silence: until one comes that can be read, no key is used.
"""

from __future__ import annotations

from enum import Enum

from qtunnel.keys.health import CLEAR, Limits, Quarantine, alarm_of
from qtunnel.keys.source import SourceStatus
from qtunnel.statemachine import Machine

HOLD = 8.0
"""Seconds that the first keys wait for a status, from when it was first asked for: drivers give up after 5 s by
default, and a rekey that waits so long is still within the 30 s of its exchange."""
FRESH = 30.0
"""Seconds that a look counts: a key that is asked for later takes another look before it. A quarter of the usual time
between rekeys, so that each of them has its own."""
SILENT_AFTER = 120.0
"""Seconds without a status after which keys that come all the same are shown as not watched: the usual time between two
rekeys, so that one look that failed is no news."""
AGAIN = 1.0
"""Seconds until a look that failed is made again before a key, where none may be used without."""


class TrustState(Enum):
    UNSEEN = "not looked at yet"
    CLEAR = "no alarm"
    UNKNOWN = "status not known"
    UNREADABLE = "status unreadable"
    QUARANTINED = "in quarantine"


class TrustEvent(Enum):
    FINE = "a status without an alarm"
    SILENT = "a key is due, and no status came in its time"
    GARBLED = "a status whose QBER or alarm cannot be read"
    ALARMED = "alarm, or QBER above its limit"
    CLEARED = "cleared"


TRUST_TABLE = {
    (TrustState.UNSEEN, TrustEvent.FINE): TrustState.CLEAR,
    (TrustState.CLEAR, TrustEvent.FINE): TrustState.CLEAR,
    (TrustState.UNKNOWN, TrustEvent.FINE): TrustState.CLEAR,
    (TrustState.UNREADABLE, TrustEvent.FINE): TrustState.CLEAR,
    (TrustState.UNSEEN, TrustEvent.SILENT): TrustState.UNKNOWN,
    (TrustState.CLEAR, TrustEvent.SILENT): TrustState.UNKNOWN,
    (TrustState.UNSEEN, TrustEvent.GARBLED): TrustState.UNREADABLE,
    (TrustState.CLEAR, TrustEvent.GARBLED): TrustState.UNREADABLE,
    (TrustState.UNKNOWN, TrustEvent.GARBLED): TrustState.UNREADABLE,
    (TrustState.UNREADABLE, TrustEvent.GARBLED): TrustState.UNREADABLE,
    **{(state, TrustEvent.ALARMED): TrustState.QUARANTINED for state in TrustState},
    **{(state, TrustEvent.CLEARED): TrustState.UNSEEN for state in TrustState},
}


class Trust:
    """Of one source towards one peer. All times are monotonic seconds.

    warns: whether its status may tell a QBER or an alarm; otherwise no key waits for one.
    """

    def __init__(self, name: str, peer: str, limits: Limits, *, warns: bool = True) -> None:
        self.name, self.peer, self.warns = name, peer, warns
        self.quarantine = Quarantine(limits)
        self._machine = Machine(TRUST_TABLE, TrustState.UNSEEN)
        self._begun: float | None = None
        self._tried = self._good = float("-inf")
        self.problem: str | None = None
        """Why the last look brought no status that can be used."""
        self.status: SourceStatus | None = None
        """As it was told last."""
        self.told = float("-inf")
        """When the look at that began."""
        self.doubts = 0
        """How often keys that had come already became such as must not be used."""

    @property
    def state(self) -> TrustState:
        return self._machine.state

    @property
    def seen(self) -> bool:
        """Whether anybody knows better than to wait for a status."""
        return self.state is not TrustState.UNSEEN

    @property
    def begun(self) -> bool:
        """Whether the time has begun for which its first keys wait."""
        return self._begun is not None

    @property
    def barred(self) -> bool:
        """Whether no key is used, nor any that came since the last good look."""
        return self.state in (TrustState.UNREADABLE, TrustState.QUARANTINED)

    def age(self, now: float) -> float | None:
        """Seconds since the look that brought the last status began; ``None`` where there was none."""
        return None if self.status is None else max(0.0, now - self.told)

    def silent(self, now: float) -> float | None:
        """Seconds for which no status came, or since the first look began where none ever did; ``None`` where the last
        look brought one that counts."""
        if self.problem is None or self.barred:
            return None
        begun = now if self._begun is None else self._begun
        return max(0.0, now - (begun if self.status is None else self.told))

    def shown(self, now: float) -> TrustState:
        """The state for people: that no status comes shows as well where no key is asked for."""
        silent = self.silent(now)
        if self.state is TrustState.CLEAR and silent is not None and silent >= SILENT_AFTER:
            return TrustState.UNKNOWN
        return self.state

    @property
    def why(self) -> str:
        """What barred it, in words, or why nobody knows better."""
        return self.quarantine.alarm or self.problem or "no status came"

    def due(self, now: float) -> bool:
        """Whether a key that is asked for now takes a look before it."""
        if not self.warns or self.state is TrustState.QUARANTINED:
            return False
        waiting = self.state in (TrustState.UNSEEN, TrustState.UNREADABLE)
        return now - self._tried >= (AGAIN if waiting else FRESH)

    def begins(self, now: float) -> None:
        """A look begins."""
        self._tried = now
        if self._begun is None:
            self._begun = now

    def looked(self, status: SourceStatus, begun: float, now: float) -> None:
        """What the source says of its keys with this peer, by a look that began then."""
        self.status, self.told = status, begun
        alarm = None if status.for_all else alarm_of(status, self.quarantine.limits)
        if alarm is not None:
            self._machine.fire(TrustEvent.ALARMED)
            self.quarantine.alarmed(alarm)
        elif self.state is not TrustState.QUARANTINED or (self.quarantine.quiet(now) and self.clear()):
            self._machine.fire(TrustEvent.FINE)
            self._good, self.problem = begun, None

    def failed(self, problem: str, *, garbled: bool = False, none: bool = False) -> None:
        """A look brought no status. garbled: one that cannot be read; none: it says that it has none."""
        self.problem = problem
        if garbled and self.state is not TrustState.QUARANTINED:
            self._machine.fire(TrustEvent.GARBLED)
        elif none and self.state is TrustState.UNSEEN:
            self._machine.fire(TrustEvent.SILENT)

    def refusal(self, now: float) -> str | None:
        """Why no key is to be asked for now, in words; ``None`` where one may be, also where nobody knows better."""
        match self.state:
            case TrustState.QUARANTINED:
                return f"towards {self.peer} {self.quarantine.words(f'{CLEAR} {self.name} --peer {self.peer}')}"
            case TrustState.UNREADABLE:
                return f"towards {self.peer} no key is used: {self.problem}"
            case TrustState.UNSEEN if self.warns:
                if self._begun is None or now - self._begun < HOLD:
                    why = "" if self.problem is None else f" ({self.problem})"
                    return f"towards {self.peer} its first status is waited for{why}"
                self._machine.fire(TrustEvent.SILENT)
            case TrustState.CLEAR if self.warns and now - self._good >= SILENT_AFTER:
                self._machine.fire(TrustEvent.SILENT)
        return None

    def clear(self) -> bool:
        """End a quarantine, and look again before any key is used; whether there was one."""
        was = self.state is TrustState.QUARANTINED
        self._machine.fire(TrustEvent.CLEARED)
        self.quarantine.alarm = self.problem = self._begun = None
        self._tried = self._good = float("-inf")
        return was
