"""The engine and its interface: brought up, kept up, taken down."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace

from qtunnel.config import Config
from qtunnel.engines.base import Endpoint, PeerSpec, PeerStats
from qtunnel.engines.interface import Interface, InterfaceConfig
from qtunnel.engines.uapi import open_engine
from qtunnel.errors import EngineError
from qtunnel.events import EventStream
from qtunnel.identity import Identity, PublicIdentity
from qtunnel.rekey.model import Install
from qtunnel.secret import Secret
from qtunnel.telemetry import log

logger = log.get("daemon.tunnel")

FIRST_RESTART = 0.2
"""Seconds until a dead engine is started again, doubling up to ..."""
LONGEST_RESTART = 10.0
"""... these, so that an engine that cannot start does not fill the log."""
PSK_SIZE = 32

CurrentPsk = Callable[[str], tuple[int, Secret] | None]
"""From a peer's name to epoch and PSK (a copy) that it should have now; None where it is to be blocked."""


class Tunnel:
    """One interface with its peers. Every peer has a random PSK from the first moment on."""

    def __init__(
        self, config: Config, identity: Identity, public: dict[str, PublicIdentity], events: EventStream,
        current_psk: CurrentPsk,
    ) -> None:  # fmt: skip
        tunnel = config.tunnel
        self._config, self._identity, self._events, self._current_psk = config, identity, events, current_psk
        self.engine = open_engine(
            tunnel.engine, tunnel.interface, log_line=lambda line: logger.info("engine.says", line=line)
        )
        allowed = tuple(network for peer in config.peers for network in peer.allowed_ips)
        self._interface = Interface(
            InterfaceConfig(tunnel.interface, tunnel.addresses, tunnel.mtu, allowed, tunnel.routes == "auto")
        )
        self._keys = {peer.name: public[peer.name].wireguard for peer in config.peers}
        self._specs = {
            peer.name: PeerSpec(
                self._keys[peer.name],
                None,
                peer.allowed_ips,
                None if peer.persistent_keepalive is None else max(1, round(peer.persistent_keepalive)),
            )
            for peer in config.peers
        }
        self.up = False
        self._epochs_shown: dict[str, int | None] = {}
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Engine, keys, peers with random PSKs, then the link. Raises ``EngineError``; leaves nothing half made."""
        try:
            await self._bring_up()
        except BaseException:
            await self.engine.stop()
            raise

    async def _bring_up(self) -> None:
        engine = self.engine
        await engine.start()
        with self._identity.wireguard.copy() as key:
            await engine.configure_device(key, self._config.node.wireguard_port)
        for name, spec in self._specs.items():
            await engine.set_peer(spec)
            current = self._current_psk(name)
            if current is not None:
                with current[1]:
                    await engine.set_psk(
                        spec.public_key, current[1], current[0], handshake_now=spec.endpoint is not None
                    )
        await self._interface.up()
        for spec in self._specs.values():
            if spec.endpoint is not None:
                await self._interface.pin_endpoint(spec.endpoint[0])
        self.up = True

    async def supervise(self) -> None:
        """Start the engine again whenever it dies; runs until cancelled."""
        while True:
            reason = await self.engine.wait_dead()
            self.up = False
            self._events.publish("engine.died", None, detail=reason)
            delay = FIRST_RESTART
            while not self.up:
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_RESTART)
                try:
                    async with self._lock:
                        await self.engine.stop()
                        await self._bring_up()
                except EngineError as error:
                    self._events.publish("engine.failed", None, detail=str(error))
            self._events.publish("engine.restarted", None, pid=self.engine.pid)

    async def stop(self) -> None:
        """Take interface, routes and engine away."""
        self.up = False
        try:
            await self._interface.down()
        except EngineError as error:
            logger.warning("interface.down", detail=str(error))
        await self.engine.stop()

    def key_of(self, peer: str) -> bytes:
        return self._keys[peer]

    async def set_endpoint(self, peer: str, endpoint: Endpoint) -> None:
        """Where the peer's WireGuard is, from its name; the engine follows roaming by itself."""
        before = self._specs[peer].endpoint
        self._specs[peer] = replace(self._specs[peer], endpoint=endpoint)
        if not self.up or before == endpoint:
            return
        async with self._lock:
            await self.engine.set_endpoint(self._keys[peer], endpoint)
            if before is not None and before[0] != endpoint[0]:
                await self._interface.unpin_endpoint(before[0])
            await self._interface.pin_endpoint(endpoint[0])

    async def install(self, effect: Install) -> None:
        """Put an epoch's PSK in place; while the engine is down its restart does it."""
        try:
            if self.up:
                async with self._lock:
                    await self.engine.set_psk(
                        self._keys[effect.peer], effect.psk, effect.epoch, effect.previous_psk,
                        effect.previous_epoch or 0, effect.handshake_now,
                    )  # fmt: skip
        finally:
            effect.psk.wipe()
            if effect.previous_psk is not None:
                effect.previous_psk.wipe()

    async def block(self, peer: str) -> None:
        """No traffic with the peer: a PSK that nobody has, no session. Routes stay, so nothing goes around."""
        if self.up:
            with Secret.random(os.urandom, PSK_SIZE) as psk:
                async with self._lock:
                    await self.engine.block(self._keys[peer], psk)

    async def drop_session(self, peer: str) -> None:
        """End the present session and begin a new one with the PSK in place."""
        await self.block(peer)
        current = self._current_psk(peer)
        if current is not None and self.up:
            with current[1]:
                async with self._lock:
                    await self.engine.set_psk(self._keys[peer], current[1], current[0], handshake_now=True)

    async def stats(self) -> dict[str, PeerStats]:
        """By peer's name; empty while the engine is down."""
        if not self.up:
            return {}
        async with self._lock:
            found = await self.engine.stats()
        return {name: found[key] for name, key in self._keys.items() if key in found}
