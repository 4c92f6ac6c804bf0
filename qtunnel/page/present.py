"""The status as the page gets it: what holds now, of as many peers as a page can show."""

from __future__ import annotations

from typing import Any

from qtunnel.control.messages import KeySourceStatus, PeerStatus, Status
from qtunnel.control.words import PROTECTION_WORDS, interval, next_rekey

MOST_DOUBTED = 5
"""Peers with a line of their own on the card of a key source."""
MOST_PEERS = 60
"""Peers told of one by one, those that need a look first; a hub's others are counted."""
_KEPT = {
    "name", "protected", "protection", "policy", "peer_policy", "epoch_in_force", "epoch_installed", "sources",
    "chained", "age_s", "max_age_s", "expires_in_s", "last_error", "last_error_age_s", "endpoint",
    "last_handshake_age_s", "rx_bytes", "tx_bytes", "rekeys_ok", "rekeys_failed", "reservoir", "supply",
}  # fmt: skip
"""Of a peer. Not its key_IDs: they are for who has to account for them, by ``qtunnel status`` and the audit log."""


def present(status: Status, unix_now: float) -> dict[str, Any]:
    """As JSON has it. unix_now: Unix seconds; ages are as of then."""
    node = status.node
    known = node.state != "interface-altered"
    ranked = sorted(status.peers, key=lambda its: (its.protected, its.protection == "qkd+pqc"))
    shown = {id(its) for its in ranked[:MOST_PEERS]}
    peers = [its for its in status.peers if id(its) in shown]  # in the configuration's order, which does not jump
    others = ranked[MOST_PEERS:]
    return {
        "now": round(unix_now, 3),
        "node": node.model_dump(
            include={
                "name", "version", "uptime", "engine", "interface", "state", "config_error", "config_error_age_s",
                "audit_error", "engine_restarts",
            }
        ),
        "known": known,
        "protected": status.protected,
        "total": len(status.peers),
        "unprotected": sum(not its.protected for its in status.peers),
        "peers": [_peer(its) for its in peers],
        "others": {"number": len(others), "unprotected": sum(not its.protected for its in others)},
        "plain_peers": [its.model_dump() for its in status.plain_peers[:MOST_PEERS]],
        "plain_others": max(0, len(status.plain_peers) - MOST_PEERS),
        "sources": [_source(its) for its in status.key_sources],
    }  # fmt: skip


def _source(its: KeySourceStatus) -> dict[str, Any]:
    towards = [one.model_dump(include={"peer", "state", "alarm", "problem", "silent_s"}) for one in its.doubted]
    more = {"towards": towards[:MOST_DOUBTED], "towards_more": max(0, len(towards) - MOST_DOUBTED)}
    return {**its.model_dump(exclude={"faults", "towards"}), **more}


def _peer(its: PeerStatus) -> dict[str, Any]:
    return {
        **its.model_dump(include=_KEPT),
        "words": PROTECTION_WORDS[its.protection],
        "next_rekey": next_rekey(its),
        "interval": interval(its),
    }


def told(status: Status) -> list[str]:
    """Names of the peers that ``present`` tells of."""
    ranked = sorted(status.peers, key=lambda its: (its.protected, its.protection == "qkd+pqc"))
    return [its.name for its in ranked[:MOST_PEERS]]
