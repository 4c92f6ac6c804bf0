"""What a run's looks at both gateways say: rekeys, changes of protection, errors. Pure; times are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from qtunnel.control.messages import PeerStatus

FULL = "qkd+pqc"
UNKNOWN = "unknown"
"""Protection of a gateway that does not answer."""


@dataclass(frozen=True, slots=True)
class Period:
    """A gateway showed the same protection from the first to the last of some looks; monotonic seconds."""

    gateway: str
    protection: str
    first: float
    last: float


@dataclass(slots=True)
class Side:
    """One gateway, as seen so far."""

    name: str
    peer: PeerStatus | None = None
    epochs: set[int] = field(default_factory=set)
    periods: list[Period] = field(default_factory=list)
    errors: list[tuple[float, str]] = field(default_factory=list)  # when, what; each wording once

    def see(self, now: float, began: float, peer: PeerStatus | None, error: str | None) -> None:
        self.peer = peer
        self._protection(now, UNKNOWN if peer is None else peer.protection)
        if peer is None:
            self._error(now, f"no status: {error}")
            return
        if peer.epoch_in_force is not None:
            self.epochs.add(peer.epoch_in_force)
        # what went wrong before the run began, as while one end was up before the other, is not the run's
        if peer.last_error is not None and now - (peer.last_error_age_s or 0.0) > began:
            self._error(now - (peer.last_error_age_s or 0.0), peer.last_error)

    def _protection(self, now: float, protection: str) -> None:
        if self.periods and self.periods[-1].protection == protection:
            self.periods[-1] = replace(self.periods[-1], last=now)
        else:
            self.periods.append(Period(self.name, protection, now, now))

    def _error(self, when: float, what: str) -> None:
        if what not in (known for _, known in self.errors):
            self.errors.append((when, what))

    @property
    def protection(self) -> str:
        return UNKNOWN if self.peer is None else self.peer.protection


class Observer:
    """Both gateways over a run that began at ``began`` (monotonic seconds)."""

    def __init__(self, began: float, gateways: Iterable[str]) -> None:
        self.began = began
        self.sides = {name: Side(name) for name in gateways}
        self._at_start: set[int] | None = None

    def see(self, now: float, peers: Mapping[str, tuple[PeerStatus | None, str | None]]) -> None:
        """One look: for each gateway its peer's status, or ``None`` and why there is none."""
        for name, (peer, error) in peers.items():
            self.sides[name].see(now, self.began, peer, error)
        if self._at_start is None:
            self._at_start = {max(side.epochs) for side in self.sides.values() if side.epochs}

    @property
    def rekeys(self) -> int:
        """Epochs that came into force at both ends since the first look."""
        both = set.intersection(*(side.epochs for side in self.sides.values()))
        return len({epoch for epoch in both if epoch > max(self._at_start or {0})})

    @property
    def periods(self) -> list[Period]:
        return sorted((period for side in self.sides.values() for period in side.periods), key=lambda one: one.first)

    @property
    def protection(self) -> str:
        """Of the tunnel now: the weaker end's."""
        order = (UNKNOWN, "starting", "blocked", "expired", "pqc-only", FULL)
        return min((side.protection for side in self.sides.values()), key=order.index)

    @property
    def sources(self) -> list[str]:
        """What is in the epoch in force at both ends, in the order mixed."""
        lists = [side.peer.sources if side.peer is not None else [] for side in self.sides.values()]
        return [source for source in lists[0] if all(source in one for one in lists)]
