"""A network that runs: the core in time, a KME of each node over mutual TLS, commands and looks from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from qtunnel.errors import ConfigError
from qtunnel.events import EventStream
from qtunnel.kme.api import ApiError, DeliveredKey, Json, KeyRequest
from qtunnel.kme.config import KeyConfig, KmeConfig, SaeConfig
from qtunnel.kme.origin import Standing
from qtunnel.kme.server import Handler, Kme, site
from qtunnel.kme.store import KeyStore
from qtunnel.qkdnet.link import Happening
from qtunnel.qkdnet.network import Network, NoPathError, RelayedKey
from qtunnel.qkdnet.view import look
from qtunnel.secret import Secret
from qtunnel.simulator.alarm_stream import AlarmStream
from qtunnel.simulator.commands import perform
from qtunnel.simulator.etsi004_server import KeyStreams, serving
from qtunnel.simulator.model import AlarmsSection
from qtunnel.simulator.quirks import middleware
from qtunnel.simulator.topology_file import Topology
from qtunnel.telemetry.log import get as get_log
from qtunnel.tls import server_context

log = get_log("network")

TICK = 0.2
"""Seconds between two looks at what has happened, where nobody asks: as soon as this an alarm is in the log."""

SWEEP = 5.0
"""Seconds between looks for keys that nobody fetched."""

REMEMBERED = 10_000
"""Happenings that are kept for whoever asks."""

MOST_PATHS = 10
"""Disjoint ways that a request may ask for."""

ALARMS = ("link.alarm", "relay.failed", "relay.refused")
"""Happenings that are warnings in the log."""


class Service:
    """What the KMEs and the control socket share. Lives in one loop, so nothing happens in the middle of a call."""

    def __init__(
        self, topology: Topology, clock: Callable[[], float] = time.monotonic, time_scale: float | None = None
    ) -> None:
        self.topology = topology
        self.core: Network = topology.core()
        self.stores: dict[str, KeyStore] = {}
        self.streams = KeyStreams(topology, self.core, self.advance, clock)
        self.happenings: deque[Happening] = deque(maxlen=REMEMBERED)
        self.news = EventStream()
        """For who wants to hear of what happens at once."""
        self._clock = clock
        self._begin = clock()
        self._scale = topology.time_scale if time_scale is None else time_scale

    def advance(self) -> None:
        """Let the time that has passed since the last call pass in the network."""
        self._tell(self.core.advance((self._clock() - self._begin) * self._scale))

    def _tell(self, happenings: Sequence[Happening]) -> None:
        for one in happenings:
            self.happenings.append(one)
            write = log.warning if one.what in ALARMS else log.info
            write(one.what, at=f"{one.at:.3f}", place=one.place, detail=one.detail)
            self.news.publish(one.what, at=round(one.at, 3), place=one.place, detail=one.detail)

    def command(self, target: str, action: str, *arguments: str) -> list[Happening]:
        """What ``qtunnel kme ctl`` does; raises ``NetworkError``."""
        self.advance()
        found = perform(self.core, target, action, arguments)
        self._tell(found)
        return found

    def map(self) -> dict[str, Any]:
        """What ``qtunnel kme map --json`` prints."""
        self.advance()
        places = {name: list(node.at) for name, node in self.topology.nodes.items() if node.at is not None}
        told = {"network": self.topology.network, "time_scale": self._scale, "places": places}
        found: dict[str, Any] = told | look(self.core, self.topology.shown_pairs, self.topology.key.size)
        found["totals"]["expired"] = sum(store.expired for store in self.stores.values()) + self.streams.expired
        return found

    def deliver(self, node: str, request: KeyRequest, master: str, slaves: Sequence[str]) -> list[DeliveredKey]:
        """Keys of an SAE at ``node`` that wait for all ``slaves``; raises ``ApiError``."""
        self.advance()
        homes = self.topology.homes
        for slave in slaves:
            if homes[slave] not in self.stores:
                raise ApiError(400, f"{slave} is at {homes[slave]}, which serves ETSI GS QKD 004 alone")
        targets = sorted({homes[slave] for slave in slaves} - {node})
        self._check_room(node, request.number, {homes[slave] for slave in slaves})
        key_ids = [str(uuid.uuid4()) for _ in range(request.number)]
        size = request.size // 8
        if targets:
            disjoint = self._disjoint(request, node, targets)
            try:
                made = self.core.make(node, targets, size, key_ids, os.urandom, disjoint=disjoint)
            except NoPathError as error:
                raise ApiError(503, f"not enough keys: {error}") from None
        else:
            made = [RelayedKey(key_id, (), Secret.random(os.urandom, size), {}) for key_id in key_ids]
        try:
            for there in {homes[slave] for slave in slaves}:
                self._store(made, there, master, [slave for slave in slaves if homes[slave] == there])
        except BaseException:
            for store in self.stores.values():
                store.discard(key_ids)
            for key in made:
                key.at_source.wipe()
                for one in key.deliveries:
                    self.core.ledger.lost(one)
            raise
        finally:
            for key in made:
                for copy in key.at_targets.values():
                    copy.wipe()
        return [DeliveredKey(key.key_id, key.at_source) for key in made]

    def _check_room(self, node: str, number: int, homes: set[str]) -> None:
        """Before link key is used for keys that a store could not take; raises ``ApiError``."""
        for there in sorted(homes):
            try:
                self.stores[there].check_room(number, self._clock())
            except ApiError:
                for target in homes - {node}:
                    self.core.ledger.pair(node, target).refused += 1
                raise

    def _store(self, made: Sequence[RelayedKey], node: str, master: str, slaves: Sequence[str]) -> None:
        keys = [DeliveredKey(key.key_id, key.at_targets.get(node, key.at_source)) for key in made]
        self.stores[node].put(keys, master=master, slaves=slaves, now=self._clock())

    def _disjoint(self, request: KeyRequest, node: str, targets: Sequence[str]) -> int:
        wanted = request.mandatory.get("disjoint_paths")
        if wanted is None:
            return max(self.topology.disjoint(node, target) for target in targets)
        if not isinstance(wanted, int) or isinstance(wanted, bool) or not 1 <= wanted <= MOST_PATHS:
            raise ApiError(400, f"disjoint_paths shall be an integer from 1 to {MOST_PATHS}")
        return wanted

    def standing(self, node: str, other: str) -> Standing:
        """What the KME of ``node`` says of the keys with the SAE ``other``."""
        self.advance()
        there = self.topology.homes[other]
        size = self.topology.key.size
        if there == node:
            return Standing(self.topology.kme_id(node), self.topology.key.max_count, {})
        told: Json = {}
        stored = 0
        try:
            stored, paths = self.core.available(node, there, size, self.topology.disjoint(node, there))
            rate, qber = self.core.spread(paths)
            # of the clock's seconds, in which an SAE takes its keys
            told = {"key_rate": round(rate * self._scale, 3), "qber": round(qber, 6)}
            told["trusted_nodes"] = sorted({name for path in paths for name in path.between})
        except NoPathError as error:
            told["partner_problem"] = str(error)
            if error.alarmed:
                worst = max(error.alarmed, key=lambda link: link.error)
                told["alarm"] = f"link {worst.name}: {worst.alarm}"
                if worst.metric == "QBER":
                    told["qber"] = round(worst.error, 6)
        return Standing(self.topology.kme_id(there), min(stored, self.topology.key.max_count), told)


class NodeOrigin:
    """One node's way to its keys, for its KME."""

    extensions = frozenset({"disjoint_paths"})

    def __init__(self, service: Service, node: str) -> None:
        self._service = service
        self._node = node

    def standing(self, caller: str, other: str) -> Standing:
        return self._service.standing(self._node, other)

    async def make(self, request: KeyRequest, master: str, slaves: Sequence[str]) -> list[DeliveredKey]:
        return self._service.deliver(self._node, request, master, slaves)

    async def close(self) -> None:
        """The network goes on without this KME."""


@contextlib.asynccontextmanager
async def running(
    topology: Topology, *, sockets: Mapping[str, socket.socket] | None = None, time_scale: float | None = None
) -> AsyncIterator[Service]:
    """A network whose KMEs all serve within the context.

    sockets: listening sockets by node, and for ETSI GS QKD 004 by ``NODE/etsi004``, in whatever network namespace they
    were made; the others listen where the topology says. time_scale: in place of the topology's. Raises ``ConfigError``
    or ``KmeError``.
    """
    service = Service(topology, time_scale=time_scale)
    given = sockets or {}
    async with contextlib.AsyncExitStack() as stack:
        kmes = []
        stack.callback(service.streams.clear)
        for name, node in topology.nodes.items():
            if node.listen is None and node.etsi004 is None:
                continue  # a trusted node that serves nobody
            config = _kme_config(topology, name)
            if node.listen is not None:
                kme = Kme(config, origin=_origin(service, name))
                stack.push_async_callback(kme.close)
                app = kme.sae_app([_lost(service, name), middleware(node.quirks)])
                AlarmStream(service, name).add_to(app)
                context = server_context(config.tls_files, _refusal_teller(config.kme_id))
                await stack.enter_async_context(site(node.listen, app, context, given.get(name)))
                kmes.append(kme)
            if node.etsi004 is not None:
                listener = given.get(f"{name}/etsi004")
                await stack.enter_async_context(serving(service.streams, name, topology, config, listener))
        ticker = asyncio.create_task(_tick(service, kmes))
        stack.callback(ticker.cancel)
        stack.callback(service.news.close)
        if topology.mqtt is not None:
            await stack.enter_async_context(_announced(service, topology.mqtt))
        log.warning("network.simulated", network=topology.network, notice="simulated keys; not for production")
        told = {"kmes": len(kmes), "nodes": len(topology.nodes), "links": len(topology.links)}
        log.info("network.serves", network=topology.network, **told)
        yield service
        log.info("network.stopping", network=topology.network)


def _announced(service: Service, section: AlarmsSection) -> contextlib.AbstractAsyncContextManager[None]:
    try:
        from qtunnel.simulator.announce import announced
    except ModuleNotFoundError as error:
        raise ConfigError(f"mqtt: needs {error.name}: pip install 'qtunnel[mqtt]'") from None
    return announced(service, section)


def _origin(service: Service, node: str) -> Callable[[KeyStore], NodeOrigin]:
    def made(store: KeyStore) -> NodeOrigin:
        service.stores[node] = store
        return NodeOrigin(service, node)

    return made


def _kme_config(topology: Topology, node: str) -> KmeConfig:
    section = topology.nodes[node]
    listen = section.listen or section.etsi004
    assert listen is not None
    kme_id = topology.kme_id(node)
    saes = [SaeConfig(sae_id=sae, kme="local" if home == node else "partner") for sae, home in topology.homes.items()]
    return KmeConfig.model_construct(
        kme_id=kme_id,
        listen=listen,
        certificate=topology.pki / f"{kme_id}.pem",
        private_key=topology.pki / f"{kme_id}.key",
        ca=topology.pki / "ca.pem",
        partner=None,
        saes=saes,
        key=KeyConfig.model_construct(**topology.key.model_dump(), rate="unlimited"),
    )


def _refusal_teller(kme_id: str) -> Callable[[str], None]:
    return lambda why: log.warning("client.refused", kme=kme_id, reason=why)


def _lost(service: Service, node: str) -> Middleware:
    """Before everything else of a KME: whether its node is there at all."""

    @web.middleware
    async def gone(request: web.Request, handler: Handler) -> web.StreamResponse:
        if node in service.core.down:
            return web.json_response({"message": f"the node {node} is lost"}, status=503)
        return await handler(request)

    return gone


async def _tick(service: Service, kmes: Sequence[Kme]) -> None:
    swept = time.monotonic()
    while True:
        await asyncio.sleep(TICK)
        service.advance()
        if time.monotonic() - swept > SWEEP:
            swept = time.monotonic()
            service.streams.sweep()
            for kme in kmes:
                kme.sweep()
