"""A control server on a real socket, with answers from a can, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qtunnel.control.messages import (
    KeySourceStatus,
    NodeStatus,
    PeerStatus,
    PlainPeerStatus,
    RekeyOutcome,
    ReloadOutcome,
    Status,
    UsedKey,
)
from qtunnel.control.server import ControlServer, Handlers
from qtunnel.errors import QtunnelError, UnknownPeerError
from qtunnel.events import EventStream

NODE = NodeStatus(
    name="alice",
    fingerprint="abcd-efgh",
    version="0.1",
    uptime=3725.0,
    engine="qtunnel",
    engine_pid=42,
    interface="qt0",
    state="up",
)


def peer(name: str = "bob", **changes: Any) -> PeerStatus:
    values: dict[str, Any] = {
        "name": name,
        "protected": True,
        "protection": "qkd+pqc",
        "policy": "required",
        "epoch_installed": 7,
        "epoch_in_force": 7,
        "sources": ["x25519", "ml-kem-1024", "etsi014:metro"],
        "key_ids": [UsedKey(source="metro", key_id="8e3f-11")],
        "chained": True,
        "age_s": 65.0,
        "max_age_s": 600.0,
        "next_rekey_s": 55.0,
        "expires_in_s": 535.0,
        "role": "initiator",
        "endpoint": "10.99.0.2:51820",
        "handshake_endpoint": "10.99.0.2:51821",
        "last_handshake_age_s": 65.0,
        "rx_bytes": 1_400_000,
        "tx_bytes": 900,
        "rekeys_ok": 7,
    }
    return PeerStatus(**(values | changes))


BLOCKED = peer(
    "carol",
    protected=False,
    protection="blocked",
    epoch_in_force=None,
    sources=[],
    key_ids=[],
    last_error="metro: enc_keys: 503, no key available",
    last_error_age_s=3.0,
    next_rekey_s=-4.0,
)

SOURCES = [
    KeySourceStatus(name="metro", description="etsi014:metro", healthy=True, detail="1000 keys stored"),
    KeySourceStatus(name="backup", description="etsi014:backup", healthy=False, last_error="connection refused"),
    KeySourceStatus(name="spare", description="file:spare", healthy=None),
]


class Canned:
    """What the daemon would answer; change the fields, or ``on_rekey``."""

    def __init__(self) -> None:
        self.peers = [peer()]
        self.key_sources: list[KeySourceStatus] = []
        self.outcome = RekeyOutcome(
            peer="bob",
            ok=True,
            protected=True,
            protection="qkd+pqc",
            epoch=8,
            sources=["x25519", "ml-kem-1024", "etsi014:metro"],
            key_ids=[UsedKey(source="metro", key_id="8e3f-12")],
            duration_ms=41.4,
        )
        self.on_rekey: Callable[[], Awaitable[None]] | None = None
        self.on_status: Callable[[], None] | None = None
        self.events = EventStream(clock=lambda: 1.5)
        self.plain_peers: list[PlainPeerStatus] = []
        self.node = NODE
        self.reloads: ReloadOutcome | QtunnelError = ReloadOutcome(file="/etc/qtunnel/alice.yaml")
        self.config = Path("/etc/qtunnel/alice.yaml")
        self.clearing: QtunnelError | None = None
        self.cleared: list[str] = []

    def _find(self, name: str) -> PeerStatus:
        for candidate in self.peers:
            if candidate.name == name:
                return candidate
        raise UnknownPeerError.of(name, (peer.name for peer in self.peers))

    async def status(self, name: str | None) -> Status:
        if self.on_status is not None:
            self.on_status()
        peers = self.peers if name is None else [self._find(name)]
        return Status(node=self.node, peers=peers, plain_peers=self.plain_peers, key_sources=self.key_sources)

    async def reload(self) -> ReloadOutcome:
        if isinstance(self.reloads, QtunnelError):
            raise self.reloads
        return self.reloads

    async def clear_source(self, name: str, peer: str | None) -> None:
        if self.clearing is not None:
            raise self.clearing
        self.cleared.append(name if peer is None else f"{name} towards {peer}")

    async def rekey(self, name: str) -> RekeyOutcome:
        self._find(name)
        if self.on_rekey is not None:
            await self.on_rekey()
        return self.outcome

    @property
    def handlers(self) -> Handlers:
        return Handlers(self.status, self.rekey, self.events, self.reload, self.config, self.clear_source)


class Serving:
    """A started server; ``call`` runs something in its event loop."""

    def __init__(self, path: Path, canned: Canned, loop: asyncio.AbstractEventLoop) -> None:
        self.path = path
        self.canned = canned
        self._loop = loop

    def call(self, function: Callable[[], object]) -> None:
        done = threading.Event()

        def there() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(there)
        assert done.wait(20)


@contextmanager
def serving(path: Path, canned: Canned | None = None) -> Iterator[Serving]:
    canned = canned or Canned()
    loop = asyncio.new_event_loop()
    server = ControlServer(path, canned.handlers)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(20)
        yield Serving(path, canned, loop)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
