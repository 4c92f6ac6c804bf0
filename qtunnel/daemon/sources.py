"""The key sources of a gateway: opened once, asked per peer, with their health kept for the status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from qtunnel.config import Config
from qtunnel.drivers import registry
from qtunnel.drivers.registry import SourceHub
from qtunnel.errors import KeySourceError
from qtunnel.events import EventStream
from qtunnel.keys.source import KeySource
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
    """What is known of one source. healthy: None where it was not asked yet."""

    description: str
    healthy: bool | None = None
    detail: str = ""
    last_error: str | None = None


class KeySources:
    """All sources of the configuration; ``source.up`` and ``source.down`` events tell of changes."""

    def __init__(self, config: Config, events: EventStream) -> None:
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

    def describe(self, name: str) -> str:
        """Driver and name, as ``etsi014:metro``."""
        return self.health[name].description if name in self.health else name

    async def fetch(self, request: FetchNew | FetchById) -> Fetched:
        """Ask all at once; what fails is named, never raised."""
        if isinstance(request, FetchNew):
            calls = [(name, self._new(request.peer, name, request.size)) for name in request.sources]
        else:
            calls = [(ref.source, self._by_id(request.peer, ref)) for ref in request.refs]
        answers = await asyncio.gather(*(self._guarded(name, call) for name, call in calls))
        keys = tuple(answer for answer in answers if not isinstance(answer, str))
        failures = tuple(
            (name, answer) for (name, _), answer in zip(calls, answers, strict=True) if isinstance(answer, str)
        )
        return Fetched(keys, failures)

    async def _new(self, peer: str, name: str, size: int) -> tuple[KeyRef, Secret]:
        return await self._sources[peer, name].get_key(size)

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
        while True:
            await asyncio.gather(*(self._look(name) for name in self._hubs))
            await asyncio.sleep(STATUS_INTERVAL)

    async def _look(self, name: str) -> None:
        source = next((its for (_, own), its in self._sources.items() if own == name), None)
        if source is None:
            return
        try:
            async with asyncio.timeout(CALL_LIMIT):
                status = await source.status()
        except KeySourceError as error:
            self._note(name, False, str(error))
        except TimeoutError:
            self._note(name, False, f"{name}: status: no answer within {CALL_LIMIT:.0f} s")
        except Exception as error:  # as above
            logger.defect("source.defect", error, source=name)
            self._note(name, False, f"{name}: the driver failed ({type(error).__name__}); see the log")
        else:
            self._note(name, status.healthy, status.detail)

    async def close(self) -> None:
        for hub in self._hubs.values():
            await hub.close()
