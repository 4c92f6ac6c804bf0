"""A rekey that somebody asks for: begun now, and waited for until it is in force."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtunnel.config import PeerConfig
from qtunnel.control.messages import RekeyOutcome, UsedKey
from qtunnel.daemon.clock import monotonic, now
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.daemon.view import in_force, protection_in_force, sources_of
from qtunnel.errors import QtunnelError
from qtunnel.events import Event, EventStream
from qtunnel.keys.policy import satisfies
from qtunnel.rekey.node import RekeyNode
from qtunnel.rekey.view import PeerView

IN_FORCE_LIMIT = 10.0
"""Seconds that ``qtunnel rekey`` waits for WireGuard to take the new epoch up: two of its handshake retries."""
OUTCOME_LIMIT = 150.0
"""Seconds that ``qtunnel rekey`` waits for an outcome: an exchange ends after 30 s of fetching, 30 s for the answer and
45 s for the confirmation, and may have to let one of the peer's go first."""
ENDINGS = ("rekey.done", "rekey.failed", "peer.defect", "peer.removed", "peer.replaced")
"""Events that end a rekey that was asked for."""


@dataclass(frozen=True, slots=True)
class OnDemand:
    """Rekeys of one gateway. flush: carries out what the core wants done."""

    core: RekeyNode
    tunnel: Tunnel
    endpoints: Endpoints
    events: EventStream
    flush: Callable[[], None]

    async def __call__(
        self,
        peer: str,
        config: Callable[[], PeerConfig],
        view: Callable[[str], PeerView],
        describe: Callable[[str], str],
    ) -> RekeyOutcome:
        """Rekey now, and wait until the outcome is known and, where it is good, in force. config: the peer's as it is
        when it is asked for; describe: a key source in words."""
        start = monotonic()
        with self.events.subscribe() as events:
            if not self.core.rekey_now(peer, now()) and self.endpoints.of(peer) is None:
                raise QtunnelError(
                    f"the address of {peer} is not known: set endpoint in the configuration, or let the peer begin"
                )
            self.flush()
            try:
                async with asyncio.timeout(OUTCOME_LIMIT):
                    ending = await _first(events, peer, ENDINGS)
            except TimeoutError:
                raise QtunnelError(f"no outcome of the rekey with {peer} within {OUTCOME_LIMIT:.0f} s") from None
        ok = ending.kind == "rekey.done"
        installed = self._still(peer, view).installed
        if ok:
            await self._until_in_force(peer, installed.epoch if installed else 0)
        stats = await self.tunnel.stats()
        seen, its = self._still(peer, view), stats.get(peer)
        info = in_force(seen, its)
        protection = protection_in_force(config(), seen, its, monotonic())
        return RekeyOutcome(
            peer=peer,
            ok=ok,
            protected=satisfies(config().policy, protection),
            protection=protection.value,
            epoch=None if info is None else info.epoch,
            sources=[] if info is None else sources_of(info, describe),
            key_ids=[] if info is None else [UsedKey(source=key.source, key_id=key.key_id) for key in info.keys],
            chained=info is not None and info.chained,
            duration_ms=(monotonic() - start) * 1000,
            error=None if ok else str(ending.fields.get("detail")),
        )

    def _still(self, peer: str, view: Callable[[str], PeerView]) -> PeerView:
        if peer not in self.core.peers:
            raise QtunnelError(f"{peer} was taken out of the configuration meanwhile")
        return view(peer)

    async def _until_in_force(self, peer: str, epoch: int) -> None:
        deadline = monotonic() + IN_FORCE_LIMIT
        while monotonic() < deadline:
            its = (await self.tunnel.stats()).get(peer)
            if its is not None and its.epoch_in_force is not None and its.epoch_in_force >= epoch:
                return
            await asyncio.sleep(0.05)


async def _first(events: Any, peer: str, kinds: tuple[str, ...]) -> Event:
    async for event in events:
        if event.peer == peer and event.kind in kinds:
            assert isinstance(event, Event)
            return event
    raise QtunnelError("the daemon is stopping")
