"""The key sources of a gateway: opened once, asked per peer, with their health kept for the status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from qtunnel.config import Config
from qtunnel.control.messages import KeySourceStatus
from qtunnel.daemon.supply import Supply, Tell
from qtunnel.drivers import registry
from qtunnel.drivers.registry import SourceHub
from qtunnel.errors import KeySourceError, KeySourceUnavailableError
from qtunnel.events import EventStream
from qtunnel.keys.source import KeySource, SourceStatus
from qtunnel.rekey.model import FetchById, Fetched, FetchNew
from qtunnel.secret import Secret
from qtunnel.telemetry import log
from qtunnel.terms import KeyRef

logger = log.get("daemon.sources")

CALL_LIMIT = 25.0
"""Seconds for one call, within the 30 s that an exchange waits; drivers have their own, shorter timeouts."""
STATUS_INTERVAL = 30.0
"""Seconds between looks at a source's status: an outage shows before the next rekey at the default 120 s."""


@dataclass(slots=True)
class Health:
    """What is known of one source. healthy: None where it was not asked yet. stored_keys, max_keys: as its status told
    them last, for the first of its peers."""

    description: str
    healthy: bool | None = None
    detail: str = ""
    last_error: str | None = None
    stored_keys: int | None = None
    max_keys: int | None = None


class KeySources:
    """All sources of the configuration; ``source.up`` and ``source.down`` events tell of changes.

    tell: hears what there is for peers whose interval goes by it.
    """

    def __init__(self, config: Config, events: EventStream, tell: Tell = lambda peer, stock: None) -> None:
        self._events = events
        self._hubs: dict[str, SourceHub] = {}
        self._sources: dict[tuple[str, str], KeySource] = {}
        self.health: dict[str, Health] = {}
        for name, source in config.key_sources.items():
            self._hubs[name] = registry.find(source.driver).open(name, source.options)
            self.health[name] = Health(f"{source.driver}:{name}")
        for peer in config.peers:
            for name, options in peer.qkd.sources.items():
                self._sources[peer.name, name] = self._hubs[name].for_peer(options)
        moving = {peer.name for peer in config.peers if peer.rekey.moves}
        self.supply = Supply([pair for pair in self._sources if pair[0] in moving], self._ask, tell)

    def describe(self, name: str) -> str:
        """Driver and name, as ``etsi014:metro``."""
        return self.health[name].description if name in self.health else name

    async def fetch(self, request: FetchNew | FetchById) -> Fetched:
        """Ask all at once; what fails is named, never raised."""
        if isinstance(request, FetchNew):
            calls = [(name, self._fresh(request.peer, name, request.size)) for name in request.sources]
        else:
            calls = [(ref.source, self._by_id(request.peer, ref)) for ref in request.refs]
        answers = await asyncio.gather(*(self._guarded(name, call) for name, call in calls))
        keys = tuple(answer for answer in answers if not isinstance(answer, str))
        failures = tuple(
            (name, answer) for (name, _), answer in zip(calls, answers, strict=True) if isinstance(answer, str)
        )
        return Fetched(keys, failures)

    async def _fresh(self, peer: str, name: str, size: int) -> tuple[KeyRef, Secret]:
        try:
            found = await self._sources[peer, name].get_key(size)
        except KeySourceUnavailableError:
            self.supply.delivered(peer, name, key=False)
            raise
        self.supply.delivered(peer, name, key=True)
        return found

    async def _by_id(self, peer: str, ref: KeyRef) -> tuple[KeyRef, Secret]:
        return ref, await self._sources[peer, ref.source].get_key_by_id(ref)

    async def _guarded(self, name: str, call: Awaitable[tuple[KeyRef, Secret]]) -> tuple[KeyRef, Secret] | str:
        """The key, or in words why there is none."""
        try:
            async with asyncio.timeout(CALL_LIMIT):
                answer = await call
        except KeySourceError as error:
            problem = str(error)
        except TimeoutError:
            problem = f"{name}: no answer within {CALL_LIMIT:.0f} s"
        except Exception as error:  # a driver's defect must not take the other peers' tunnels down
            logger.defect("source.defect", error, source=name)
            problem = f"{name}: the driver failed ({type(error).__name__}); see the log"
        else:
            self._note(name, True, "delivers keys")
            return answer
        self._note(name, False, problem)
        return problem

    def _note(self, name: str, healthy: bool, detail: str) -> None:
        health = self.health[name]
        if health.healthy is not healthy:
            self._events.publish("source.up" if healthy else "source.down", None, source=name, detail=detail)
        health.healthy, health.detail = healthy, detail
        if not healthy:
            health.last_error = detail

    async def watch(self) -> None:
        """Look at every source's status now and then; runs until cancelled."""
        await asyncio.gather(self._watch(), self.supply.watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.gather(*(self._look(name) for name in self._hubs))
            await asyncio.sleep(STATUS_INTERVAL)

    async def _look(self, name: str) -> None:
        peer = next((owner for owner, own in self._sources if own == name), None)
        if peer is None:
            return
        status = await self._ask(peer, name)
        if isinstance(status, str):
            self._note(name, False, status)
        else:
            self._note(name, status.healthy, status.detail)
            health = self.health[name]
            health.stored_keys, health.max_keys = status.stored_keys, status.max_keys
        self.supply.told(peer, name, status)

    async def _ask(self, peer: str, name: str) -> SourceStatus | str:
        """The status of a source towards one peer, or in words why there is none."""
        try:
            async with asyncio.timeout(CALL_LIMIT):
                return await self._sources[peer, name].status()
        except KeySourceError as error:
            return str(error)
        except TimeoutError:
            return f"{name}: status: no answer within {CALL_LIMIT:.0f} s"
        except Exception as error:  # as above
            logger.defect("source.defect", error, source=name)
            return f"{name}: the driver failed ({type(error).__name__}); see the log"

    def status(self) -> list[KeySourceStatus]:
        """Of all sources, for the control socket."""
        return [
            KeySourceStatus(
                name=name,
                description=health.description,
                healthy=health.healthy,
                detail=health.detail,
                last_error=health.last_error,
                stored_keys=health.stored_keys,
                max_keys=health.max_keys,
            )
            for name, health in self.health.items()
        ]

    async def close(self) -> None:
        for hub in self._hubs.values():
            await hub.close()
