"""A node's other interface: key streams of ETSI GS QKD 004 over mutual TLS, for networks of several vendors.

An application is known by the SAE ID in its URI, ``qkd://SAE_ID``. Streams are shared by all nodes of the network. The
chunk at an index is relayed when one end asks for it first, and waits for the other end, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from qtunnel.kme.config import KmeConfig
from qtunnel.kme.server import listen as listening
from qtunnel.qkdnet.network import Network, NoPathError, RelayedKey
from qtunnel.secret import Secret
from qtunnel.simulator import etsi004_messages as messages
from qtunnel.simulator.etsi004_messages import MalformedError, Qos, Service, Status
from qtunnel.simulator.topology_file import Topology
from qtunnel.telemetry.log import get as get_log
from qtunnel.tls import common_name, server_context

log = get_log("network")

MAX_CONNECTIONS = 256
MAX_STREAMS = 4096
"""Of a network; each end of each tunnel has one, and a new one at each start."""


@dataclass(slots=True)
class _Stream:
    """saes: the two that share it. open: those that have it open. given: indexes that were made. waiting: (SAE, index)
    to the key that it has not fetched, and until when that waits."""

    saes: frozenset[str]
    qos: Qos
    open: set[str] = field(default_factory=set)
    given: set[int] = field(default_factory=set)
    waiting: dict[tuple[str, int], tuple[Secret, float]] = field(default_factory=dict)


class KeyStreams:
    """The streams of a network. advance: lets the network's time pass; clock: seconds for the keys that wait."""

    def __init__(
        self, topology: Topology, core: Network, advance: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._topology, self._core = topology, core
        self._advance, self._clock = advance, clock
        self._streams: dict[uuid.UUID, _Stream] = {}
        self.expired = 0
        """Chunks that the second end did not fetch in time."""

    def open(self, caller: str, asked: messages.Open) -> tuple[bytes, uuid.UUID | None]:
        """The body of the answer, and the stream that is open now."""
        saes = frozenset(_sae(uri) for uri in (asked.source, asked.destination))
        if len(saes) != 2 or caller not in saes or not saes <= self._topology.homes.keys():
            return messages.status(Status.NO_QKD_CONNECTION), None
        limits = self._topology.limits
        qos = asked.qos.within(limits.min_size // 8, limits.max_size // 8, int(self._topology.key.ttl))
        ksid = asked.ksid if asked.ksid.int else uuid.uuid4()
        stream = self._streams.get(ksid)
        if stream is not None and (stream.saes != saes or caller in stream.open):
            return messages.status(Status.KSID_IN_USE), None
        if stream is None:
            if len(self._streams) >= MAX_STREAMS:
                return messages.status(Status.NO_QKD_CONNECTION), None
            stream = self._streams[ksid] = _Stream(saes, qos)
        stream.open.add(caller)
        if stream.qos.chunk != asked.qos.chunk:
            code = Status.QOS_NOT_MET
        else:
            code = Status.SUCCESSFUL if stream.open == saes else Status.PEER_NOT_CONNECTED
        return messages.opened(code, stream.qos, ksid), ksid

    def get(self, caller: str, asked: messages.Get) -> bytes | bytearray:
        """The body of the answer, with a key in it where there is one."""
        stream = self._streams.get(asked.ksid)
        if stream is None or caller not in stream.open:
            return messages.status(Status.PEER_NOT_YET_CONNECTED)
        if self._topology.homes[caller] in self._core.down:
            return messages.status(Status.NO_QKD_CONNECTION)
        metadata = json.dumps({"age": 0, "hops": 1}).encode()
        if asked.room < len(metadata) + 3:  # a way of a thousand hops
            return messages.metadata_needs(len(metadata) + 3)
        key = self._fetched(stream, caller, asked.index)
        hops = 1
        if key is None and asked.index not in stream.given:
            try:
                made = self._made(stream, caller, asked)
            except NoPathError as error:
                code = Status.NO_QKD_CONNECTION if error.alarmed else Status.INSUFFICIENT_KEY
                log.warning("stream.refused", stream=str(asked.ksid), to=caller, reason=str(error))
                return messages.status(code)
            key = made.at_source
            hops = max((len(path.links) for one in made.deliveries for path in one.paths), default=0)
        if key is None:
            return messages.status(Status.INSUFFICIENT_KEY)  # this end had it, or its time was over
        with key:
            return messages.got(asked.index, key.reveal(), json.dumps({"age": 0, "hops": hops}).encode())

    def _fetched(self, stream: _Stream, caller: str, index: int) -> Secret | None:
        found = stream.waiting.pop((caller, index), None)
        if found is None:
            return None
        key, expires = found
        if expires > self._clock():
            return key
        key.wipe()
        self.expired += 1
        return None

    def _made(self, stream: _Stream, caller: str, asked: messages.Get) -> RelayedKey:
        """The chunk at that index, of which a copy waits for the other end; raises ``NoPathError``."""
        self._advance()
        (other,) = stream.saes - {caller}
        here, there = (self._topology.homes[sae] for sae in (caller, other))
        if len(stream.waiting) >= self._topology.key.max_count:
            raise NoPathError("too many keys wait to be fetched")
        key_id = f"{asked.ksid}:{asked.index}"
        if here == there:
            made = RelayedKey(key_id, (), Secret.random(os.urandom, stream.qos.chunk), {})
            copy = made.at_source.copy()
        else:
            disjoint = self._topology.disjoint(here, there)
            (made,) = self._core.make(here, [there], stream.qos.chunk, [key_id], os.urandom, disjoint=disjoint)
            copy = made.at_targets[there]
        stream.given.add(asked.index)
        stream.waiting[other, asked.index] = (copy, self._clock() + stream.qos.ttl)
        return made

    def leave(self, caller: str, ksid: uuid.UUID) -> bool:
        """That end has it open no more; whether it had."""
        stream = self._streams.get(ksid)
        if stream is None or caller not in stream.open:
            return False
        stream.open.discard(caller)
        return True

    def sweep(self) -> None:
        """Wipe keys that nobody fetched, and forget streams that nobody has open and that have no key."""
        now = self._clock()
        for ksid, stream in list(self._streams.items()):
            for place, (key, expires) in list(stream.waiting.items()):
                if expires <= now:
                    key.wipe()
                    self.expired += 1
                    del stream.waiting[place]
            if not stream.open and not stream.waiting:
                del self._streams[ksid]

    def clear(self) -> None:
        for stream in self._streams.values():
            for key, _ in stream.waiting.values():
                key.wipe()
        self._streams.clear()


def _sae(uri: str) -> str:
    """``sae-alice`` of ``qkd://sae-alice/what/ever``."""
    return uri.removeprefix("qkd://").partition("/")[0]


@contextlib.asynccontextmanager
async def serving(
    streams: KeyStreams, node: str, topology: Topology, config: KmeConfig, listener: socket.socket | None
) -> AsyncIterator[None]:
    """The interface of a node within the context; raises ``ConfigError`` or ``KmeError``."""
    address = topology.nodes[node].etsi004
    assert address is not None
    context = server_context(config.tls_files, lambda why: log.warning("client.refused", kme=node, reason=why))
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        caller = common_name(writer.get_extra_info("peercert"))
        mine: set[uuid.UUID] = set()
        try:
            if caller is not None and topology.homes.get(caller) == node and len(connections) <= MAX_CONNECTIONS:
                await _serve(streams, caller, mine, reader, writer)
        except (OSError, MalformedError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # gone, or nobody who speaks this
        finally:
            for ksid in mine:
                streams.leave(caller or "", ksid)
            connections.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(accept, sock=listener or listening(address), ssl=context)
    try:
        yield
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _serve(
    streams: KeyStreams,
    caller: str,
    mine: set[uuid.UUID],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    while True:
        service, size = messages.header(await reader.readexactly(messages.HEADER.size))
        body = await reader.readexactly(size)
        answer: bytes | bytearray
        if service is Service.OPEN_CONNECT:
            answer, ksid = streams.open(caller, messages.parse_open(body))
            mine |= {ksid} if ksid is not None else set()
        elif service is Service.GET_KEY:
            answer = streams.get(caller, messages.parse_get(body))
        else:
            ksid = messages.parse_close(body)
            answer = messages.status(
                Status.SUCCESSFUL if streams.leave(caller, ksid) else Status.PEER_NOT_YET_CONNECTED
            )
            mine.discard(ksid)
        writer.write(messages.answer(service, bytes(answer)))
        if isinstance(answer, bytearray):
            answer[:] = bytes(len(answer))
        await writer.drain()
