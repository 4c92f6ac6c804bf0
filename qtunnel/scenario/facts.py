"""What a run has seen, for its assertions and its summary. Pure; times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qtunnel.control.messages import PeerStatus
from qtunnel.demo.observe import Observer, Period
from qtunnel.demo.traffic import Pings


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch that was seen in force at both ends, first at ``at``. key_ids: of the QKD keys in it."""

    number: int
    at: float
    key_ids: tuple[str, ...]


@dataclass(slots=True)
class TunnelFacts:
    """One tunnel. opened, closed: when it was wanted; ``None`` for never. carried: bytes of the throughput test."""

    name: str
    ends: tuple[str, str]
    policy: str
    observer: Observer
    pings: Pings = field(default_factory=Pings)
    epochs: list[Epoch] = field(default_factory=list)
    opened: float | None = None
    closed: float | None = None
    carried: int | None = None
    gbps: float | None = None
    shared_keys: list[tuple[float, int]] = field(default_factory=list)
    """When looked at, and how many keys its reservoir had."""

    def see(self, now: float, peers: Mapping[str, tuple[PeerStatus | None, str | None]]) -> None:
        """A look at both ends."""
        self.observer.see(now, peers)
        statuses = [peer for peer, _ in peers.values() if peer is not None]
        if len(statuses) == len(self.ends):
            one, other = statuses
            number = one.epoch_in_force
            known = {epoch.number for epoch in self.epochs}
            if number is not None and number == other.epoch_in_force and number not in known:
                self.epochs.append(Epoch(number, now, tuple(sorted(key.key_id for key in one.key_ids))))
        held = [sum(store.keys for store in peer.reservoir) for peer in statuses if peer.reservoir]
        if held:
            self.shared_keys.append((now, min(held)))

    @property
    def rekeys(self) -> list[Epoch]:
        """Without the first, which is no rekey."""
        return self.epochs[1:]

    def periods(self, begin: float, end: float) -> Iterator[Period]:
        """Of both ends, as far as they were seen within."""
        yield from (one for one in self.observer.periods if one.last >= begin and one.first <= end)

    def blocked(self) -> list[tuple[float, float]]:
        """When an end said that nothing passes."""
        found = [(one.first, one.last) for one in self.observer.periods if one.protection in ("blocked", "starting")]
        return sorted(found)

    def lost(self, begin: float, end: float) -> int:
        """Echoes that were sent within and never answered."""
        return sum(count for first, last, count in self.pings.gaps if last >= begin and first <= end)

    @property
    def outages(self) -> list[tuple[float, float]]:
        """Silences in which echoes were lost, from and to."""
        return [
            (begin, end)
            for begin, end in self.pings.silences
            if any(first <= end and last >= begin for first, last, _ in self.pings.gaps)
        ]


@dataclass(slots=True)
class Facts:
    """The run. maps: what the network said of itself, and when, first and last at least. logs: of the daemons, by
    site. rates: key rate of each link by the physics, bits per second of the network. time_scale: of the network."""

    began: float
    ended: float
    tunnels: dict[str, TunnelFacts]
    maps: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    time_scale: float = 1.0

    @property
    def last_map(self) -> dict[str, Any]:
        return self.maps[-1][1]

    def link(self, name: str) -> dict[str, Any]:
        """As the network told it last."""
        found: dict[str, Any] = link_of(self.last_map, name)
        return found

    def grown(self, name: str, begin: float | None = None, end: float | None = None) -> int:
        """By how much a total of the network grew within, by the looks next to it; in the whole run, unless given."""
        before = [told for at, told in self.maps if begin is None or at <= begin] or [self.maps[0][1]]
        after = [told for at, told in self.maps if end is not None and at >= end] or [self.maps[-1][1]]
        first = before[-1] if begin is not None else before[0]
        more: int = after[0]["totals"][name] - first["totals"][name]
        return more


def link_of(told: dict[str, Any], name: str) -> dict[str, Any]:
    """A link of a map."""
    found: dict[str, Any] = next(link for link in told["links"] if link["name"] == name)
    return found
