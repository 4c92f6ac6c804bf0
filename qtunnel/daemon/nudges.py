"""An epoch that both ends have, and that WireGuard does not take up by itself.

The end that began the rekey asks its engine for a handshake at once. That may come to nothing: the engine believes the
peer at an address that it has left, or the peer takes the handshake for a replay, because the clock here went back
while neither daemon nor engine ran (WireGuard's own replay times, unlike ours, are not kept on disk). Then the other
end's handshake works, and the address at which the rekey went through is the better one.
"""

from __future__ import annotations

from qtunnel.daemon.clock import monotonic
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.engines.base import PeerStats
from qtunnel.engines.ledger import SESSION_TIME

PATIENCE = 6.0
"""Seconds: one retry of WireGuard's own, which comes after 5 s."""
AGAIN = 10.0
"""Seconds between two nudges of one peer: a packet of 148 bytes for one that is off, and less than WireGuard itself
would send."""


class Nudges:
    """Of one gateway."""

    def __init__(self, tunnel: Tunnel, endpoints: Endpoints) -> None:
        self._tunnel, self._endpoints = tunnel, endpoints
        self._due: dict[str, float] = {}

    async def look(self, peer: str, port: int, stats: PeerStats | None, unix_now: float) -> None:
        """One look at a peer. port: of its WireGuard. Raises ``EngineError``."""
        installed = self._tunnel.epoch_in_place(peer)
        if stats is None or installed is None or (stats.epoch_in_force or 0) >= installed:
            self._due.pop(peer, None)
            return
        now = monotonic()
        if now < self._due.setdefault(peer, now + PATIENCE):
            return
        self._due[peer] = now + AGAIN
        address = self._endpoints.of(peer)
        silent = self._silent(stats, unix_now)
        elsewhere = address is not None and stats.endpoint is not None and stats.endpoint[0] != address.host
        try:
            if address is not None and silent and (elsewhere or stats.endpoint is None):
                await self._tunnel.lead(peer, (address.host, port))
        finally:
            await self._tunnel.shake_hands(peer)

    def _silent(self, stats: PeerStats, unix_now: float) -> bool:
        """Whether no session can be in use. Engines that know no epochs are behind for as long as one may live."""
        bound = PATIENCE if self._tunnel.knows_epochs else SESSION_TIME
        return stats.last_handshake is None or not 0 <= unix_now - stats.last_handshake < bound

    def forget(self, peer: str) -> None:
        """The peer is gone."""
        self._due.pop(peer, None)
