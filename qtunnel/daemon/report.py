"""The daemon's status, of everything that it knows: for the control socket, for metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qtunnel import __version__
from qtunnel.config import Config, PeerConfig
from qtunnel.control.messages import NodeState, NodeStatus, Status
from qtunnel.daemon.accounting import Accounting
from qtunnel.daemon.clock import monotonic
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.notices import Notices
from qtunnel.daemon.plain import PlainPeers
from qtunnel.daemon.reload import Reloader
from qtunnel.daemon.source_status import status_of
from qtunnel.daemon.sources import KeySources
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.daemon.view import Tally, peer_status
from qtunnel.errors import EngineError, UnknownPeerError
from qtunnel.rekey.node import RekeyNode
from qtunnel.rekey.view import PeerView

STATUS_LIMIT = 2.0
"""Seconds that a status waits for the engine; what an engine does that takes longer is not known to work."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """Makes the status. started: monotonic seconds. config, peers, state: as they are at the time; view: of a peer."""

    started: float
    fingerprint: str
    core: RekeyNode
    tunnel: Tunnel
    endpoints: Endpoints
    plain: PlainPeers
    sources: KeySources
    notices: Notices
    reloader: Reloader
    accounting: Accounting
    tallies: Mapping[str, Tally]
    config: Callable[[], Config]
    peers: Callable[[], Mapping[str, PeerConfig]]
    state: Callable[[], NodeState]
    view: Callable[[str], PeerView]

    async def status(self, peer: str | None) -> Status:
        """Of one peer or all; raises ``UnknownPeerError``."""
        peers = self.peers()
        if peer is not None and peer not in peers and peer not in self.plain:
            raise UnknownPeerError.of(peer, [*peers, *self.plain.names])
        answers = True
        try:
            async with asyncio.timeout(STATUS_LIMIT):
                stats = await self.tunnel.stats()
        except (EngineError, TimeoutError):
            stats, answers = {}, False
        present, unix_now = monotonic(), time.time()
        return Status(
            node=self._node(answers, present),
            peers=[
                peer_status(
                    config,
                    self.view(name),
                    stats.get(name),
                    self.tallies.get(name, Tally()),
                    self.sources.describe,
                    self.endpoints.text(name),
                    self.tunnel.epoch_in_place(name),
                    present,
                    unix_now,
                    self.sources.supply.words(name),
                )
                for name, config in self.peers().items()
                if peer in (None, name) and name in self.core.peers
            ],
            plain_peers=self.plain.status(stats, unix_now, peer),
            key_sources=status_of(self.sources.book),
        )

    def _node(self, answers: bool, present: float) -> NodeStatus:
        config, engine, reloader = self.config(), self.tunnel.engine, self.reloader
        return NodeStatus(
            name=config.node.name,
            fingerprint=self.fingerprint,
            version=__version__,
            uptime=present - self.started,
            engine=engine.name,
            engine_pid=engine.pid,
            engine_restarts=self.tunnel.restarts,
            interface=config.tunnel.interface,
            state=self._state(answers),
            config_error=reloader.error,
            config_error_age_s=None if reloader.error is None else present - reloader.error_at,
            audit_records=self.accounting.records,
            audit_error=self.accounting.problem,
            page=None if config.page is None else f"http://{config.page.listen}/",
            rejected=dict(self.notices.rejections.by_reason),
        )

    def _state(self, answers: bool) -> NodeState:
        state = self.state()
        if state == "up" and not (answers and self.tunnel.up):
            return "engine-down"
        return "interface-altered" if state == "up" and self.tunnel.trouble is not None else state
