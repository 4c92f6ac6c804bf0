"""What is known of each key source: its state, what it said last, what it gave and what was lost. Told as events."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from qtunnel.config import KeySourceConfig
from qtunnel.control.messages import FaultKind, KeySourceStatus
from qtunnel.daemon.clock import monotonic
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.events import EventStream
from qtunnel.keys.health import DAY, SourceHealth, SourceState, days_left
from qtunnel.keys.quality import SeenKeys, defect
from qtunnel.keys.source import SourceStatus
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef

DOWN = (KeySourceUnreachableError, KeySourceTimeoutError, KeySourceCertificateError, KeySourceUnauthorizedError)
"""What the calls of all peers would meet. A source that has no key, or not this one, answers and is not down."""

FAULTS: dict[type[KeySourceError], FaultKind] = {
    KeySourceUnreachableError: "unreachable",
    KeySourceTimeoutError: "timeout",
    KeySourceCertificateError: "certificate",
    KeySourceUnauthorizedError: "unauthorized",
    KeyRequestRejectedError: "rejected",
    KeySourceUnavailableError: "unavailable",
    KeyNotFoundError: "key-not-found",
    KeySourceProtocolError: "protocol",
}
"""Each kind of failure by the word that status and metrics have for it."""
DEFECT: FaultKind = "driver"
"""The word for a failure that is none of them: of the driver itself."""


@dataclass(slots=True)
class Known:
    """One source. detail: what it said last; status: as it told it last, for the first of its peers; key_size: of the
    key that it gave last, in bytes; faults: calls that failed, by ``FAULTS``. waited: the peer for whose key it
    was asked last until the time was up."""

    description: str
    health: SourceHealth
    detail: str = ""
    last_error: str | None = None
    status: SourceStatus | None = None
    key_size: int | None = None
    waited: str | None = None
    faults: dict[FaultKind, int] = field(default_factory=dict)

    @property
    def healthy(self) -> bool | None:
        """``None`` where it was not asked yet."""
        return {SourceState.UNASKED: None, SourceState.WELL: True}.get(self.health.state, False)


class SourceBook:
    """All sources of the configuration, by name."""

    def __init__(self, events: EventStream) -> None:
        self._events = events
        self._known: dict[str, Known] = {}
        self._seen = SeenKeys(Secret.random(os.urandom, 32))

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def keep(
        self, sources: Mapping[str, KeySourceConfig], fresh: Mapping[str, object], intervals: Mapping[str, float]
    ) -> None:
        """The sources of another configuration; fresh: those that are new, or not those of before; intervals: the
        shortest between the rekeys that use each, in seconds. A quarantine stays in force for a source of the same
        name: only who clears it ends it."""
        before, self._known = self._known, {}
        for name, source in sources.items():
            its = before.get(name)
            stays = its is not None and (name not in fresh or its.health.state is SourceState.QUARANTINED)
            if its is None or not stays:
                its = Known(f"{source.driver}:{name}", SourceHealth(source.rules.limits, monotonic()))
            its.description, its.health.limits = f"{source.driver}:{name}", source.rules.limits
            its.health.interval = intervals.get(name, its.health.interval)
            self._known[name] = its

    def describe(self, name: str) -> str:
        """Driver and name, as ``etsi014:metro``."""
        return self._known[name].description if name in self._known else name

    def refusal(self, name: str) -> str | None:
        """Why it must not be asked for keys now; ``None`` where it may be."""
        its = self._known.get(name)
        return None if its is None else its.health.refusal(monotonic())

    def quarantined(self, name: str) -> bool:
        its = self._known.get(name)
        return its is not None and its.health.state is SourceState.QUARANTINED

    def check(self, ref: KeyRef, key: Secret, call: str) -> None:
        """Raises ``KeySourceProtocolError``, the key wiped, for one that no working source delivers. That it is used
        once is for the core to see."""
        wrong = defect(key)
        before = self._seen.taken_for(f"{ref.source} {ref.key_id}", key) if wrong is None else None
        if before is not None:
            wrong = f"it was delivered before as {before}"
        if wrong is not None:
            key.wipe()
            raise KeySourceProtocolError(ref.source, call, f"key {ref.key_id} is not random: {wrong}", lost=1)

    def delivered(self, name: str, size: int) -> None:
        """A key of ``size`` bytes came."""
        its = self._known.get(name)
        if its is not None:
            its.key_size, its.waited = size, None
            self._well(name, its, "delivers keys", 1)

    def failed(
        self,
        name: str,
        problem: str,
        error: BaseException | None = None,
        *,
        chosen_by: str | None = None,
        alone: bool = True,
    ) -> None:
        """A call failed with ``problem``, in words. error: what was raised, where it says more. chosen_by: the peer
        that said what to ask for; alone: no other peer uses the source."""
        its = self._known.get(name)
        if its is None:
            return  # it went while it was asked
        lost = error.lost if isinstance(error, KeySourceError) else 0
        if lost:
            self._events.publish("source.keys-lost", None, source=name, number=lost, detail=problem)
        fault = FAULTS.get(type(error), DEFECT) if isinstance(error, KeySourceError) else DEFECT
        its.faults[fault] = its.faults.get(fault, 0) + 1
        before = its.healthy
        down = isinstance(error, DOWN)
        if down and chosen_by is not None:
            down = _met_by_all(its, error, chosen_by, alone=alone)
        its.health.failed(monotonic(), down=down, lost=lost)
        its.detail = its.last_error = problem
        if before is not False:
            self._events.publish("source.down", None, source=name, detail=problem)

    def lost(self, name: str, number: int, detail: str) -> None:
        """Keys that it gave and that nobody holds any more."""
        its = self._known.get(name)
        if its is not None:
            its.health.lost += number
            self._events.publish("source.keys-lost", None, source=name, number=number, detail=detail)

    def looked(self, name: str, status: SourceStatus) -> None:
        """Its status was read."""
        its = self._known.get(name)
        if its is None:
            return  # it went while it was asked
        its.status, before = status, its.health.state
        if its.health.looked(status, monotonic()):
            self._tell_quarantine(name, its)
        if its.health.state is SourceState.QUARANTINED:
            return
        if status.healthy:
            self._well(name, its, status.detail, 0)
        else:
            its.health.failed(monotonic(), down=False)
            its.detail = its.last_error = status.detail
            if before in (SourceState.UNASKED, SourceState.WELL):
                self._events.publish("source.down", None, source=name, detail=status.detail)

    def _well(self, name: str, its: Known, detail: str, keys: int) -> None:
        before = its.healthy
        its.health.delivered(keys, monotonic())
        if its.health.state is SourceState.QUARANTINED:
            return
        its.detail = detail
        if before is not True:
            self._events.publish("source.up", None, source=name, detail=detail)

    def _tell_quarantine(self, name: str, its: Known) -> None:
        if its.health.state is SourceState.QUARANTINED:
            its.detail = its.last_error = its.health.alarm or ""
            self._events.publish("source.quarantined", None, source=name, detail=its.detail)
        else:
            its.detail = "its alarm has ended"
            self._events.publish("source.cleared", None, source=name, detail=its.detail)

    def clear(self, name: str) -> bool:
        """End a quarantine, by an operator; whether there was one."""
        its = self._known[name]
        if not its.health.clear():
            return False
        its.detail = "cleared by an operator"
        self._events.publish("source.cleared", None, source=name, detail=its.detail)
        return True

    def names(self) -> list[str]:
        return list(self._known)

    def status(self) -> list[KeySourceStatus]:
        """For the status, by name."""
        return [_status_of(name, its, monotonic()) for name, its in self._known.items()]


def _met_by_all(its: Known, error: BaseException | None, peer: str, *, alone: bool) -> bool:
    """Whether the calls of all peers would fail as the one for a key that this peer chose: else one could put the
    source to rest for all. A KME refuses the key of another SAE with 401 (ETSI GS QKD 014 clause 5.4), and a program
    may wait in vain for a key that never comes; that counts once it happened to two."""
    if isinstance(error, KeySourceUnauthorizedError):
        return False
    if alone or not isinstance(error, KeySourceTimeoutError):
        return True
    before, its.waited = its.waited, peer
    return before not in (None, peer)


def _status_of(name: str, its: Known, now: float) -> KeySourceStatus:
    told, health = its.status or SourceStatus(False, ""), its.health
    refusal = health.alarm if health.state is SourceState.QUARANTINED else None
    used = health.consumption.per_day(now)
    made = _keys_a_day(told.key_rate, its.key_size)
    days = days_left(told.stored_keys, used, made)
    return KeySourceStatus(
        name=name,
        description=its.description,
        healthy=its.healthy,
        state=health.state.value,
        detail=its.detail,
        last_error=its.last_error,
        stored_keys=told.stored_keys,
        max_keys=told.max_keys,
        qber=told.qber,
        qber_limit=health.limits.qber,
        key_rate=told.key_rate,
        keys_used_per_day=used,
        days_left=days if days != float("inf") else None,
        lasts=days == float("inf"),
        keys_taken=health.taken,
        keys_lost=health.lost,
        faults=dict(its.faults),
        alarm=refusal,
    )


def _keys_a_day(rate: float | None, size: int | None) -> float | None:
    """rate: secret bits per second; size: of a key, in bytes."""
    return None if rate is None or not size else rate * DAY / (8 * size)
