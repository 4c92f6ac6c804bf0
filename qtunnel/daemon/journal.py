"""From the event stream to the log: which event at which level, and how often the same one."""

from __future__ import annotations

import time

from qtunnel.events import Event, Subscription
from qtunnel.telemetry import log

logger = log.get("daemon")

LEVELS = {
    "rekey.failed": "warning",
    "rekey.unanswered": "warning",
    "source.down": "warning",
    "reservoir.low": "warning",
    "reservoir.lost": "warning",
    "reservoir.refused": "warning",
    "key.distrusted": "warning",
    "source.unreadable": "error",
    "source.unwatched": "warning",
    "source.quarantined": "error",
    "source.keys-lost": "warning",
    "source.failed": "debug",  # source.down tells it once
    "peer.blocked": "error",
    "policy.relaxed": "warning",
    "chain.reset": "warning",
    "session.stale": "warning",
    "engine.died": "error",
    "engine.failed": "error",
    "engine.stopped": "error",
    "engine.replaced": "warning",
    "secrets.changed": "warning",
    "peer.defect": "error",
    "engine.trouble": "warning",
    "interface.altered": "error",
    "interface.warning": "warning",
    "tunnel.guarded": "error",
    "endpoint.unresolved": "warning",
    "state.damaged": "warning",
    "state.unwritable": "error",
    "config.refused": "error",
    "audit.failing": "error",
    "mqtt.down": "warning",
    "rekey.started": "debug",
}
"""Kinds that are not at level info."""

REPEAT_AFTER = 60.0
"""Seconds until the same rejection is logged again: anybody can send us datagrams, nobody may fill the disk."""
REJECTIONS_KEPT = 256
_QUIET_REASONS = {"exchange", "malformed", "replay"}
"""What loss, duplication and scanners make every day."""


class Journal:
    """Writes events to the log."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], float] = {}

    async def follow(self, subscription: Subscription) -> None:
        """Until the stream ends."""
        lost = 0
        async for event in subscription:
            if subscription.dropped != lost:
                logger.warning("events.lost", number=subscription.dropped - lost)
                lost = subscription.dropped
            self.write(event)

    def write(self, event: Event) -> None:
        """One line, or none."""
        level = LEVELS.get(event.kind, "info")
        if event.kind == "message.rejected":
            level = self._rejection(str(event.fields.get("reason")), str(event.fields.get("address")))
        fields: dict[str, object] = dict(event.fields)
        if event.peer is not None:
            fields = {"peer": event.peer, **fields}
        getattr(logger, level)(event.kind, **fields)

    def _rejection(self, reason: str, address: str) -> str:
        if reason in _QUIET_REASONS:
            return "debug"
        now = time.monotonic()
        key = reason, address.rsplit(":", 1)[0]
        if now - self._said.get(key, -REPEAT_AFTER) < REPEAT_AFTER:
            return "debug"
        if len(self._said) >= REJECTIONS_KEPT:
            self._said.clear()
        self._said[key] = now
        return "warning"
