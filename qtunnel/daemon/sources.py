"""The key sources of a gateway: opened once, asked per peer, with their health kept for the status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Collection, Iterable, Mapping
from dataclasses import dataclass

from qtunnel.config import Config
from qtunnel.control.messages import KeySourceStatus
from qtunnel.daemon.steady import Steady
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


@dataclass(frozen=True, slots=True)
class Opened:
    """Sources that are ready to be used. hubs: those that are new; sources: all, by peer and name."""

    hubs: dict[str, SourceHub]
    sources: dict[tuple[str, str], KeySource]
    config: Config


class KeySources:
    """All sources of the configuration; ``source.up`` and ``source.down`` events tell of changes.

    tell: hears what there is for peers whose interval goes by it.
    """

    def __init__(self, config: Config, events: EventStream, tell: Tell = lambda peer, stock: None) -> None:
        self._events = events
        self._hubs: dict[str, SourceHub] = {}
        self._sources: dict[tuple[str, str], KeySource] = {}
        self._options: dict[tuple[str, str], object] = {}
        self._retired: dict[int, tuple[SourceHub, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        self.health: dict[str, Health] = {}
        self.supply = Supply((), self._ask, tell)
        hubs = _open(config, config.key_sources)
        self.adopt(Opened(hubs, self._towards(config, hubs), config))

    async def prepare(self, config: Config, other: Collection[str]) -> Opened:
        """What a configuration needs that is not there yet: the sources ``other``, which are new or not those of
        before, and their ways to each peer. Asks nobody. Raises ``ConfigError`` or ``FilePermissionError``."""
        hubs = _open(config, other)
        try:
            return Opened(hubs, self._towards(config, hubs), config)
        except BaseException:
            for hub in hubs.values():
                await hub.close()
            raise

    def _towards(self, config: Config, fresh: Mapping[str, SourceHub]) -> dict[tuple[str, str], KeySource]:
        hubs = {**self._hubs, **fresh}
        return {
            (peer.name, name): self._sources[peer.name, name]
            if name not in fresh and self._options.get((peer.name, name)) == options
            else hubs[name].for_peer(options)
            for peer in config.peers
            for name, options in peer.qkd.sources.items()
        }

    def adopt(self, opened: Opened) -> None:
        """The sources of another configuration from now on; those that stay go on with their connections, and calls
        under way at one that goes are waited for."""
        wanted, fresh = opened.config.key_sources, opened.hubs
        for name in [name for name in self._hubs if name not in wanted or name in fresh]:
            hub = self._hubs.pop(name)
            self._retired[id(hub)] = hub, asyncio.create_task(self._retire(hub))
        self.health = {
            name: Health(f"{source.driver}:{name}") if name in fresh else self.health[name]
            for name, source in wanted.items()
        }
        self._hubs |= fresh
        self._sources = opened.sources
        self._options = {
            (peer.name, name): options for peer in opened.config.peers for name, options in peer.qkd.sources.items()
        }
        moving = {peer.name for peer in opened.config.peers if peer.rekey.moves}
        self.supply.heed(pair for pair in self._sources if pair[0] in moving)
        self._changed.set()

    async def _retire(self, hub: SourceHub) -> None:
        await asyncio.sleep(CALL_LIMIT)
        await hub.close()
        del self._retired[id(hub)]

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
            found = await self._source(peer, name, "get_key").get_key(size)
        except KeySourceUnavailableError:
            self.supply.delivered(peer, name, key=False)
            raise
        self.supply.delivered(peer, name, key=True)
        return found

    async def _by_id(self, peer: str, ref: KeyRef) -> tuple[KeyRef, Secret]:
        return ref, await self._source(peer, ref.source, "get_key_by_id").get_key_by_id(ref)

    def _source(self, peer: str, name: str, call: str) -> KeySource:
        found = self._sources.get((peer, name))
        if found is None:
            raise KeySourceUnavailableError(name, call, "the configuration does not have it any more")
        return found

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
        health = self.health.get(name)
        if health is None:
            return  # it went while it was asked
        if health.healthy is not healthy:
            self._events.publish("source.up" if healthy else "source.down", None, source=name, detail=detail)
        health.healthy, health.detail = healthy, detail
        if not healthy:
            health.last_error = detail

    async def watch(self) -> None:
        """Look at every source's status now and then; runs until cancelled."""
        await asyncio.gather(self._watch(), self.supply.watch())

    async def _watch(self) -> None:
        steady = Steady("sources")
        while True:
            self._changed.clear()
            with steady.look():
                await asyncio.gather(*(self._look(name) for name in self._hubs))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATUS_INTERVAL):
                    await self._changed.wait()

    async def _look(self, name: str) -> None:
        peer = next((owner for owner, own in self._sources if own == name), None)
        if peer is None:
            return
        status = await self._ask(peer, name)
        if isinstance(status, str):
            self._note(name, False, status)
        else:
            self._note(name, status.healthy, status.detail)
            health = self.health.get(name)
            if health is None:
                return  # it went while it was asked
            health.stored_keys, health.max_keys = status.stored_keys, status.max_keys
        self.supply.told(peer, name, status)

    async def _ask(self, peer: str, name: str) -> SourceStatus | str:
        """The status of a source towards one peer, or in words why there is none."""
        try:
            async with asyncio.timeout(CALL_LIMIT):
                return await self._source(peer, name, "status").status()
        except KeySourceError as error:
            return str(error)
        except TimeoutError:
            return f"{name}: status: no answer within {CALL_LIMIT:.0f} s"
        except Exception as error:  # as above
            logger.defect("source.defect", error, source=name)
            return f"{name}: the driver failed ({type(error).__name__}); see the log"

    async def close(self) -> None:
        for hub, task in tuple(self._retired.values()):
            task.cancel()
            await hub.close()
        for hub in self._hubs.values():
            await hub.close()


def _open(config: Config, names: Iterable[str]) -> dict[str, SourceHub]:
    chosen = {name: config.key_sources[name] for name in names}
    return {name: registry.find(source.driver).open(name, source.options) for name, source in chosen.items()}


def status_of(health: Mapping[str, Health]) -> list[KeySourceStatus]:
    """For the status, by name."""
    return [
        KeySourceStatus(
            name=name,
            description=its.description,
            healthy=its.healthy,
            detail=its.detail,
            last_error=its.last_error,
            stored_keys=its.stored_keys,
            max_keys=its.max_keys,
        )
        for name, its in health.items()
    ]
