"""Another configuration while the daemon runs: read and checked whole, then applied in one go.

Nothing is applied unless all of it can be: a file that cannot be loaded, or a key that takes a restart, changes
nothing. What goes through touches only what differs; the sessions, epochs and timers of other peers go on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qtunnel.aside import aside
from qtunnel.config import Config, LogConfig, warnings
from qtunnel.config.credentials import changed_since
from qtunnel.config.difference import Change, Kind, Verb, difference
from qtunnel.config.snapshot import Snapshot, take_snapshot
from qtunnel.control.messages import ReloadOutcome
from qtunnel.daemon.clock import monotonic, now
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.lanes import EVERYBODY, Lanes
from qtunnel.daemon.members import specs_of
from qtunnel.daemon.memory import StateDirectory
from qtunnel.daemon.plain import PlainPeers, load_psks
from qtunnel.daemon.settings import all_settings
from qtunnel.daemon.sources import KeySources, Opened
from qtunnel.daemon.stores import Stores
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.daemon.view import may_fall_short
from qtunnel.errors import ConfigError, EngineError, QtunnelError
from qtunnel.events import EventStream
from qtunnel.identity import PublicIdentity
from qtunnel.keys.policy import Protection
from qtunnel.rekey.model import Effect, PeerSettings
from qtunnel.rekey.node import RekeyNode
from qtunnel.rekey.view import PeerView
from qtunnel.sd_notify import Notifier
from qtunnel.secret import Secret
from qtunnel.telemetry import log

logger = log.get("daemon")

TOLD = 20
"""Changes that one event names; the answer to ``qtunnel reload`` has them all."""


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where the configuration comes from. load: reads and checks ``path``; apply_log: sets logging up by it."""

    path: Path
    load: Callable[[], Config]
    apply_log: Callable[[LogConfig], None]


@dataclass(frozen=True, slots=True)
class Apply(Effect):
    """To be done as an effect, one at a time, and beside those of the peers: none of them has to wait for a slow one.
    What is being done for a peer meanwhile finds that it was overtaken, or is right by the new settings too."""

    run: Callable[[], Coroutine[Any, Any, None]]


class Adopt(Protocol):
    """Takes a new configuration over in the gateway. gone: names of qtunnel peers that are not those of before."""

    def __call__(self, config: Config, public: Mapping[str, PublicIdentity], gone: set[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a reload changes. work: the effects that wait to be carried out; flush: puts the core's there; view: of a
    peer by its name, with what the core has forgotten not long ago."""

    core: RekeyNode
    tunnel: Tunnel
    endpoints: Endpoints
    sources: KeySources
    plain: PlainPeers
    memory: StateDirectory
    stores: Stores
    work: Lanes
    flush: Callable[[], None]
    adopt: Adopt
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    view: Callable[[str], PeerView]


@dataclass(slots=True)
class _Plan:
    """A configuration that can be applied, with all that was read and opened for it."""

    new: Snapshot
    changes: tuple[Change, ...]
    settings: list[PeerSettings]
    psks: dict[str, Secret]
    opened: Opened

    def names(self, kind: Kind, *verbs: Verb) -> set[str]:
        return {change.name for change in self.changes if change.kind is kind and change.verb in verbs}

    def others(self, before: Config) -> set[str]:
        """Names whose peer is another one than before, or of the other kind."""
        peers, plain = ({peer.name for peer in found} for found in (before.peers, before.plain_peers))
        switched = (peers & self.names(Kind.PLAIN_PEER, Verb.ADDED)) | (plain & self.names(Kind.PEER, Verb.ADDED))
        return self.names(Kind.PEER, Verb.REPLACED) | self.names(Kind.PLAIN_PEER, Verb.REPLACED) | switched


class Reloader:
    """Of one daemon. error, error_at: why the newest configuration is not in use; monotonic seconds."""

    def __init__(self, source: ConfigSource, config: Config, events: EventStream, notifier: Notifier) -> None:
        self.source, self._events, self._notifier = source, events, notifier
        self._key = os.urandom(32)
        self._now = take_snapshot(config, self._key)
        self._parts: Parts | None = None
        self._turn = asyncio.Lock()
        self._asked = asyncio.Event()
        self.error: str | None = None
        self.error_at = 0.0

    def ask(self) -> None:
        """A reload is wanted (SIGHUP); one that is asked for before the daemon is up comes after that."""
        self._asked.set()

    def ready(self, parts: Parts) -> None:
        """From here on there is something to change."""
        self._parts = parts

    @property
    def summary(self) -> str:
        """For the service manager."""
        config = self._now.config
        return f"{len(config.peers) + len(config.plain_peers)} peers on {config.tunnel.interface}"

    async def follow(self) -> None:
        """Do what ``ask`` asks for; runs until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self.reload()
            except QtunnelError:
                continue  # told as an event, and by the status

    async def reload(self) -> ReloadOutcome:
        """Read the file again and apply it. Raises a ``QtunnelError`` where it cannot be; then nothing has changed."""
        async with self._turn:
            if self._parts is None:
                raise QtunnelError("no reload now: the daemon is starting or stopping")
            self._notifier.reloading()
            try:
                return await self._carry_out(self._parts, await self._plan(self._parts))
            except QtunnelError as error:
                self.error, self.error_at = str(error), monotonic()
                self._events.publish("config.refused", None, file=str(self.source.path), detail=self.error)
                raise
            finally:
                refused = "" if self.error is None else "; a newer configuration was refused, see the log"
                self._notifier.ready(self.summary + refused)

    async def _plan(self, parts: Parts) -> _Plan:
        try:
            return await self._prepare(parts, await aside(self._read))
        except QtunnelError:
            raise
        except Exception as error:
            logger.defect("reload.defect", error)
            raise QtunnelError("an internal error while reading it; nothing was changed, the log has more") from None

    def _read(self) -> Snapshot:
        return take_snapshot(self.source.load(), self._key)

    async def _prepare(self, parts: Parts, new: Snapshot) -> _Plan:
        """Everything that can fail, before anything is changed."""
        changes = difference(self._now, new)
        refused = [change.words for change in changes if change.verb is Verb.REFUSED]
        if refused:
            raise ConfigError("\n".join(f"{self.source.path}: {words}" for words in refused), self.source.path)
        settings, psks = all_settings(new.config, new.public), load_psks(new.config)
        other = {c.name for c in changes if c.kind is Kind.KEY_SOURCE and c.verb is not Verb.REMOVED}
        return _Plan(new, changes, settings, psks, await parts.sources.prepare(new.config, other))

    async def _carry_out(self, parts: Parts, plan: _Plan) -> ReloadOutcome:
        done: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            trouble = ["the daemon failed to apply it; see the log"]
            try:
                trouble = await self._apply(parts, plan)
            finally:
                if not done.done():
                    done.set_result(trouble)

        parts.work.put(Apply(EVERYBODY, run))
        trouble = await done
        words = [change.words for change in plan.changes]
        told = [*self._old_secrets(), *warnings(plan.new.config)]
        return ReloadOutcome(file=str(self.source.path), changes=words, warnings=told, trouble=trouble)

    def _old_secrets(self) -> list[str]:
        """That secret files are not read again, where there is reason to expect it."""
        words = changed_since(self.source.path)
        if words is None:
            return []
        self._events.publish("secrets.changed", None, detail=words)
        return [words]

    async def _apply(self, parts: Parts, plan: _Plan) -> list[str]:
        config, core, present = plan.new.config, parts.core, now()
        others = plan.others(self._now.config)
        gone = {name for name in core.peers if name in others or name not in plan.new.public}
        parts.flush()
        for name in gone:
            core.remove_peer(name)
        parts.work.forget(gone)
        for settings in plan.settings:
            if settings.name in core.peers and core.peers[settings.name].settings != settings:
                core.change_peer(settings, present)
        parts.sources.adopt(plan.opened)
        parts.plain.adopt(config, plan.psks)
        parts.endpoints.change(config, plan.new.public, others)
        parts.adopt(config, plan.new.public, gone)
        self._now, self.error = plan.new, None
        self.source.apply_log(config.log)
        parts.flush()
        trouble = await self._change_tunnel(parts, plan, others)
        fresh = [settings for settings in plan.settings if settings.name not in core.peers]
        await parts.stores.enter(core, fresh, parts.memory)
        parts.flush()
        parts.spawn(parts.stores.sweep(plan.settings))
        parts.spawn(parts.endpoints.settle())
        self._tell(plan)
        return trouble

    async def _change_tunnel(self, parts: Parts, plan: _Plan, others: set[str]) -> list[str]:
        """First what stops traffic, then what lets it pass. What engine or kernel refuses, in words."""
        tunnel, trouble, changed = parts.tunnel, [], plan.names(Kind.PEER, Verb.CHANGED)
        blocked = [name for name, peer in parts.core.peers.items() if peer.view().protection is Protection.BLOCKED]
        for name in changed.intersection(blocked):
            trouble += await _tried(tunnel.block(name))  # at once; the core's own word comes in its turn
        trouble += await _tried(tunnel.change(plan.new.config, specs_of(plan.new.config, plan.new.public), others))
        trouble += await _tried(self._drop_forbidden(parts, plan))
        return trouble

    async def _drop_forbidden(self, parts: Parts, plan: _Plan) -> None:
        """A newer epoch may be installed than the one that WireGuard still uses; that one must satisfy as well. The
        tunnel repeats a drop that the engine refuses, so the others' turn comes all the same."""
        refused: EngineError | None = None
        for config in plan.new.config.peers:
            peer = parts.core.peers.get(config.name)
            if peer is None or config.name not in plan.names(Kind.PEER, Verb.CHANGED):
                continue
            if may_fall_short(config, parts.view(config.name), relaxed=peer.context.guard.relaxed):
                try:
                    await parts.tunnel.drop_session(config.name)
                except EngineError as error:
                    refused = refused or error
        if refused is not None:
            raise refused

    def _tell(self, plan: _Plan) -> None:
        for change in plan.changes:
            match change:
                case Change(Verb.ADDED, Kind.PEER | Kind.PLAIN_PEER):
                    self._events.publish("peer.added", change.name)
                case Change(Verb.REMOVED, Kind.PEER | Kind.PLAIN_PEER):
                    self._events.publish("peer.removed", change.name)
                case Change(Verb.REPLACED, Kind.PEER | Kind.PLAIN_PEER):
                    self._events.publish("peer.replaced", change.name, keys=change.keys)
                case Change(Verb.CHANGED, Kind.PEER | Kind.PLAIN_PEER):
                    self._events.publish("peer.changed", change.name, keys=change.keys)
        words = tuple(change.words for change in plan.changes)
        more = (f"and {len(words) - TOLD} more",) if len(words) > TOLD else ()
        self._events.publish("config.reloaded", None, file=str(self.source.path), changes=words[:TOLD] + more)


async def _tried(work: Coroutine[Any, Any, None]) -> list[str]:
    try:
        await work
    except EngineError as error:
        return [str(error)]
    return []
