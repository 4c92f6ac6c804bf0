"""What protected a tunnel at a moment: the records up to it, played through.

What carries traffic counts (``epoch.in-force``, ``protection.in-force``), not what was agreed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from qtunnel.audit.record import Record
from qtunnel.audit.verify import Line, Place
from qtunnel.errors import printable

State = Literal["known", "stopped", "engine-down", "removed", "unknown"]

SILENCE = 150.0
"""Seconds. A daemon that runs writes something once in 60 s; one that was silent for longer was not there, with room
for a disk or machine that is slow."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was so at a moment.

    state: ``known``, or why nothing protected anything: the daemon was ``stopped``, its ``engine-down``, the peer not
    there (``removed``), or nobody can tell (``unknown``). protection: the level as the status shows it. epoch, sources,
    key_ids, chained: of the session that sends; ``None`` and empty where there was none. since, until: the changes
    before and after, times as in the log, ``None`` for none. places: the lines that say so. remarks: for people.
    """

    peer: str
    at: str
    state: State = "unknown"
    protection: str | None = None
    epoch: int | None = None
    sources: tuple[str, ...] = ()
    key_ids: tuple[str, ...] = ()
    chained: bool = False
    since: str | None = None
    until: str | None = None
    places: tuple[Place, ...] = ()
    remarks: tuple[str, ...] = ()


def answer(lines: Iterable[Line], peer: str, at: str, seconds_of: Callable[[str], float]) -> Answer:
    """What protected the tunnel with ``peer`` at ``at``, a time as in the log. lines: in their order. seconds_of: makes
    Unix seconds of such a time."""
    now, last, after = Answer(peer, at), None, None
    for line in lines:
        record = line.record
        if record is None:
            continue
        if record.time > at:
            if after is None:
                after = record
            changed = _next(now, record, line.place)
            if changed is not now:
                now = replace(now, until=record.time)
                break
            continue
        now, last = _next(now, record, line.place), record
    if last is None:
        return replace(now, remarks=("the log begins later than that",))
    return _silent(now, last, after, seconds_of(at) - seconds_of(last.time))


def _silent(now: Answer, last: Record, after: Record | None, quiet: float) -> Answer:
    """A daemon that was killed says nothing of its end."""
    if now.state in ("stopped", "removed"):
        return now
    if after is not None and after.kind == "daemon.starting":
        words = f"the daemon's last word before that is of {last.time}, and it was started again at {after.time}: "
        words += "it was killed in between, nobody can tell when"
        return replace(now, state="unknown", protection=None, remarks=(*now.remarks, words))
    if quiet > SILENCE:
        words = f"the log's last word before that is of {last.time}: nobody can tell what was after it"
        return replace(now, state="unknown", protection=None, remarks=(*now.remarks, words))
    return now


def _next(now: Answer, record: Record, place: Place) -> Answer:
    """The state after a record; the same object where it changes nothing for this peer."""
    fields = record.fields
    fresh = Answer(now.peer, now.at, since=record.time, places=(place,))
    if record.kind == "daemon.starting":
        return replace(fresh, state="known", protection="starting")
    if record.kind == "daemon.stopped":
        return replace(fresh, state="stopped", remarks=("the daemon was stopped: no traffic, unless an interface of "
                                                        "somebody else's goes on with its last key",))  # fmt: skip
    if record.kind in ("engine.died", "engine.stopped"):
        return replace(fresh, state="engine-down", remarks=("the engine was not there: no traffic",))
    if record.kind == "engine.restarted" and now.state == "engine-down":
        return replace(fresh, state="known", protection="starting")
    if record.kind == "log.gap":
        words = f"{_number(fields.get('number'))} records are missing before {record.time}: there was no room for them"
        return replace(now, state="unknown", protection=None, since=record.time, places=(place,), remarks=(words,))
    if record.kind == "log.missing":
        first, last = _number(fields.get("from")), _number(fields.get("to"))
        words = f"records {first} to {last} were removed from the log before {record.time}"
        return replace(now, state="unknown", protection=None, since=record.time, places=(place,), remarks=(words,))
    return _of_peer(now, record, place, fresh) if record.peer == now.peer else now


def _of_peer(now: Answer, record: Record, place: Place, fresh: Answer) -> Answer:
    fields = record.fields
    match record.kind:
        case "peer.removed":
            return replace(fresh, state="removed", remarks=("a reload took the peer away",))
        case "peer.added" | "peer.replaced":
            return replace(fresh, state="known", protection="starting")
        case "epoch.in-force":
            return replace(
                fresh, state="known", protection=_text(fields.get("protection")), epoch=_number(fields.get("epoch")),
                sources=_texts(fields.get("sources")), key_ids=_texts(fields.get("key_ids")),
                chained=fields.get("chained") is True,
            )  # fmt: skip
        case "protection.in-force":
            level = _text(fields.get("after"))
            if level == now.protection and now.state == "known":
                return now
            if level in ("blocked", "starting"):  # no session: the epoch before protects nothing any more
                return replace(fresh, state="known", protection=level)
            return replace(now, state="known", protection=level, since=record.time, places=(*now.places, place),
                           remarks=())  # fmt: skip
        case "peer.blocked":
            if now.protection == "blocked" and now.state == "known":
                return now
            return replace(fresh, state="known", protection="blocked", remarks=(_text(fields.get("detail")) or "",))
    return now


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(printable(part) for part in value if isinstance(part, str)) if isinstance(value, list) else ()
