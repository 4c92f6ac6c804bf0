"""The engine and its interface: brought up, kept up, taken down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from dataclasses import replace

from qtunnel.config import Config
from qtunnel.daemon.engine_keys import UNKNOWN, Busy, CurrentPsk, EngineKeys, LeaseOf
from qtunnel.daemon.inheritance import inherit
from qtunnel.daemon.lanes import EVERYBODY
from qtunnel.daemon.looks import AFTER_CHANGE, Looks
from qtunnel.daemon.members import interface_of, mark_for, specs_of
from qtunnel.daemon.plane import open_plane, part
from qtunnel.daemon.refusals import Refusals, short
from qtunnel.daemon.steady import Steady
from qtunnel.engines.base import Endpoint, Engine, Left, PeerSpec, PeerStats
from qtunnel.engines.changes import Changes
from qtunnel.engines.existing import ExistingEngine
from qtunnel.engines.interface import Interface
from qtunnel.engines.ledger import SESSION_TIME
from qtunnel.engines.owners import OwnersInterface
from qtunnel.engines.steward_client import StewardClient
from qtunnel.errors import EngineError, ShortageError
from qtunnel.events import EventStream
from qtunnel.identity import Identity, PublicIdentity
from qtunnel.telemetry import log

logger = log.get("daemon.tunnel")

ROUTES_EVERY = AFTER_CHANGE
"""Looks, about seconds, between two at the host's routes: it takes a dump of them all, and they change as seldom as a
DHCP server gives another gateway."""
FIRST_RESTART = 0.2
"""Seconds until a dead engine is started again, doubling up to ..."""
LONGEST_RESTART = 10.0
"""... these, so that an engine that cannot start does not fill the log."""
REFUSALS = 3
"""Times in a row that an engine may refuse what a peer should have, or leave a question unanswered for 5 s."""


class Tunnel(EngineKeys):
    """One interface with its peers. Every peer has a random PSK from the first moment on."""

    def __init__(
        self, config: Config, identity: Identity, public: dict[str, PublicIdentity], events: EventStream,
        current_psk: CurrentPsk, lease_of: LeaseOf = lambda peer: None, steward: StewardClient | None = None,
    ) -> None:  # fmt: skip
        self._config, self._identity, self._events, self._current_psk = config, identity, events, current_psk
        self._lease_of, self._steward = lease_of, steward
        self.busy: Busy = lambda peer: False
        """Whose effects are on their way: they bring what the peer should have by themselves."""
        self.engine: Engine
        self._interface: Interface | OwnersInterface
        self.engine, self._interface = open_plane(config, identity.public.wireguard, steward, lambda: self._keys)
        self.left: dict[str, Left] = {}
        """By peer's name, what an engine that was taken over has in place; to be judged right after ``start``."""
        self._kept: set[str] = set()
        """Peers whose key is of before a restart: what nobody here could put in place again is left as it is."""
        self.mark = mark_for(config)
        """Of all datagrams that carry the tunnel: those of the engine, and those of the key handshake."""
        self._changes = Changes()
        self._made = 0
        self._looks = Looks(self._changes.heard, lambda: self._interface.looks)
        self._specs = specs_of(config, public)
        self._keys = {name: spec.public_key for name, spec in self._specs.items()}
        self._unset: set[str] = set()
        self._owed, self._alone = set[str](), set[str]()
        self._unrenewed: set[str] = set()
        self._gone: set[bytes] = set()
        self.up, self.restarts = False, 0
        self._in_place: dict[str, int | object | None] = {}
        self._record_suites: dict[str, str] = {}
        self._misplaced: set[str] = set()
        self._warned: set[str] = set()
        self._routes_due = 0
        self.trouble: str | None = None
        """What of the interface somebody undid, until it is seen to be back."""
        self._strikes = {"set": 0, "get": 0}
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Engine, keys, peers with random PSKs, then the link; or all of that as a daemon that was killed has left it.

        Raises ``EngineError``; leaves nothing half made.
        """
        try:
            left = await self.engine.adopt(self._identity.public.wireguard, self._config.node.wireguard_port, self.mark)
            if self.engine.replaced is not None:
                self._events.publish("engine.replaced", None, detail=self.engine.replaced)
            if left is None:
                refused = (await self._bring_up()).by_peer
                if len(refused) == len(self._specs) > 0:  # a mistake in the configuration, rather than of the owner's
                    raise next(iter(refused.values()))
            else:
                await self._take_over(left)
        except BaseException:
            await self.engine.stop()
            with contextlib.suppress(EngineError):
                await self._interface.undo()
            raise

    async def _take_over(self, left: dict[bytes, Left]) -> None:
        self.left = await inherit(self.engine, left, self._specs)
        for name in self._specs:
            its, ours = self.left.get(name), self._current_psk(name)
            self._in_place[name] = None if its is None else its.installed[0] if its.installed else UNKNOWN
            if ours is not None:  # of a peer that runs WireGuard alone: set again, which changes nothing
                ours[1].wipe()
                self.left.pop(name, None)
                self._in_place[name] = UNKNOWN
            elif its is not None:
                self._kept.add(name)
        await self._interface.up(self.engine.index)
        self._made += 1
        self._looks.made()
        self._warn()
        self.up = True
        self._events.publish("engine.adopted", None, pid=self.engine.pid, peers=len(self.left))

    async def _bring_up(self) -> Refusals:
        """What is refused for one peer ends the start of an engine of ours, which then is made anew. An interface of
        somebody else's goes on as it is: there it is the others' turn, and ``reconcile`` repeats what was refused."""
        engine, refusals = self.engine, Refusals()
        self._kept.clear()
        self._owed.clear()
        self._unrenewed.clear()
        await engine.start()
        with self._identity.wireguard.copy() as key:
            await engine.configure_device(key, self._config.node.wireguard_port, self.mark)
        for name, spec in self._specs.items():
            with refusals.of(name):
                self._in_place[name] = UNKNOWN
                await engine.set_peer(spec)
                self._in_place[name] = None
                await self._put_right(name)
            if name in refusals.by_peer and not self._owners:
                raise refusals.by_peer[name]
        self._misplaced.clear()
        self._gone.clear()
        self._unset = set(refusals.by_peer)
        await self._interface.up(self.engine.index)
        self._made += 1
        self._looks.made()
        self._warn()
        if not self._owners:
            for name in self._specs:  # a handshake that was asked for before the link was up has not been sent
                self._in_place[name] = None
                await self._put_right(name)
        self.up = True
        for name, refusal in refusals.by_peer.items():
            self._events.publish("engine.trouble", name, detail=str(refusal))
        return refusals

    @property
    def _owners(self) -> bool:
        """Whether the interface is somebody else's, who may take away or change what is there."""
        return isinstance(self._interface, OwnersInterface)

    def _warn(self) -> None:
        for warning in self._interface.warnings:
            if warning not in self._warned:
                self._events.publish("interface.warning", None, detail=warning)
        self._warned = set(self._interface.warnings)

    async def supervise(self) -> None:
        """Start the engine again whenever it dies; runs until cancelled."""
        watch, restart = Steady("engine"), Steady("restart")
        while True:
            with watch.look():
                reason = await self.engine.wait_dead()
                async with self._lock:
                    self.up = False
                self._events.publish("engine.died", None, detail=reason)
            delay = FIRST_RESTART
            while not self.up:
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_RESTART)
                with restart.look():
                    await self._restart()

    async def _restart(self) -> None:
        try:
            async with self._lock:
                await self.engine.stop()
                await self._bring_up()
            self.restarts += 1
            self._events.publish("engine.restarted", None, pid=self.engine.pid)
        except EngineError as error:
            self._events.publish("engine.failed", None, detail=str(error))

    async def mend(self) -> None:
        """Put back what somebody undid of the interface, its routes and what stands behind them, and follow the host's
        own routes; to be called about every second. Raises ``EngineError``."""
        # Nobody tells of changes of the keys of an owner's interface.
        if not self.up or not (self._looks.due(trouble=self.trouble is not None) or self._owners):
            return
        made, refused = self._made, None
        missing = await self._missing()
        async with self._lock:
            if not self.up or self._made != made:
                return  # the interface has become another one meanwhile
            if not missing:
                self.trouble = None
            else:
                name = self._config.tunnel.interface
                remedy = "put back" if self._interface.undone else "remove that"
                if self._interface.away:
                    remedy = "no protection for a peer that is not there; add it again"
                text = f"interface {name} was changed by somebody else: missing: {short(missing)}; {remedy}"
                if self.trouble is None or (self._owners and text != self.trouble):
                    self._events.publish("interface.altered", None, detail=text)
                self.trouble = text
                await self._interface.put_back()
                refused = (await self._take_back(self._interface.rekeyed, self._interface.away)).error(missing=False)
            self._routes_due += 1
            if self._routes_due >= ROUTES_EVERY:
                self._routes_due = 0
                await self._interface.follow_routes()
            self._warn()
            if refused is not None:
                raise refused

    async def _take_back(self, rekeyed: Collection[str], away: Collection[str]) -> Refusals:
        """Peers with another key than ours get ours; those that are not there begin anew when they are."""
        refusals = Refusals()
        for peer in away:
            if peer not in self._unset:
                self._unset.add(peer)
                self._in_place[peer] = UNKNOWN
                await self.engine.remove_peer(self._keys[peer])  # forgotten here: there it is gone already
        for peer in rekeyed:
            with refusals.of(peer):
                await self._block(peer)  # with what sessions the other key has made
                await self._put_right(peer)
        return refusals

    async def _missing(self) -> list[str]:
        if isinstance(self._interface, OwnersInterface):
            async with self._lock:  # or a key that is being installed would be taken for somebody else's
                return await self._interface.missing()
        return await self._interface.missing()  # not under the lock: at a hub's start this takes seconds

    async def stop(self) -> None:
        """Take interface, routes and engine away, and what stands behind the routes; nothing of anybody else's."""
        self.up = False
        self._changes.close()
        if self._steward is not None and not self._owners:
            await part(self.engine, self._steward)
            return
        try:
            await self._interface.down()
        except EngineError as error:
            logger.warning("interface.down", detail=str(error))
        await self.engine.stop()

    async def abandon(self) -> None:
        """End the engine, and with it the interface; the unreachable routes stay, and nothing leaves in the clear."""
        self.up = False
        self._changes.close()
        if self._interface.is_up and self._interface.guards:
            prefixes = short([str(network) for network in self._interface.guards])
            self._events.publish(
                "tunnel.guarded",
                None,
                detail=f"no traffic for {prefixes} until the next start; to let it pass unprotected: "
                f"ip route del unreachable PREFIX metric {self._interface.config.guard_metric} (ip -6 for IPv6)",
            )
        await self.engine.stop()

    async def outer_mark(self) -> int:
        """The mark of the key handshake's datagrams: where the interface is somebody else's, what its owner has it mark
        its own with, so that both go the same way. Raises ``EngineError``."""
        return await self.engine.fwmark() if isinstance(self.engine, ExistingEngine) else self.mark

    def key_of(self, peer: str) -> bytes:
        return self._keys[peer]

    async def change(self, config: Config, specs: Mapping[str, PeerSpec], others: Collection[str]) -> None:
        """Other peers, addresses, MTU and routes from now on; peers that stay as they are are not touched.

        specs: of all peers, without endpoints. others: names whose peer is another one than before. What the engine or
        the kernel refuses is repeated by ``reconcile`` and ``mend``; raises ``EngineError`` for the first refusal.
        """
        async with self._lock:
            before, self._specs = self._specs, {}
            for name, spec in before.items():
                if name not in specs or name in others:
                    self._gone.add(spec.public_key)
                    for held in (self._in_place, self._record_suites):
                        held.pop(name, None)
                    for named in (self._kept, self._owed, self._alone, self._misplaced, self._unset):
                        named.discard(name)
            for name, spec in specs.items():
                old = None if name in others else before.get(name)
                if old is None:
                    self._in_place[name] = None
                self._specs[name] = spec if old is None else replace(spec, endpoint=old.endpoint)
                if self._specs[name] != old:
                    self._unset.add(name)
            self._keys = {name: spec.public_key for name, spec in self._specs.items()}
            self._config = config
            refusals = Refusals()
            if self.up:
                refusals, self._unrenewed = await self._settle(), set(self._specs)  # perhaps max_age is another one
                await self._renew_owed(refusals)
            try:
                await self._interface.change(interface_of(config))
            finally:
                self._made += 1
                self._looks.made()
            if (refused := refusals.error()) is not None:
                raise refused

    async def _settle(self) -> Refusals:
        """Bring the engine's peers to what they should be."""
        refusals = Refusals()
        for key in tuple(self._gone):
            with refusals.of_all():
                await self.engine.remove_peer(key)
                self._gone.discard(key)
        away = self._interface.away if self._owners else ()  # which every look finds out anew
        waiting = [
            name for name in self._specs
            if name in self._unset and name not in away and self._keys[name] not in self._gone
        ]  # fmt: skip
        stats: dict[bytes, PeerStats] | None = None
        with refusals.of_all():
            stats = await self.engine.stats() if waiting else {}
        for name in waiting if stats is not None else ():
            with refusals.of(name):
                its, spec = (stats or {}).get(self._keys[name]), self._specs[name]
                at = its.endpoint if its is not None else None  # where it has roamed to it stays
                await self.engine.set_peer(spec if at is None else replace(spec, endpoint=at))
                self._unset.discard(name)
                await self._put_right(name)
        return refusals

    async def set_endpoint(self, peer: str, endpoint: Endpoint) -> None:
        """Where the peer's WireGuard is, from its name; the engine follows roaming by itself."""
        async with self._lock:
            if peer not in self._specs:
                return  # it went while its name was looked up
            before = self._specs[peer].endpoint
            self._specs[peer] = replace(self._specs[peer], endpoint=endpoint)
            if not self.up or before == endpoint or peer in self._unset:
                return
            self._misplaced.add(peer)
            await self._place(peer)

    async def lead(self, peer: str, endpoint: Endpoint) -> None:
        """The engine looks for the peer elsewhere than where it last heard it."""
        async with self._lock:
            if self.up and peer in self._specs:
                await self.engine.set_endpoint(self._keys[peer], endpoint)

    async def _place(self, peer: str) -> None:
        endpoint = self._specs[peer].endpoint
        assert endpoint is not None
        await self.engine.set_endpoint(self._keys[peer], endpoint)
        self._misplaced.discard(peer)

    async def reconcile(self) -> None:
        """Repeat what the engine refused, until it has what every peer should have, but for those for whom something
        is being done at this moment; to be called now and then.

        Raises ``EngineError`` for the first refusal.
        """
        async with self._lock:
            if not self.up:
                return
            refusals = await self._settle() if self._gone or self._unset else Refusals()
            for peer in self._specs:
                if peer in self._unset or self.busy(EVERYBODY):
                    continue  # a new configuration is on its way, and it may be another peer's name by now
                with refusals.of(peer):
                    await self._put_right(peer)
                    if peer in self._misplaced:
                        await self._place(peer)
            await self._renew_owed(refusals)
            refused = refusals.error(missing=False)  # those that are missing are told by ``mend``
            if refused is None:
                self._strikes["set"] = 0
                return
            if not self._owners:  # whom an end of it would leave as it is, with all the others
                await self._distrust("set", refused)
            raise refused

    async def _distrust(self, what: str, refusal: EngineError) -> None:
        """An engine that goes on refusing, or does not answer, is stopped: its restart puts everything in place, and
        meanwhile nothing passes. Before somebody else's interface is given up all its peers are blocked."""
        self._strikes[what] += 1
        if self._strikes[what] >= REFUSALS:
            self._strikes = dict.fromkeys(self._strikes, 0)
            self._events.publish("engine.stopped", None, detail=f"it failed {REFUSALS} times in a row: {refusal}")
            self.up = False
            if isinstance(self.engine, ExistingEngine):
                left = await self.engine.block_all()
                names = [name for name, key in self._keys.items() if key in left]
                if names:
                    words = f"not certainly blocked: {short(names)}; a session there may last {SESSION_TIME:g} s"
                    self._events.publish("engine.trouble", None, detail=words)
            await self.engine.stop()

    async def stats(self) -> dict[str, PeerStats]:
        """By peer's name; empty while the engine is down."""
        async with self._lock:
            if not self.up:
                return {}
            try:
                found = await self.engine.stats()
            except EngineError as error:
                if not isinstance(error, ShortageError):
                    await self._distrust("get", error)
                raise
            self._strikes["get"] = 0
        return {name: found[key] for name, key in self._keys.items() if key in found}
