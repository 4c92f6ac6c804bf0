"""The two ends of key streams: the taker of our own stream, and the fetcher of what the peer took from its own.

Both mark an index as used before they ask for it, so that whatever happens meanwhile, it is not used a second time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from uuid import UUID

from qtunnel.drivers import etsi004_answers as answers
from qtunnel.drivers.etsi004_answers import Place
from qtunnel.drivers.etsi004_index import IndexesError, IndexFile, IndexMemory
from qtunnel.drivers.etsi004_stream import RefusedError, Stream
from qtunnel.drivers.etsi004_terms import MAX_INDEX, NULL_KSID, Call, Status
from qtunnel.errors import (
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
)
from qtunnel.secret import Secret

CALL_LIMIT = 20.0
"""Seconds for all of one request, with the wait for its turn: within the 25 s that the daemon gives a source."""

STREAMS_OF_PEER = 4
"""Streams of the peer that are kept open: it makes a new one when it starts, and may have keys of the last in hand."""

NOT_CONNECTED = (
    "with some KMEs both ends must have opened a stream first; agree on key_stream_id and peer_key_stream_id"
)
"""The remedy where a KME gives nothing out before the peer has opened the stream: it hears of it by the first key."""

NewStream = Callable[[UUID, int | None], Stream]
"""A stream of that ID, with chunks of so many bytes; ``None`` are those of the configuration."""


class Role:
    """One request at a time. at_risk: keys that are gone if the request under way is cut off now."""

    def __init__(self, place: str, new_stream: NewStream) -> None:
        self._place, self._new_stream = place, new_stream
        self._lock = asyncio.Lock()
        self._at_risk = 0

    @asynccontextmanager
    async def turn(self, call: Call) -> AsyncIterator[None]:
        """All of one request, within ``CALL_LIMIT``; raises ``KeySourceTimeoutError``."""
        ours = False
        try:
            async with asyncio.timeout(CALL_LIMIT) as limit, self._lock:
                ours, self._at_risk = True, 0
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            lost = self._at_risk if ours else 0
            detail = f"not done within {CALL_LIMIT:g} s" if ours else f"not asked: others took {CALL_LIMIT:g} s"
            raise KeySourceTimeoutError(self._place, call.value, detail, lost=lost) from None


class Taker(Role):
    """Takes keys from our own stream: the agreed one, or one of the KME's making, which is replaced when it is gone."""

    def __init__(self, place: str, new_stream: NewStream, agreed: UUID | None, file: IndexFile | None) -> None:
        super().__init__(place, new_stream)
        self._agreed, self._file = agreed, file
        self._stream: Stream | None = None
        self._memories: dict[UUID, IndexMemory] = {}
        self._next = self._end = 0
        self._held: list[Secret] = []
        self._delivered = False
        self.trouble: str | None = None

    def owns(self, ksid: UUID) -> bool:
        """Whether that stream is, or was, ours."""
        return ksid == self._agreed or ksid in self._memories

    async def ready(self) -> Stream:
        """Our stream, open. Consumes nothing."""
        stream = self._stream
        if stream is None:
            stream = self._adopt(self._new_stream(self._agreed or NULL_KSID, None))
        known = stream.ksid
        try:
            await stream.ensure()
        except KeySourceUnavailableError:
            if self._agreed is not None or known == NULL_KSID:
                raise
            return await self._renew()  # the KME does not let us have the old one again
        self._note(stream)
        return stream

    async def take(self, size: int) -> tuple[Place, Secret]:
        """The next key of ``size`` bytes, and where it begins."""
        stream = await self.ready()
        try:
            return await self._take(stream, size)
        except RefusedError as refused:
            renew = refused.status == Status.PEER_NOT_YET_CONNECTED and self._delivered and self._agreed is None
            if not renew:
                raise self._refusal(refused.status) from None
        # It delivered before, and now nobody knows it: the peer or the KME has started anew.
        stream = await self._renew()
        try:
            return await self._take(stream, size)
        except RefusedError as refused:
            raise self._refusal(refused.status) from None

    async def _take(self, stream: Stream, size: int) -> tuple[Place, Secret]:
        chunk = stream.qos.key_chunk_size
        count = Place(stream.ksid, 0, chunk).chunks(size)
        await self._reserve(stream, count)
        if self._end - 1 > MAX_INDEX:
            if self._agreed is not None:
                problem = f"all indexes of stream {stream.ksid} are used; agree on another one"
                raise KeyRequestRejectedError(self._place, Call.GET_KEY.value, problem)
            return await self._take(await self._renew(), size)
        while len(self._held) < count:
            await self._take_chunk(stream)
        place = Place(stream.ksid, self._next - len(self._held), chunk)
        parts, self._held = self._held[:count], self._held[count:]
        self._delivered, self.trouble = True, None
        return place, joined(parts, size)

    async def _take_chunk(self, stream: Stream) -> None:
        index = self._next
        self._next, self._at_risk = index + 1, 1
        try:
            self._held.append(await stream.chunk(index))
        except BaseException as error:
            if isinstance(error, RefusedError) or (isinstance(error, KeySourceError) and not error.lost):
                # It was not given out. The chunks before it stay in hand, and begin the next key.
                self._next, self._at_risk = index, 0
            else:
                wipe_all(self._held)
                self._held = []
            raise

    async def _reserve(self, stream: Stream, count: int) -> None:
        """Have indexes for a key of ``count`` chunks, in a row with those of the chunks in hand."""
        missing = count - len(self._held) - (self._end - self._next)
        if missing <= 0:
            return
        indexes, chunk = self._file or self._memories[stream.ksid], stream.qos.key_chunk_size
        try:
            first = await indexes.take(missing, chunk)
            if first != self._end:
                # The first time, or another process with the same file was faster.
                wipe_all(self._held)
                self._held = []
                if missing < count:
                    first, missing = await indexes.take(count, chunk), count
                self._next = self._end = first
        except IndexesError as error:
            raise KeySourceUnavailableError(self._place, Call.GET_KEY.value, str(error)) from None
        self._end += missing

    def _refusal(self, status: int) -> KeySourceError:
        remedy = NOT_CONNECTED if status == Status.PEER_NOT_YET_CONNECTED and self._agreed is None else ""
        error = answers.refusal(self._place, Call.GET_KEY, status, remedy=remedy)
        self.trouble = f"GET_KEY: {error.detail}"
        return error

    async def _renew(self) -> Stream:
        """A new stream of the KME's making in place of the old one."""
        if self._stream is not None:
            await self._stream.end()
        stream = self._adopt(self._new_stream(NULL_KSID, None))
        await stream.ensure()
        self._note(stream)
        return stream

    def _adopt(self, stream: Stream) -> Stream:
        wipe_all(self._held)
        self._held, self._next, self._end, self._delivered = [], 0, 0, False
        self._stream = stream
        return stream

    def _note(self, stream: Stream) -> None:
        # A KME that gives an old ID as a new one must not make us begin at index 0 again.
        self._memories.setdefault(stream.ksid, IndexMemory(stream.ksid))

    async def close(self, *, end: bool) -> None:
        """Leave the stream; ``end``: for good."""
        wipe_all(self._held)
        self._held = []
        if self._stream is not None and end:
            await self._stream.end()
        self.disconnect()

    def disconnect(self) -> None:
        """Leave the stream as it is; it is opened again when it is needed."""
        if self._stream is not None:
            self._stream.disconnect()


class Fetcher(Role):
    """Fetches the keys that the peer took from its streams."""

    def __init__(self, place: str, new_stream: NewStream) -> None:
        super().__init__(place, new_stream)
        self._streams: OrderedDict[UUID, Stream] = OrderedDict()

    async def ready(self, ksid: UUID, chunk: int) -> tuple[Stream, bool]:
        """The peer's stream, open, and whether it had to be opened. Consumes nothing."""
        stream = self._streams.pop(ksid, None)
        if stream is not None and stream.qos.key_chunk_size != chunk:
            stream.disconnect()
            stream = None
        stream = stream or self._new_stream(ksid, chunk)
        fresh = await stream.ensure()
        if stream.qos.key_chunk_size != chunk:
            await stream.end()
            problem = (
                f"our KME offers chunks of {stream.qos.key_chunk_size} bytes for stream {ksid}, the peer's has {chunk}"
            )
            raise KeyRequestRejectedError(self._place, Call.OPEN_CONNECT.value, problem)
        self._streams[ksid] = stream
        while len(self._streams) > STREAMS_OF_PEER:
            await self._streams.popitem(last=False)[1].end()
        return stream, fresh

    async def fetch(self, place: Place, size: int) -> Secret:
        """The key of ``size`` bytes that begins there."""
        stream, fresh = await self.ready(place.ksid, place.chunk)
        parts: list[Secret] = []
        try:
            for index in range(place.index, place.index + place.chunks(size)):
                parts.append(await self._chunk(stream, index, known=not fresh and not parts))
            return joined(parts, size)
        except RefusedError as refused:
            raise answers.refusal(self._place, Call.GET_KEY, refused.status, lost=1 if parts else 0) from None
        except KeySourceError as error:
            error.lost = max(error.lost, 1 if parts else 0)
            raise
        finally:
            wipe_all(parts)

    async def _chunk(self, stream: Stream, index: int, *, known: bool) -> Secret:
        """known: the stream was open before; a KME that started anew does not know it, until it is opened again."""
        self._at_risk = 1
        try:
            return await stream.chunk(index)
        except RefusedError as refused:
            if not known or refused.status != Status.PEER_NOT_YET_CONNECTED:
                raise
        await stream.again()
        return await stream.chunk(index)

    async def close(self, *, end: bool) -> None:
        """Leave all streams; ``end``: for good."""
        if end:
            await asyncio.gather(*(stream.end() for stream in self._streams.values()))
        self.disconnect()
        self._streams.clear()

    def disconnect(self) -> None:
        """Leave the streams as they are; they are opened again when they are needed."""
        for stream in self._streams.values():
            stream.disconnect()


def joined(parts: Iterable[Secret], size: int) -> Secret:
    """The first ``size`` bytes of all parts, which are wiped."""
    parts = list(parts)
    whole = bytearray(sum(len(part) for part in parts))
    view, at = memoryview(whole), 0
    for part in parts:
        view[at : at + len(part)] = part.reveal()
        at += len(part)
    wipe_all(parts)
    key = Secret(view[:size])
    view.release()
    whole[:] = bytes(len(whole))
    return key


def wipe_all(parts: Iterable[Secret]) -> None:
    for part in parts:
        part.wipe()
