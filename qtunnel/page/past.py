"""What the page shows of the last hour: rekeys and protection of each peer, figures of each key source, events.

All of it is bounded, however many peers there are and whatever they do.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from qtunnel.control.messages import KeySourceStatus
from qtunnel.events import Event

SPAN = 3600.0
"""Seconds shown. An hour has 30 rekeys at the default interval: as many as can be told apart on a phone."""
MARKS = 120
"""Rekeys and changes kept for each peer: four hours' worth at the default interval, or a bad hour."""
SAMPLE_EVERY = 10.0
"""Seconds between looks at a source's figures, which KMEs are asked for every 30 s by default."""
POINTS = int(SPAN / SAMPLE_EVERY)
EVENTS = 40
"""Newest events shown: some screens full."""
QUIET = frozenset({"message.rejected", "events.dropped"})
"""What anybody on the Internet can make happen: counted in the metrics, and not a line here that pushes others out."""
HIDDEN = frozenset({"key_ids", "fingerprint", "pid", "uid", "file"})
"""Fields that the page does without: they are of use to who can read the log."""
LONGEST = 300
"""Characters of one field."""


@dataclass(slots=True)
class _Peer:
    rekeys: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=MARKS))
    """Unix seconds, 1 for done and 0 for failed, epoch (0 where there is none)."""
    levels: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=MARKS))
    """Unix seconds, and the protection in force from then on."""


class Past:
    """Filled by events and looks, read as plain values. level: of an event in the log."""

    def __init__(self, level: Callable[[str], str]) -> None:
        self._level = level
        self._peers: dict[str, _Peer] = {}
        self._figures: dict[str, deque[tuple[float, float | None, float | None, int | None]]] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self.number = 0
        """Grows with every change."""

    def happened(self, event: Event) -> None:
        """Take note of an event."""
        if event.peer is not None and event.kind in ("rekey.done", "rekey.failed"):
            epoch = event.fields.get("epoch")
            done = event.kind == "rekey.done"
            self._of(event.peer).rekeys.append((event.time, int(done), epoch if isinstance(epoch, int) else 0))
        elif event.peer is not None and event.kind == "protection.in-force":
            self._of(event.peer).levels.append((event.time, str(event.fields.get("after"))))
        elif event.kind in ("peer.removed", "peer.replaced") and event.peer is not None:
            self._peers.pop(event.peer, None)
        level = self._level(event.kind)
        if level != "debug" and event.kind not in QUIET:
            told = {name: _short(value) for name, value in event.fields.items() if name not in HIDDEN}
            self._events.appendleft(
                {"time": round(event.time, 3), "kind": event.kind, "peer": event.peer, "level": level, "fields": told}
            )
        self.number += 1

    def sample(self, now: float, sources: Iterable[KeySourceStatus]) -> None:
        """Take note of what key sources tell. now: Unix seconds. A source that fails tells nothing now: a gap."""
        present = {its.name: its for its in sources}
        for name in [name for name in self._figures if name not in present]:
            del self._figures[name]
        for name, its in present.items():
            points = self._figures.setdefault(name, deque(maxlen=POINTS))
            well = its.healthy is True
            points.append(
                (now, its.qber if well else None, its.key_rate if well else None, its.stored_keys if well else None)
            )
        self.number += bool(present)

    def view(self, now: float, peers: Iterable[str]) -> dict[str, Any]:
        """As JSON has it, of these peers. now: Unix seconds."""
        begin = now - SPAN
        return {
            "span": SPAN,
            "peers": {name: self._timeline(name, begin) for name in peers},
            "sources": {
                name: [[round(at, 1), *map(_finite, rest)] for at, *rest in points if at >= begin]
                for name, points in self._figures.items()
            },
            "events": list(self._events),
        }

    def _of(self, peer: str) -> _Peer:
        return self._peers.setdefault(peer, _Peer())

    def _timeline(self, name: str, begin: float) -> dict[str, Any]:
        its = self._peers.get(name, _Peer())
        levels = [(at, level) for at, level in its.levels if at >= begin]
        before = [level for at, level in its.levels if at < begin]
        if before:
            levels.insert(0, (begin, before[-1]))
        return {
            "rekeys": [[round(at, 2), done, epoch] for at, done, epoch in its.rekeys if at >= begin],
            "levels": [[round(at, 2), level] for at, level in levels],
        }


def _short(value: Any) -> Any:
    text = ", ".join(value) if isinstance(value, tuple) else value
    if isinstance(text, str) and len(text) > LONGEST:
        return text[: LONGEST - 1] + "…"
    return _finite(text)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
