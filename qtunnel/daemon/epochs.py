"""Descriptions of epochs, kept for as long as an engine may name one.

The rekeying core forgets an epoch once no session can be of it. An engine that tells only when its newest handshake was
names the oldest epoch that this handshake can be of (``engines.ledger``), which the core may have forgotten.
"""

from __future__ import annotations

from dataclasses import replace

from qtunnel.engines.ledger import SESSION_TIME
from qtunnel.rekey.model import EpochInfo
from qtunnel.rekey.view import PeerView

KEPT = SESSION_TIME + 20.0
"""Seconds beyond the core's own memory: a handshake is put down to a key that was replaced up to ``SESSION_TIME``
before it, and the core forgets and the daemon looks some seconds apart."""


class Epochs:
    """Of all peers of a gateway."""

    def __init__(self) -> None:
        self._last_seen: dict[str, dict[int, tuple[EpochInfo, float]]] = {}

    def complete(self, view: PeerView, now: float) -> PeerView:
        """The view with what it has forgotten not long ago; now: monotonic seconds."""
        seen = self._last_seen.setdefault(view.name, {})
        for epoch, info in view.epochs.items():
            seen[epoch] = info, now
        if len(seen) == len(view.epochs):
            return view
        for epoch in [epoch for epoch, (_, at) in seen.items() if now - at > KEPT]:
            del seen[epoch]
        return replace(view, epochs={epoch: info for epoch, (info, _) in seen.items()})

    def forget(self, peer: str) -> None:
        """A peer that is gone."""
        self._last_seen.pop(peer, None)
