"""What is recorded: of all that the daemon tells, what somebody may have to account for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EPOCHS = frozenset({
    "rekey.done", "rekey.failed", "epoch.in-force", "epoch.kept", "epoch.settled", "chain.reset", "schedule.changed",
})  # fmt: skip
"""Keys: agreed, refused, in force; each with its sources and key_IDs."""
POLICY = frozenset({
    "protection.changed", "protection.in-force", "policy.relaxed", "peer.blocked", "peer.policy", "session.stale",
    "tunnel.guarded",
})  # fmt: skip
"""What policy decided, and the level of protection."""
OPERATORS = frozenset({
    "daemon.starting", "daemon.ready", "daemon.stopping", "daemon.stopped", "control.asked", "config.reloaded",
    "config.refused", "peer.added", "peer.removed", "peer.replaced", "peer.changed", "source.cleared",
})  # fmt: skip
"""What people did to it, and what came of that."""
ALARMS = frozenset({
    "source.up", "source.down", "source.quarantined", "source.unreadable", "source.unwatched", "source.watched",
    "engine.died", "engine.failed", "engine.restarted", "engine.adopted", "engine.replaced", "engine.stopped",
    "interface.altered", "interface.warning", "peer.defect", "state.damaged", "state.unwritable", "audit.failing",
    "audit.resumed", "reservoir.low", "reservoir.kept", "reservoir.refused", "secrets.changed",
})  # fmt: skip
LOSSES = frozenset({"source.keys-lost", "reservoir.lost", "key.expired", "key.distrusted"})
"""Keys that no epoch will have."""
RECORDED = EPOCHS | POLICY | OPERATORS | ALARMS | LOSSES

MAX_TEXT = 1000
"""Characters of one value: a server or peer that talks much must not fill the disk."""
MAX_ITEMS = 64
"""Of a list: more than the key_IDs of any epoch."""


def bounded(fields: Mapping[str, object]) -> dict[str, Any]:
    """Fields of an event as a record has them."""
    return {name: _bounded(value) for name, value in fields.items()}


def _bounded(value: object) -> Any:
    if isinstance(value, tuple | list):
        kept = [_bounded(part) for part in value[:MAX_ITEMS]]
        return kept if len(value) <= MAX_ITEMS else [*kept, f"and {len(value) - MAX_ITEMS} more"]
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # JSON has neither infinity nor NaN
    text = value if isinstance(value, str | int | bool | None) else str(value)
    if isinstance(text, str):
        text = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
        return text.encode(errors="replace").decode()  # what came from outside may hold half of a character
    return text
