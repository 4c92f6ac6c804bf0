"""The key sources of a gateway: opened once, asked per peer, with their health kept for the status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from qtunnel.config import Config
from qtunnel.daemon.source_book import SourceBook
from qtunnel.daemon.steady import Steady
from qtunnel.daemon.supply import Supply, Tell
from qtunnel.drivers import registry
from qtunnel.drivers.registry import SourceHub
from qtunnel.errors import (
    ControlError,
    KeySourceError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
    UnknownSourceError,
)
from qtunnel.events import EventStream
from qtunnel.keys.source import KeySource, SourceStatus
from qtunnel.rekey.model import Fetch, FetchAhead, FetchById, Fetched, FetchNew
from qtunnel.secret import Secret
from qtunnel.telemetry import log
from qtunnel.terms import KeyRef

logger = log.get("daemon.sources")

CALL_LIMIT = 25.0
"""Seconds for one call, within the 30 s that an exchange waits; drivers have their own, shorter timeouts."""
STATUS_INTERVAL = 30.0
"""Seconds between looks at a source's status: an outage shows before the next rekey at the default 120 s, and an alarm
ends the use of its keys."""

T = TypeVar("T")

Answer = tuple[KeyRef, Secret] | str
"""A key, or in words why there is none."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Sources that are ready to be used. hubs: those that are new; sources: all, by peer and name."""

    hubs: dict[str, SourceHub]
    sources: dict[tuple[str, str], KeySource]
    config: Config


class KeySources:
    """All sources of the configuration; what becomes of them stands in the ``book``, which tells it as events.

    tell: hears what there is for peers whose interval goes by it.
    """

    def __init__(self, config: Config, events: EventStream, tell: Tell = lambda peer, stock: None) -> None:
        self.book = SourceBook(events)
        self._hubs: dict[str, SourceHub] = {}
        self._sources: dict[tuple[str, str], KeySource] = {}
        self._options: dict[tuple[str, str], object] = {}
        self._retired: dict[int, tuple[SourceHub, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
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
        self.book.keep(wanted, fresh, _intervals(opened.config))
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
        return self.book.describe(name)

    def clear(self, name: str) -> None:
        """End a source's quarantine and look at it at once. Raises ``UnknownSourceError``, or ``ControlError`` where
        there is none."""
        if name not in self.book:
            raise UnknownSourceError.of(name, self.book.names())
        if not self.book.clear(name):
            raise ControlError(f"key source {name} is not in quarantine")
        self._changed.set()

    async def fetch(self, request: Fetch) -> Fetched:
        """For a rekey, ask as many at once as have to contribute, and for each that fails the next; ahead of one, ask
        one source as often as it delivers. What fails is named, never raised."""
        if isinstance(request, FetchAhead):
            ahead: list[tuple[str, Answer]] = []
            while len(ahead) < request.number and not (ahead and isinstance(ahead[-1][1], str)):
                ahead.append((request.source, await self._fresh(request.peer, request.source, request.size)))
            return _sorted_out(ahead)
        if isinstance(request, FetchById):
            answers = await asyncio.gather(*(self._by_id(request.peer, ref) for ref in request.refs))
            return _sorted_out(zip((ref.source for ref in request.refs), answers, strict=True))
        assert isinstance(request, FetchNew)
        waiting = list(request.sources)
        told: list[tuple[str, Answer]] = []
        while waiting and (short := request.enough - sum(not isinstance(answer, str) for _, answer in told)) > 0:
            now, waiting = waiting[:short], waiting[short:]
            answers = await asyncio.gather(*(self._fresh(request.peer, name, request.size) for name in now))
            told += zip(now, answers, strict=True)
        return _sorted_out(told)

    async def _fresh(self, peer: str, name: str, size: int) -> Answer:
        async def call() -> tuple[KeyRef, Secret]:
            try:
                found = await self._source(peer, name, "get_key").get_key(size)
            except KeySourceUnavailableError:
                self.supply.delivered(peer, name, key=False)
                raise
            self.supply.delivered(peer, name, key=True)
            return found

        return await self._guarded(name, "get_key", call)

    async def _by_id(self, peer: str, ref: KeyRef) -> Answer:
        async def call() -> tuple[KeyRef, Secret]:
            return ref, await self._source(peer, ref.source, "get_key_by_id").get_key_by_id(ref)

        return await self._guarded(ref.source, "get_key_by_id", call)

    def _source(self, peer: str, name: str, call: str) -> KeySource:
        found = self._sources.get((peer, name))
        if found is None:
            raise KeySourceUnavailableError(name, call, "the configuration does not have it any more")
        return found

    async def _guarded(self, name: str, call: str, ask: Callable[[], Awaitable[tuple[KeyRef, Secret]]]) -> Answer:
        """The key, or in words why there is none."""
        refusal = self.book.refusal(name)
        if refusal is not None:
            return f"{name}: {refusal}"

        async def checked() -> tuple[KeyRef, Secret]:
            ref, key = await ask()
            self.book.check(ref, key, call)
            if self.book.quarantined(name):  # an alarm came meanwhile, and may be of this very key
                key.wipe()
                raise KeySourceUnavailableError(name, call, "an alarm came while the key was fetched", lost=1)
            self.book.delivered(name, len(key))
            return ref, key

        return await self._outcome(name, call, checked, lost=1)

    async def _outcome(self, name: str, call: str, ask: Callable[[], Awaitable[T]], lost: int = 0) -> T | str:
        """What a call brings, or in words why it failed. lost: keys that are gone where it takes too long."""
        failure: Exception
        try:
            async with asyncio.timeout(CALL_LIMIT):
                return await ask()
        except KeySourceError as error:
            problem, failure = str(error), error
        except TimeoutError:
            failure = KeySourceTimeoutError(name, call, f"no answer within {CALL_LIMIT:.0f} s", lost=lost)
            problem = str(failure)
        except Exception as error:  # a driver's defect must not take the other peers' tunnels down
            logger.defect("source.defect", error, source=name)
            problem, failure = f"{name}: the driver failed ({type(error).__name__}); see the log", error
        self.book.failed(name, problem, failure)
        return problem

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
        self.supply.told(peer, name, await self._ask(peer, name))

    async def _ask(self, peer: str, name: str) -> SourceStatus | str:
        """The status of a source towards one peer, or in words why there is none."""

        async def ask() -> SourceStatus:
            status = await self._source(peer, name, "status").status()
            self.book.looked(name, status)
            return status

        return await self._outcome(name, "status", ask)

    async def close(self) -> None:
        for hub, task in tuple(self._retired.values()):
            task.cancel()
            await hub.close()
        for hub in self._hubs.values():
            await hub.close()


def _intervals(config: Config) -> dict[str, float]:
    """The shortest seconds between rekeys that use each source, by its name."""
    found: dict[str, float] = {}
    for peer in config.peers:
        shortest = peer.rekey.min_interval or peer.rekey.interval
        for name in peer.qkd.sources:
            found[name] = min(shortest, found.get(name, shortest))
    return found


def _open(config: Config, names: Iterable[str]) -> dict[str, SourceHub]:
    chosen = {name: config.key_sources[name] for name in names}
    return {name: registry.find(source.driver).open(name, source.options) for name, source in chosen.items()}


def _sorted_out(told: Iterable[tuple[str, Answer]]) -> Fetched:
    """The keys, and by source what the others said."""
    keys, failures = [], []
    for name, answer in told:
        if isinstance(answer, str):
            failures.append((name, answer))
        else:
            keys.append(answer)
    return Fetched(tuple(keys), tuple(failures))
