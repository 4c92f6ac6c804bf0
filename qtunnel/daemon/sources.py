"""The key sources of a gateway: opened once, asked per peer, with their health kept for the status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from qtunnel.config import Config
from qtunnel.daemon.answers import ALARM_CAME, Answer, sorted_out, still_good
from qtunnel.daemon.clock import monotonic
from qtunnel.daemon.reliance import Reliance
from qtunnel.daemon.source_book import SourceBook
from qtunnel.daemon.supply import Supply, Tell
from qtunnel.daemon.watch import NextRekey, Watch
from qtunnel.drivers import registry
from qtunnel.drivers.registry import SourceHub
from qtunnel.errors import (
    ControlError,
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
    UnknownPeerError,
    UnknownSourceError,
)
from qtunnel.events import EventStream
from qtunnel.keys.health import alarm_of
from qtunnel.keys.source import BatchKeySource, KeySource, SourceStatus
from qtunnel.keys.trust import AGAIN, HOLD
from qtunnel.rekey.model import Fetch, FetchAhead, FetchById, Fetched, FetchNew, Look
from qtunnel.secret import Secret
from qtunnel.telemetry import log
from qtunnel.terms import KeyRef

logger = log.get("daemon.sources")

CALL_LIMIT = 25.0
"""Seconds for one call, within the 30 s that an exchange waits; drivers have their own, shorter timeouts."""
LOOK_WAIT = 2.0
"""Seconds that a key waits for a look before it that is not the first: an alarm that comes later takes it back."""
LOOKS_AT_ONCE = 16
"""At one source, before keys: a hub of 1,000 peers that starts must not ask its KME for all in one moment."""

FEWER = (KeySourceUnavailableError, KeyRequestRejectedError, KeyNotFoundError)
"""After these, where nothing was consumed, fewer keys at once may be had, or those of several that are there."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opened:
    """Sources that are ready to be used. hubs: those that are new; sources: all, by peer and name."""

    hubs: dict[str, SourceHub]
    sources: dict[tuple[str, str], KeySource]
    config: Config


class KeySources:
    """All sources of the configuration; what becomes of them stands in the ``book``, which tells it as events.

    reliance: hears of looks and alarms; tell: what there is for peers whose interval goes by it; next_rekey: of a peer.
    """

    def __init__(
        self,
        config: Config,
        events: EventStream,
        reliance: Reliance,
        tell: Tell = lambda peer, stock: None,
        next_rekey: NextRekey = lambda peer: None,
    ) -> None:
        self.book = SourceBook(events)
        self._reliance = reliance
        self._looking: dict[tuple[str, str], asyncio.Task[SourceStatus | str]] = {}
        self._looks: set[asyncio.Task[SourceStatus | str]] = set()
        """Also those at sources of before."""
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._hubs: dict[str, SourceHub] = {}
        self._sources: dict[tuple[str, str], KeySource] = {}
        self._options: dict[tuple[str, str], object] = {}
        self._retired: dict[int, tuple[SourceHub, asyncio.Task[None]]] = {}
        self.supply = Supply((), tell)
        self._watch = Watch(self._look, next_rekey, lambda name: self.book.resting(name) is not None)
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
        quiet = {name for name, source in wanted.items() if not registry.find(source.driver).warns}
        self.book.keep(wanted, fresh, _intervals(opened.config), opened.sources.keys(), quiet)
        self._hubs |= fresh
        stay = {pair for pair, source in opened.sources.items() if self._sources.get(pair) is source}
        self._looking = {pair: task for pair, task in self._looking.items() if pair in stay}
        self._sources = opened.sources
        self._options = {
            (peer.name, name): options for peer in opened.config.peers for name, options in peer.qkd.sources.items()
        }
        moving = {peer.name for peer in opened.config.peers if peer.rekey.moves}
        heeded = [pair for pair in self._sources if pair[0] in moving]
        self.supply.heed(heeded)
        # Of a source whose status says the same of all peers, one look tells all.
        first = [(next(peer for peer, own in self._sources if own == name), name) for _, name in self._sources]
        watched = [pair for pair in self._sources if pair[1] not in quiet]
        self._watch.heed(dict.fromkeys([*first, *watched, *heeded]))

    async def _retire(self, hub: SourceHub) -> None:
        await asyncio.sleep(CALL_LIMIT)
        await hub.close()
        del self._retired[id(hub)]

    def describe(self, name: str) -> str:
        """Driver and name, as ``etsi014:metro``."""
        return self.book.describe(name)

    def clear(self, name: str, peer: str | None = None) -> None:
        """End a source's quarantine, towards one peer or all, and look at it at once. Raises ``UnknownSourceError``,
        ``UnknownPeerError``, or ``ControlError`` where there is none."""
        if name not in self.book:
            raise UnknownSourceError.of(name, self.book.names())
        peers = self.book.peers(name)
        if peer is not None and peer not in peers:
            raise UnknownPeerError(f"no peer {peer!r} has keys of {name}; there are: {', '.join(peers) or 'none'}")
        if not self.book.clear(name, peer):
            towards = "" if peer is None else f" towards {peer}"
            raise ControlError(f"key source {name} is not in quarantine{towards}")
        self._watch.anew(name, peers if peer is None else [peer])

    async def fetch(self, request: Fetch) -> Fetched:
        """For a rekey, ask as many at once as have to contribute, and for each that fails the next; ahead of one, ask
        one source as long as it delivers, for several keys at once where it can. What fails is named, never raised."""
        doubts = self.book.doubts(request.peer)
        told = await self._answers(request)
        return sorted_out(still_good(self.book, request.peer, told, doubts))

    async def _answers(self, request: Fetch) -> Iterable[tuple[str, Answer]]:
        if isinstance(request, Look):
            await asyncio.gather(*(self._first_look(request.peer, name) for name in request.sources))
            return []
        if isinstance(request, FetchAhead):
            return await self._ahead(request)
        if isinstance(request, FetchById):
            by_source: dict[str, list[KeyRef]] = {}
            for ref in request.refs:
                by_source.setdefault(ref.source, []).append(ref)
            found = await asyncio.gather(*(self._by_ids(request.peer, its) for its in by_source.values()))
            return [answer for answers in found for answer in answers]
        assert isinstance(request, FetchNew)
        waiting = list(request.sources)
        told: list[tuple[str, Answer]] = []
        while waiting and (short := request.enough - sum(not isinstance(answer, str) for _, answer in told)) > 0:
            now, waiting = waiting[:short], waiting[short:]
            answers = await asyncio.gather(*(self._fresh(request.peer, name, request.size, 1) for name in now))
            told += [(name, answer) for name, its in zip(now, answers, strict=True) for answer in its]
        return told

    async def _ahead(self, request: FetchAhead) -> list[tuple[str, Answer]]:
        """As many keys of one source as it gives, at most those that are wanted."""
        name, told, most = request.source, list[tuple[str, Answer]](), request.number
        while len(told) < request.number:
            asked = min(most, request.number - len(told))
            if not isinstance(self._sources.get((request.peer, name)), BatchKeySource):
                asked = 1
            answers = await self._fresh(request.peer, name, request.size, asked)
            told += [(name, answer) for answer in answers]
            if any(isinstance(answer, str) for answer in answers):
                break
            if not answers:  # it does not have so many; perhaps half
                most = asked // 2
        return told

    async def _fresh(self, peer: str, name: str, size: int, number: int) -> list[Answer]:
        """Fresh keys by one call; none where only a smaller number can be had."""

        async def call() -> list[tuple[KeyRef, Secret]]:
            try:
                source = self._source(peer, name, "get_key")
                if number == 1 or not isinstance(source, BatchKeySource):
                    found = [await source.get_key(size)]
                else:
                    found = await source.get_keys(size, number)
            except FEWER as error:
                if number > 1 and not error.lost:
                    return []
                if isinstance(error, KeySourceUnavailableError):
                    self.supply.delivered(peer, name, key=False)
                raise
            self.supply.delivered(peer, name, key=True)
            return found

        return await self._guarded(peer, name, "get_key", call, number)

    async def _by_ids(self, peer: str, refs: Sequence[KeyRef]) -> list[tuple[str, Answer]]:
        """Keys of one source; several at once where it can. One that it does not have costs no other."""
        name = refs[0].source
        if not isinstance(self._sources.get((peer, name)), BatchKeySource):
            found = list[tuple[str, Answer]]()
            for ref in refs:  # one after the other: a peer that announces many must not take all turns from the others
                found += [(name, answer) for answer in await self._some_by_ids(peer, [ref])]
            return found
        told, waiting = list[tuple[str, Answer]](), [list(refs)]
        while waiting:
            some = waiting.pop(0)
            answers = await self._some_by_ids(peer, some)
            told += [(name, answer) for answer in answers]
            if answers:
                rest = some[len(answers) :]
                if len(some) > 1 and any(isinstance(answer, str) for answer in answers):
                    break  # what is left is announced again, and asked for then
                waiting[:0] = [rest] if rest else []
            else:
                waiting[:0] = [some[: len(some) // 2], some[len(some) // 2 :]]
        return told

    async def _some_by_ids(self, peer: str, refs: Sequence[KeyRef]) -> list[Answer]:
        """The first of these by one call; none where not all of them can be had together."""

        async def call() -> list[tuple[KeyRef, Secret]]:
            source = self._source(peer, refs[0].source, "get_key_by_id")
            if len(refs) == 1 or not isinstance(source, BatchKeySource):
                return [(refs[0], await source.get_key_by_id(refs[0]))]
            try:
                return list(zip(refs, await source.get_keys_by_ids(refs), strict=False))
            except FEWER as error:
                if error.lost:
                    raise
                return []

        return await self._guarded(peer, refs[0].source, "get_key_by_id", call, len(refs), chosen_by=peer)

    def _source(self, peer: str, name: str, call: str) -> KeySource:
        found = self._sources.get((peer, name))
        if found is None:
            raise KeySourceUnavailableError(name, call, "the configuration does not have it any more")
        return found

    async def _guarded(
        self, peer: str, name: str, call: str, ask: Callable[[], Awaitable[list[tuple[KeyRef, Secret]]]], number: int,
        chosen_by: str | None = None,
    ) -> list[Answer]:  # fmt: skip
        """The keys that a call brings, or in words why there are none. number: keys that it may cost; chosen_by: the
        peer that said which."""
        await self._look_before(peer, name)
        refusal = self.book.refusal(name, peer)
        if refusal is not None:
            return [f"{name}: {refusal}"]

        async def checked() -> list[Answer]:
            found = await ask()
            if found and self.book.barred(name, peer):  # an alarm came meanwhile, and may be of these very keys
                for _, key in found:
                    key.wipe()
                raise KeySourceUnavailableError(name, call, ALARM_CAME, lost=len(found))
            return [self._checked(name, call, ref, key) for ref, key in found]

        answers = await self._outcome(name, call, checked, lost=number, towards=peer, chosen_by=chosen_by)
        return [answers] if isinstance(answers, str) else answers

    def _checked(self, name: str, call: str, ref: KeyRef, key: Secret) -> Answer:
        try:
            self.book.check(ref, key, call)
        except KeySourceError as error:
            self.book.failed(name, str(error), error)
            return str(error)
        self.book.delivered(name, len(key))
        return ref, key

    async def _outcome(
        self, name: str, call: str, ask: Callable[[], Awaitable[T]], lost: int = 0, *,
        towards: str | None = None, chosen_by: str | None = None, looked_at: str | None = None,
    ) -> T | str:  # fmt: skip
        """What a call brings, or in words why it failed. lost: keys that are gone where it takes too long, or where
        nobody knows how far it got; towards, chosen_by, looked_at: as in ``SourceBook.failed``."""
        failure: KeySourceError
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
            what = f"the driver failed ({type(error).__name__}); see the log"
            problem, failure = f"{name}: {what}", KeySourceError(name, call, what, lost=lost)
        alone = sum(own == name for _, own in self._sources) < 2
        self.book.failed(name, problem, failure, towards=towards, chosen_by=chosen_by, looked_at=looked_at, alone=alone)
        return problem

    async def watch(self) -> None:
        """Look at the status of every pair of peer and source now and then; runs until cancelled."""
        await self._watch.run()

    async def _look_before(self, peer: str, name: str) -> None:
        """A look before a key is asked for, where the last one is too old to tell; never raises, and waits its time."""
        trust = self.book.trust(name, peer)
        if trust is None or self.book.resting(name) is not None:
            return
        first = not trust.seen
        if not trust.due(monotonic()) and not (first and trust.warns and (peer, name) in self._looking):
            return
        self._watch.looked(peer, name)
        await asyncio.wait({self._begin_look(peer, name)}, timeout=HOLD if first else LOOK_WAIT)

    async def _first_look(self, peer: str, name: str) -> None:
        """Before keys of before the start are used: until somebody has looked, or for as long as a fresh one waits."""
        await self._look_before(peer, name)
        while self.book.waits(name, peer):
            await asyncio.sleep(AGAIN)
            await self._look_before(peer, name)

    async def _look(self, peer: str, name: str) -> None:
        await asyncio.wait({self._begin_look(peer, name)})

    def _begin_look(self, peer: str, name: str) -> asyncio.Task[SourceStatus | str]:
        """The look under way, or another one: two callers share it, and none that goes away ends it."""
        task = self._looking.get((peer, name))
        if task is None:
            task = self._looking[peer, name] = asyncio.create_task(self._look_in_turn(peer, name))
            self._looks.add(task)
            task.add_done_callback(lambda its: self._end_look(peer, name, its))
        return task

    def _end_look(self, peer: str, name: str, task: asyncio.Task[SourceStatus | str]) -> None:
        self._looks.discard(task)
        if self._looking.get((peer, name)) is task:
            del self._looking[peer, name]

    async def _look_in_turn(self, peer: str, name: str) -> SourceStatus | str:
        async with self._turns.setdefault(name, asyncio.Semaphore(LOOKS_AT_ONCE)):
            return await self._ask(peer, name)

    async def _ask(self, peer: str, name: str) -> SourceStatus | str:
        """The status of a source towards one peer, or in words why there is none."""
        begun, trust, source = monotonic(), self.book.trust(name, peer), self._sources.get((peer, name))
        if trust is not None:
            trust.begins(begun)

        def of_now() -> bool:
            return self._sources.get((peer, name)) is source  # else another configuration has another in its place

        async def ask() -> SourceStatus:
            news = list[str]()
            try:
                status = await self._source(peer, name, "status").status()
            except KeySourceError as error:
                news = self.book.unread(name, peer, error) if of_now() else []
                raise
            else:
                if of_now() or (trust is not None and alarm_of(status, trust.quarantine.limits) is not None):
                    news = self.book.looked(name, peer, status, begun)
                return status
            finally:
                for its in news:
                    self._reliance.distrust(its, name, self.book.why(name, its))

        found = await self._outcome(name, "status", ask, looked_at=peer)
        if isinstance(found, str) and trust is not None and of_now():
            trust.failed(found)  # also a driver's defect, and one that never answers
        elif of_now() and not isinstance(found, str) and not self.book.barred(name, peer):
            self._reliance.vouch(peer, name, begun)
        self.supply.told(peer, name, found)
        return found

    async def close(self) -> None:
        for hub, task in tuple(self._retired.values()):
            task.cancel()
            await hub.close()
        for look in tuple(self._looks):
            look.cancel()
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
