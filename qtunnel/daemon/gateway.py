"""The daemon: carries datagrams, time and keys into the rekeying core, and its effects out."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from qtunnel import __version__
from qtunnel.config import Config, PeerConfig
from qtunnel.control.messages import NodeState, RekeyOutcome
from qtunnel.control.server import ControlServer, Handlers
from qtunnel.daemon import served
from qtunnel.daemon.accounting import Accounting
from qtunnel.daemon.announce import publisher
from qtunnel.daemon.clock import monotonic, now
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.epochs import Epochs
from qtunnel.daemon.journal import Journal
from qtunnel.daemon.lanes import EVERYBODY, Lanes
from qtunnel.daemon.liveness import Liveness
from qtunnel.daemon.memory import StateDirectory
from qtunnel.daemon.notices import Notices
from qtunnel.daemon.nudges import Nudges
from qtunnel.daemon.on_demand import OnDemand
from qtunnel.daemon.plain import PlainPeers
from qtunnel.daemon.plane import marked_by
from qtunnel.daemon.reliance import CoreReliance
from qtunnel.daemon.reload import Apply, ConfigSource, Parts, Reloader
from qtunnel.daemon.report import Reporter
from qtunnel.daemon.settings import all_settings, load_public
from qtunnel.daemon.source_status import status_of
from qtunnel.daemon.sources import KeySources
from qtunnel.daemon.steady import Steady
from qtunnel.daemon.stores import Stores, take_leave
from qtunnel.daemon.takeover import lease_of, take_up
from qtunnel.daemon.transport import Address, Datagram, HandshakeSockets, cookie_source, source_of
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.daemon.view import Tally, in_force, is_stale, key_ids_of, protection_in_force, sources_of
from qtunnel.engines.base import Lease, PeerStats
from qtunnel.engines.steward_client import StewardClient
from qtunnel.errors import EngineError, QtunnelError, UnknownPeerError
from qtunnel.events import EventStream
from qtunnel.identity import Identity, PublicIdentity
from qtunnel.keys.policy import Protection
from qtunnel.rekey.model import Block, Defect, Effect, Fetch, Install, Keep, Notice, Remember, Send
from qtunnel.rekey.node import RekeyNode
from qtunnel.rekey.view import PeerView
from qtunnel.sd_notify import Notifier
from qtunnel.secret import Secret
from qtunnel.telemetry import log

logger = log.get("daemon")

POLL_INTERVAL = 1.0
"""Seconds between looks at the engine: what is in force shows within this time."""


class Gateway:
    """One gateway, from its configuration to its end."""

    def __init__(self, config: Config, source: ConfigSource, steward: StewardClient | None = None) -> None:
        self._config, self._source, self._steward = config, source, steward
        self._peers: dict[str, PeerConfig] = {peer.name: peer for peer in config.peers}
        self._started = monotonic()
        self._epochs = Epochs()
        self._life = Liveness()
        self._state: NodeState = "starting"
        self._events = EventStream()
        self._identity = Identity.load(config.node.identity)
        self._public = load_public(config)
        self._tally: dict[str, Tally] = defaultdict(Tally)
        self._shown: dict[str, tuple[int | None, Protection]] = {}
        self._counted: dict[str, PeerStats] = {}
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._work = Lanes(self._carry_out, self._spawn)
        self._armed: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._accounting = Accounting(config, self._identity, self._events, self._give_up)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises a ``QtunnelError`` where the start fails."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number.name)
        notifier = Notifier.from_environment()
        self._reloader = Reloader(self._source, self._config, self._events, notifier)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
        journal = asyncio.create_task(Journal().follow(self._events.subscribe()))
        try:
            await self._run(notifier)
        finally:
            self._events.publish("daemon.stopped", None)
            self._events.close()
            await journal
            await self._accounting.finish()
        if isinstance(self._failure, QtunnelError):
            raise self._failure
        if self._failure is not None:
            raise QtunnelError(
                f"stopped by an internal error ({type(self._failure).__name__}); the log has the details"
            )

    async def _run(self, notifier: Notifier) -> None:
        config, node = self._config, self._config.node
        self._events.publish(
            "daemon.starting", None, version=__version__, node=node.name, fingerprint=self._identity.public.fingerprint
        )
        reloader = self._reloader
        control = ControlServer(
            node.control_socket,
            Handlers(
                lambda peer: reporter.status(peer),
                self._rekey,
                self._events,
                reloader.reload,
                reloader.source.path,
                self._clear_source,
            ),
        )
        self._memory: StateDirectory | None = None
        reliance = CoreReliance(lambda: self._core, self._flush)
        self._sources = KeySources(config, self._events, reliance,
                                   lambda peer, stock: self._core.supply(peer, stock, now()),
                                   reliance.next_rekey)  # fmt: skip
        self._core = RekeyNode(self._identity, os.urandom, source_of=source_of, cookie_source=cookie_source)
        self._tunnel = Tunnel(config, self._identity, self._public, self._events, self._current_psk, self._lease_of,
                              self._steward)  # fmt: skip
        self._tunnel.busy = self._work.busy
        self._endpoints = Endpoints(config, self._tunnel, self._events, self._core.unanswered,
                                    lambda: self._sockets.versions())  # fmt: skip
        self._plain = PlainPeers(config, self._endpoints.doubt)
        self._nudges = Nudges(self._tunnel, self._endpoints)
        self._sockets = HandshakeSockets(node.listen, self._receive, marked_by(self._steward))
        self._notices = Notices(self._tally, self._tunnel, self._endpoints, self._publish, self._sources.book.lost)
        self._stores = stores = Stores(node.state_dir, self._publish)
        reporter = Reporter(
            self._started, self._identity.public.fingerprint, self._core, self._tunnel, self._endpoints, self._plain,
            self._sources, self._notices, reloader, self._accounting, self._tally, lambda: self._config,
            lambda: self._peers, lambda: self._state, self._view,
        )  # fmt: skip
        told = partial(status_of, self._sources.book)
        serving = served.servers(config, lambda: reporter.status(None), told, self._events)
        announcing = publisher(config, lambda: reporter.status(None), self._events)
        settings = all_settings(config, self._public)
        try:
            await control.start()
            names = {its.id: name for name, its in self._public.items()}
            memory = StateDirectory(node.state_dir, lambda kind, told: self._publish(kind, detail=told), names)
            self._memory = memory
            await self._accounting.start()
            await served.start(serving, self._spawn)
            await self._sockets.open(await self._tunnel.outer_mark())
            await self._endpoints.first(memory, self._public)
            await self._tunnel.start()
            self._state = "up"
            await stores.sweep(settings)
            await stores.enter(self._core, settings, memory, len(settings))
            await take_up(self._tunnel, self._core, settings, now(), self._publish)
            self._flush()
            self._spawn(self._timer())
            self._spawn(self._poll(self._reconcile, self._look))
            self._spawn(self._poll(self._mend))  # beside the others: for a hub's routes it takes seconds
            self._spawn(self._tunnel.supervise())
            self._spawn(self._sources.watch())
            self._spawn(self._endpoints.watch())
            if notifier.watchdog_interval is not None:
                self._spawn(self._life.watchdog(notifier, notifier.watchdog_interval, self._wake.set))
            parts = Parts(
                self._core, self._tunnel, self._endpoints, self._sources, self._plain, memory, stores, self._work,
                self._flush, self._adopt, self._spawn, self._view,
            )  # fmt: skip
            reloader.ready(parts)
            self._spawn(reloader.follow())
            if announcing is not None:
                self._spawn(announcing.follow())
            self._events.publish("daemon.ready", None, interface=config.tunnel.interface, peers=len(self._peers))
            notifier.ready(reloader.summary)
            await self._stop.wait()
        finally:
            self._state = "stopping"
            notifier.stopping()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await control.stop()
            await served.stop(serving)
            self._sockets.close()
            if self._stop.is_set() and self._failure is None:
                await self._tunnel.stop()
            else:  # nobody asked for this end, so nothing may leave in the clear after it
                await self._tunnel.abandon()
            await self._sources.close()
            self._plain.wipe()
            await take_leave(self._core, self._memory, self._notices.tell)
            if self._memory is not None:
                self._memory.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect: better to stop, and be started again, than to run on with a part missing.
            logger.defect("daemon.defect", error)
            if self._state != "stopping":  # one that fails as it is ended does not make the end another one
                self._failure = error
                self._stop.set()

    def _asked_to_stop(self, signal_name: str) -> None:
        if not self._stop.is_set():
            self._events.publish("daemon.stopping", None, signal=signal_name)
        self._stop.set()

    def _give_up(self, reason: str) -> None:
        """Nobody asked for this end: as after a defect, nothing leaves in the clear after it."""
        if self._state != "stopping":
            self._failure = QtunnelError(reason)
            self._stop.set()

    def _publish(self, kind: str, peer: str | None = None, **fields: object) -> None:
        self._events.publish(kind, peer, **fields)

    def _current_psk(self, peer: str) -> tuple[int, Secret] | None:
        found = self._core.peers.get(peer)
        return self._plain.key_of(peer) if found is None else found.current_psk()

    def _adopt(self, config: Config, public: Mapping[str, PublicIdentity], gone: set[str]) -> None:
        """Another configuration. gone: peers of before that are none of its."""
        self._config, self._public = config, dict(public)
        self._peers = {peer.name: peer for peer in config.peers}
        for name in gone:
            self._tally.pop(name, None)
            self._shown.pop(name, None)
            self._counted.pop(name, None)
            self._epochs.forget(name)
            self._nudges.forget(name)

    def _lease_of(self, peer: str) -> Lease | None:
        return lease_of(self._core, peer)

    # -- into the core

    def _receive(self, datagrams: list[Datagram], expected: bool) -> None:
        core, present = self._core, now()
        if not core.peers:
            return
        for datagram, address in datagrams:
            heard = core.receive(datagram, address, present, expected=expected)
            if heard is not None:
                self._endpoints.heard(heard, address)
        for reply, to in core.take_replies():
            assert isinstance(to, Address)
            self._sockets.send(reply, to)
        if core.stirred():  # not for each of a flood's datagrams
            self._flush()

    async def _timer(self) -> None:
        while True:
            deadline = self._armed = self._core.deadline
            self._wake.clear()
            try:
                async with asyncio.timeout(None if deadline is None else max(0.0, deadline - monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._core.tick(now())
            self._flush()
            self._life.ticked()

    async def _fetch(self, request: Fetch) -> None:
        result = await self._sources.fetch(request)
        self._core.fetched(request.peer, request.ticket, result, now())
        self._flush()

    # -- out of the core

    def _flush(self) -> None:
        for effect in self._core.take_effects():
            told = self._notices.admit(effect) if isinstance(effect, Notice) else effect
            if told is not None and self._state != "stopping":
                self._work.put(told)
        deadline = self._core.deadline
        if deadline is not None and (self._armed is None or deadline < self._armed):
            self._wake.set()

    async def _carry_out(self, effect: Effect) -> None:
        done = self._life.begins()
        try:
            await self._effect(effect)
        except EngineError as error:
            # The next look reconciles what the engine has with what it should have; until then status and log
            # say so, and the peer is not told that an epoch is in place.
            self._publish("engine.trouble", effect.peer, detail=str(error))
        self._life.ends(done)

    async def _effect(self, effect: Effect) -> None:
        match effect:
            case Send() if not self._stores.withheld(effect.peer):
                self._send(effect)
            case Fetch():
                self._spawn(self._fetch(effect))
            case Install():
                await self._tunnel.install(effect)
            case Block():
                await self._tunnel.block(effect.peer)
            case Keep():
                if not await self._stores.keep(effect):
                    self._core.unkept(effect.peer, now())
                    self._flush()
            case Remember() if self._memory is not None:
                await self._memory.remember(effect.identity, effect.memory)
            case Apply():
                await effect.run()
            case Defect():
                logger.defect("peer.defect", effect.error, peer=effect.peer)
            case Notice():
                self._notices.tell(effect)

    def _send(self, effect: Send) -> None:
        if effect.confirms is not None and (self._tunnel.epoch_in_place(effect.peer) or 0) < effect.confirms:
            return  # the peer repeats its commit, and is told once it is true
        address = effect.address if isinstance(effect.address, Address) else self._endpoints.of(effect.peer)
        if address is None:
            return  # endpoint.unresolved has told, and the exchange will end with no-answer
        for datagram in effect.datagrams:
            self._sockets.send(datagram, address)

    # -- what is in force

    def _view(self, peer: str) -> PeerView:
        return self._epochs.complete(self._core.view(peer), monotonic())

    async def _poll(self, *steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
        expected, looks = Steady("expect"), [(step, Steady(step.__name__.strip("_"))) for step in steps]
        while True:
            with expected.look():
                self._sockets.expect(self._endpoints.hosts())
            await asyncio.sleep(POLL_INTERVAL)
            self._wake.set()  # timers of the event loop stand still while the machine sleeps, keys must not
            for step, steady in looks:
                with steady.look():
                    try:
                        await step()
                    except EngineError as error:
                        self._publish("engine.trouble", None, detail=str(error))

    async def _reconcile(self) -> None:
        if not self._work.busy(EVERYBODY):
            await self._tunnel.reconcile()

    async def _mend(self) -> None:
        before = self._tunnel.trouble
        try:
            await self._tunnel.mend()
        finally:
            if self._tunnel.trouble not in (None, before):
                for name in self._peers:
                    self._tally[name].tell(self._tunnel.trouble, monotonic())

    async def _look(self) -> None:
        stats = await self._tunnel.stats()
        present = monotonic()
        self._plain.look(stats, present, time.time())
        for name, config in self._peers.items():
            if name not in self._core.peers:
                continue  # taken away, or not added yet
            view, its = self._view(name), stats.get(name)
            if its is not None and its is not self._counted.get(name):
                self._counted[name] = its
                self._core.carried(name, its.rx_bytes + its.tx_bytes, its.packets, now())
            protection = protection_in_force(config, view, its, present)
            epoch = None if its is None else its.epoch_in_force
            before = self._shown.get(name, (None, Protection.STARTING))
            self._shown[name] = epoch, protection
            info = in_force(view, its)
            if epoch != before[0] and info is not None:
                self._publish(
                    "epoch.in-force", name, epoch=epoch, protection=protection,
                    sources=sources_of(info, self._sources.describe), key_ids=key_ids_of(info), chained=info.chained,
                )  # fmt: skip
            if protection is not before[1]:
                self._publish("protection.in-force", name, before=before[1], after=protection)
            try:
                if is_stale(config, view, its, present):
                    # A newer epoch is installed, but WireGuard goes on with a session of one that is too old.
                    await self._tunnel.drop_session(name)
                    self._publish("session.stale", name, detail=f"session of epoch {epoch} is past max_age: dropped")
                else:
                    await self._nudges.look(name, config.wireguard_port, its, time.time())
            except EngineError as error:  # the others' turn comes all the same
                self._publish("engine.trouble", name, detail=str(error))
        self._flush()

    # -- control

    async def _clear_source(self, name: str, peer: str | None) -> None:
        self._sources.clear(name, peer)

    async def _rekey(self, peer: str) -> RekeyOutcome:
        if peer in self._plain:
            raise UnknownPeerError(f"{peer} is a plain WireGuard peer: there is nothing to agree on with it")
        if peer not in self._peers:
            raise UnknownPeerError.of(peer, self._peers)
        if peer not in self._core.peers:
            raise QtunnelError(f"no rekey with {peer} now: the daemon is {self._state}")
        rekey = OnDemand(self._core, self._tunnel, self._endpoints, self._events, self._flush)
        return await rekey(peer, lambda: self._peers[peer], self._view, self._sources.describe)
