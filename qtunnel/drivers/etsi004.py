"""Driver ``etsi004``: a KME that speaks ETSI GS QKD 004 v2.1.1 (OPEN_CONNECT, GET_KEY, CLOSE) over TCP or TLS.

Each end takes keys from a stream of its own, and the other end fetches them by stream and index, which the key_ID names
(``etsi004_answers.Place``). So both may ask at the same time, and no index is used twice. A key takes whole chunks from
one index on; what is left of its last chunk is thrown away.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.drivers.etsi004_answers import parse_key_id
from qtunnel.drivers.etsi004_index import IndexFile
from qtunnel.drivers.etsi004_options import Options, PeerOptions
from qtunnel.drivers.etsi004_qubip import QubipFraming
from qtunnel.drivers.etsi004_roles import Fetcher, Taker
from qtunnel.drivers.etsi004_stream import Stream
from qtunnel.drivers.etsi004_terms import Call, Framing
from qtunnel.drivers.etsi004_wire import Dialer
from qtunnel.drivers.registry import Driver
from qtunnel.errors import KeyNotFoundError, KeyRequestRejectedError, KeySourceUnreachableError
from qtunnel.keys.quality import SeenKeys
from qtunnel.keys.source import KeyRef, SourceStatus
from qtunnel.secret import Secret

FRAMINGS: dict[str, type[Framing]] = {"qubip": QubipFraming}
"""By the option ``framing``."""


class Hub:
    """One KME, shared by all peers whose keys come from it."""

    def __init__(self, name: str, options: Options) -> None:
        self.name, self.options = name, options
        self.dialer = Dialer(name, options)
        self.framing = FRAMINGS[options.framing]()
        self.seen = SeenKeys(Secret(os.urandom(32)))
        self.closed = False
        self._sources: list[Source] = []

    def for_peer(self, options: PeerOptions) -> Source:
        for source in self._sources:
            if source.options == options:
                return source  # two with the same streams would get in each other's way
        for source in self._sources:
            if source.options.ends == options.ends:
                source.disconnect()  # that of the same peer before a reload; an agreed stream is needed again
        self._sources.append(Source(self, options))
        return self._sources[-1]

    async def close(self) -> None:
        self.closed = True
        await asyncio.gather(*(source.close() for source in self._sources))
        self._sources.clear()


class Source:
    """The keys that one KME shares with one peer. A ``qtunnel.keys.source.KeySource``."""

    def __init__(self, hub: Hub, options: PeerOptions) -> None:
        self._hub, self.options = hub, options
        self._place = hub.dialer.place
        agreed, file = options.key_stream_id, options.index_file
        index_file = IndexFile(file, agreed) if file is not None and agreed is not None else None
        ours = options.ends
        theirs = ours if options.own_uri_first else (options.destination, options.source)
        self._taker = Taker(self._place, lambda ksid, chunk: self._stream(ours, ksid, chunk), agreed, index_file)
        self._fetcher = Fetcher(self._place, lambda ksid, chunk: self._stream(theirs, ksid, chunk))

    @property
    def name(self) -> str:
        return self._hub.name

    @property
    def description(self) -> str:
        return f"etsi004:{self._hub.name}"

    async def status(self) -> SourceStatus:
        """Opens our stream, and the peer's where it is agreed: the standard has no call that only asks."""
        self._check_open(Call.OPEN_CONNECT)
        async with self._taker.turn(Call.OPEN_CONNECT):
            stream = await self._taker.ready()
        chunk = stream.qos.key_chunk_size
        if self.options.peer_key_stream_id is not None:
            async with self._fetcher.turn(Call.OPEN_CONNECT):
                await self._fetcher.ready(self.options.peer_key_stream_id, chunk)
        told = [f"stream {stream.ksid} is open, chunks of {chunk} bytes"]
        told += [] if stream.peer_connected else ["the peer has not connected to it"]
        told += [line for line in (stream.told, self._taker.trouble) if line]
        return SourceStatus(healthy=self._taker.trouble is None, detail="; ".join(told), key_size=chunk)

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        """GET_KEY for the next chunks of our own stream."""
        self._check_open(Call.GET_KEY)
        if size < 1:
            raise KeyRequestRejectedError(self._place, Call.GET_KEY.value, f"a key of {size} bytes was asked for")
        async with self._taker.turn(Call.GET_KEY):
            place, key = await self._taker.take(size)
        return KeyRef(self.name, str(place), size), key

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        """GET_KEY for the chunks that the reference names, of the peer's stream."""
        self._check_open(Call.GET_KEY)
        call, place = Call.GET_KEY.value, parse_key_id(ref.key_id)
        if place is None or not place.fits(ref.size):
            problem = "the key_ID is not KSID:index:chunk size; does the peer have driver etsi004 for this source?"
            raise KeyNotFoundError(self._place, call, problem)
        if self._taker.owns(place.ksid):
            raise KeyNotFoundError(self._place, call, f"stream {place.ksid} is the one that we take keys from")
        if self.options.peer_key_stream_id not in (None, place.ksid):
            problem = f"stream {place.ksid} is not peer_key_stream_id, {self.options.peer_key_stream_id}"
            raise KeyNotFoundError(self._place, call, problem)
        async with self._fetcher.turn(Call.GET_KEY):
            return await self._fetcher.fetch(place, ref.size)

    async def close(self) -> None:
        """CLOSE the streams that end with us; the agreed ones stay as they are."""
        end = self.options.key_stream_id is None
        await asyncio.gather(self._taker.close(end=end), self._fetcher.close(end=end))

    def disconnect(self) -> None:
        """Leave all streams as they are at the KME; they are opened again when they are needed."""
        self._taker.disconnect()
        self._fetcher.disconnect()

    def _check_open(self, call: Call) -> None:
        if self._hub.closed:
            raise KeySourceUnreachableError(self._place, call.value, "the source is closed")

    def _stream(self, uris: tuple[str, str], ksid: UUID, chunk: int | None) -> Stream:
        hub, asked = self._hub, self._hub.options.asked
        return Stream(
            hub.dialer,
            hub.framing,
            hub.seen,
            uris,
            ksid,
            asked if chunk is None else replace(asked, key_chunk_size=chunk),
            timeout=hub.options.timeout,
            metadata_size=hub.options.metadata_size,
        )


def _open(name: str, options: Options) -> Hub:
    return Hub(name, options)


def _doubts(options: Options) -> Iterator[str]:
    wasted = -QKD_KEY_SIZE % options.chunk_size
    if wasted:
        taken = QKD_KEY_SIZE + wasted
        yield (
            f"a key of {QKD_KEY_SIZE} bytes takes {taken} of the stream with chunk_size {options.chunk_size}, and the "
            f"rest is thrown away; {QKD_KEY_SIZE} wastes nothing"
        )


DRIVER = Driver("etsi004", Options, PeerOptions, _open, _doubts, warns=False)
