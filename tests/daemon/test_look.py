"""The daemon's look at what is in force, peer by peer; the tunnel is made of what the test wants."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from qtunnel.daemon import gateway as module
from qtunnel.daemon.gateway import Gateway
from qtunnel.engines.base import PeerStats
from qtunnel.errors import EngineError
from qtunnel.keys.policy import Protection

NAMES = ("hub", "bob", "branch")


class Looked:
    """A gateway whose peers all have sessions that are too old."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusing: set[str] = set()
        self.dropped: list[str] = []
        self.events: list[tuple[str, str | None, str]] = []
        gateway: Any = Gateway.__new__(Gateway)
        gateway._peers = {name: SimpleNamespace(wireguard_port=51820) for name in NAMES}
        gateway._core = SimpleNamespace(peers=NAMES, carried=lambda *about: None)
        gateway._tunnel = SimpleNamespace(stats=self._stats, drop_session=self._drop)
        gateway._plain = SimpleNamespace(look=lambda *about: None)
        gateway._shown = {}
        gateway._counted = {}
        gateway._view = gateway._flush = lambda *about: None
        gateway._publish = lambda kind, peer=None, **told: self.events.append((kind, peer, str(told.get("detail"))))
        monkeypatch.setattr(module, "protection_in_force", lambda *about: Protection.STARTING)
        monkeypatch.setattr(module, "in_force", lambda *about: None)
        monkeypatch.setattr(module, "is_stale", lambda *about: True)
        self.gateway = gateway

    async def _stats(self) -> dict[str, PeerStats]:
        return dict.fromkeys(NAMES, PeerStats(None, None, 0, 0, 3))

    async def _drop(self, peer: str) -> None:
        if peer in self.refusing:
            raise EngineError("engine of qt0 refuses")
        self.dropped.append(peer)

    def look(self) -> None:
        asyncio.run(self.gateway._look())

    def told(self, kind: str) -> list[str | None]:
        return [peer for its, peer, _ in self.events if its == kind]


def test_a_refusal_for_one_peer_leaves_the_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = Looked(monkeypatch)
    looked.refusing.add("hub")
    looked.look()
    assert looked.dropped == ["bob", "branch"]
    assert looked.told("engine.trouble") == ["hub"]
    assert looked.told("session.stale") == ["bob", "branch"], "nothing is called dropped that was not"
    looked.refusing.clear()
    looked.look()
    assert looked.told("session.stale")[2:] == list(NAMES)
