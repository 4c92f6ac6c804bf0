"""From looks at key sources to the keys that are here already: which of them may be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from qtunnel.daemon.clock import now
from qtunnel.rekey.node import RekeyNode


class Reliance(Protocol):
    """Hears what looks found."""

    def vouch(self, peer: str, source: str, at: float) -> None:
        """A look that began then (monotonic seconds) found nothing wrong with that source's keys with that peer."""
        ...

    def distrust(self, peer: str, source: str, why: str) -> None:
        """Those that came since the last such look must not be used."""
        ...


class CoreReliance:
    """Tells the rekeying core. core: asked for when there is something to tell; flush: carries out what it wants."""

    def __init__(self, core: Callable[[], RekeyNode], flush: Callable[[], None]) -> None:
        self._core, self._flush = core, flush

    def vouch(self, peer: str, source: str, at: float) -> None:
        self._core().vouch(peer, source, at)

    def distrust(self, peer: str, source: str, why: str) -> None:
        self._core().distrust(peer, source, why, now())
        self._flush()

    def next_rekey(self, peer: str) -> float | None:
        """When that peer rekeys, monotonic seconds."""
        found = self._core().peers.get(peer)
        return None if found is None else found.next_rekey
