"""How the key sources stand, for the status: each as a whole, and what it says of its keys with each peer."""

from __future__ import annotations

from qtunnel.control.messages import KeySourceStatus, SourcePeerStatus, SourceStateName
from qtunnel.daemon.clock import monotonic
from qtunnel.daemon.source_book import Known, SourceBook
from qtunnel.keys.health import DAY, SourceState, days_left
from qtunnel.keys.source import SourceStatus
from qtunnel.keys.trust import Trust, TrustState


def status_of(book: SourceBook) -> list[KeySourceStatus]:
    """By name."""
    return [_source(name, its, monotonic()) for name, its in book]


def _source(name: str, its: Known, now: float) -> KeySourceStatus:
    """Store and rate are those towards the first peer that they were told of; the QBER is the worst of all."""
    towards, health = list(its.towards.values()), its.health
    told = next((one.status for one in towards if one.status is not None), None) or SourceStatus(False, "")
    rates = [(one.status.qber, one.age(now)) for one in towards if one.status and one.status.qber is not None]
    qber, qber_age = max(rates, key=lambda rate: rate[0], default=(None, None))
    barred = [one for one in towards if one.barred]
    used = health.consumption.per_day(now)
    days = days_left(told.stored_keys, used, _keys_a_day(told.key_rate, its.key_size))
    return KeySourceStatus(
        name=name,
        description=its.description,
        healthy=False if barred else its.healthy,
        state=_state(its, barred),
        detail=its.detail,
        last_error=its.last_error,
        stored_keys=told.stored_keys,
        max_keys=told.max_keys,
        qber=qber,
        qber_age_s=qber_age,
        qber_limit=health.quarantine.limits.qber,
        key_rate=told.key_rate,
        keys_used_per_day=used,
        days_left=days if days != float("inf") else None,
        lasts=days == float("inf"),
        keys_taken=health.taken,
        keys_lost=health.lost,
        faults=dict(its.faults),
        alarm=_alarm(its, barred),
        towards=[_towards(one, now) for one in towards],
    )


def _state(its: Known, barred: list[Trust]) -> SourceStateName:
    quarantined = sum(one.state is TrustState.QUARANTINED for one in barred)
    if its.health.state is SourceState.QUARANTINED or (quarantined and quarantined == len(its.towards)):
        return "in quarantine"
    if quarantined:
        return "partly in quarantine"
    return "failing" if barred and its.healthy is not False else its.health.state.value


def _alarm(its: Known, barred: list[Trust]) -> str | None:
    if its.health.alarm is not None:
        return its.health.alarm
    if not barred:
        return None
    first = f"towards {barred[0].peer}: {barred[0].why}"
    return first if len(barred) == 1 else f"{first}; and towards {len(barred) - 1} more"


def _towards(trust: Trust, now: float) -> SourcePeerStatus:
    status, shown = trust.status or SourceStatus(False, ""), trust.shown(now)
    return SourcePeerStatus(
        peer=trust.peer,
        state=shown.value if trust.warns or shown is not TrustState.UNSEEN else "tells none",
        stored_keys=status.stored_keys,
        qber=status.qber,
        alarm=trust.why if trust.barred else None,
        problem=trust.problem or (None if status.healthy or trust.status is None else status.detail),
        status_age_s=trust.age(now),
        silent_s=trust.silent(now),
    )


def _keys_a_day(rate: float | None, size: int | None) -> float | None:
    """rate: secret bits per second; size: of a key, in bytes."""
    return None if rate is None or not size else rate * DAY / (8 * size)
