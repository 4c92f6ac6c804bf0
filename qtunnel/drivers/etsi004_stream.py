"""One key stream (clause 6: Key_stream_ID) at one KME: opened when it is needed, kept open, opened again after a loss.

A stream has a connection of its own, so that a call for which the KME takes its time holds up no other stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from qtunnel.drivers import etsi004_answers as answers
from qtunnel.drivers.etsi004_terms import NULL_KSID, Call, Framing, Got, Opened, Qos, Status
from qtunnel.drivers.etsi004_wire import Dialer, Line, wipe
from qtunnel.errors import KeySourceProtocolError, KeySourceUnreachableError
from qtunnel.keys import quality
from qtunnel.secret import Secret

CLOSE_LIMIT = 1.0
"""Seconds for CLOSE: a KME that does not answer must not hold up our end."""

IN_USE_PAUSES = (0.1, 0.3, 0.6)
"""Seconds to wait before asking again for a stream that is in use: the KME may not have noticed yet that an earlier
connection of ours is gone. A second in all notices every one that ended in order."""

MOST_METADATA = 65_536
"""Bytes of metadata that are fetched where a KME says that it has more than was asked for."""

Answer = TypeVar("Answer")


class RefusedError(Exception):
    """GET_KEY gave nothing out; with the status that says so. The roles make a ``KeySourceError`` of it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Stream:
    """A stream; ``ksid`` is ``NULL_KSID`` until the KME has made one. Calls are for one task at a time.

    uris: source and destination, as this end gives them. timeout: seconds, for a connection and for each call.
    """

    def __init__(
        self,
        dialer: Dialer,
        framing: Framing,
        seen: quality.SeenKeys,
        uris: tuple[str, str],
        ksid: UUID,
        qos: Qos,
        *,
        timeout: float,
        metadata_size: int,
    ) -> None:
        self._dialer, self._framing, self._seen = dialer, framing, seen
        self._uris, self._asked, self._timeout = uris, qos, timeout
        self._metadata_size = metadata_size
        self._line: Line | None = None
        self._opened = False
        self.ksid = ksid
        self.qos = qos
        self.peer_connected = False
        self.told: str | None = None

    @property
    def open(self) -> bool:
        return self._line is not None and self._line.alive

    async def ensure(self) -> bool:
        """Open it where it is not; whether that was necessary. Raises a ``KeySourceError`` and consumes nothing."""
        if self.open:
            return False
        self._line = None
        await self._open_on(await self._dialer.connect(Call.OPEN_CONNECT.value))
        return True

    async def again(self) -> None:
        """Open it again on its connection, for a KME that does not know it any more. Consumes nothing."""
        line, self._line = self._line, None
        if line is not None and line.alive:
            await self._open_on(line)
        else:
            await self.ensure()

    async def _open_on(self, line: Line) -> None:
        try:
            await self._open(line)
        except BaseException:
            line.abort()
            raise
        self._line = line

    async def _open(self, line: Line) -> None:
        wanted = self._asked
        opened = await self._ask_open(line, wanted)
        for pause in IN_USE_PAUSES:
            if opened.status != Status.KSID_IN_USE or self.ksid == NULL_KSID:
                break
            await asyncio.sleep(pause)
            opened = await self._ask_open(line, wanted)
        if opened.status == Status.QOS_NOT_MET and opened.qos is not None and opened.ksid == NULL_KSID:
            # The counter-proposal alone; others open the stream with it at once.
            self._demand(opened.qos)
            wanted = replace(opened.qos, timeout=min(opened.qos.timeout, wanted.timeout))
            opened = await self._ask_open(line, wanted)
        place, call = self._dialer.place, Call.OPEN_CONNECT
        if opened.qos is None or opened.ksid is None:
            remedy = "see qos" if opened.status == Status.QOS_NOT_MET else ""
            raise answers.refusal(place, call, opened.status, remedy=remedy)
        if opened.ksid == NULL_KSID:
            raise answers.refusal(place, call, Status.QOS_NOT_MET, remedy="and its counter-proposal neither; see qos")
        if self.ksid not in (NULL_KSID, opened.ksid):
            raise KeySourceProtocolError(
                place, call.value, f"answered stream {opened.ksid}, where {self.ksid} was asked"
            )
        if opened.status != Status.QOS_NOT_MET and opened.qos.key_chunk_size != wanted.key_chunk_size:
            offered = f"chunks of {opened.qos.key_chunk_size} bytes, where {wanted.key_chunk_size} were asked"
            raise KeySourceProtocolError(place, call.value, f"status {opened.status}, but {offered}")
        self._demand(opened.qos)
        size = opened.qos.key_chunk_size
        if self._opened and size != self.qos.key_chunk_size:
            # An index would mean other bytes than before, of which some were used.
            offered = f"it offers chunks of {size} bytes, where this stream had {self.qos.key_chunk_size}"
            raise answers.refusal(place, call, Status.KSID_IN_USE, remedy=offered)
        self._opened, self.ksid, self.qos = True, opened.ksid, opened.qos
        self._asked = replace(self._asked, key_chunk_size=size)
        self.peer_connected = opened.status != Status.PEER_NOT_CONNECTED

    def _demand(self, offered: Qos) -> None:
        problem = answers.objection(self._asked, offered)
        if problem is not None:
            raise answers.refusal(
                self._dialer.place, Call.OPEN_CONNECT, Status.QOS_NOT_MET, remedy=f"it offers {problem}"
            )

    async def _ask_open(self, line: Line, qos: Qos) -> Opened:
        call, request = Call.OPEN_CONNECT, self._framing.open_connect(*self._uris, qos, self.ksid)
        try:
            return await self._exchange(line, call, request, 0, self._framing.opened)
        except (OSError, ValueError) as error:
            failure = self._dialer.failure(call.value, error)
        if isinstance(failure, KeySourceUnreachableError):
            failure = await self._dialer.refusal_behind(call.value) or failure
        raise failure from None

    async def chunk(self, index: int) -> Secret:
        """The chunk at an index of the open stream, of ``qos.key_chunk_size`` bytes. Consumes.

        Raises ``RefusedError`` where the KME says that it gave nothing out, and a ``KeySourceError`` with ``lost=1``
        where a chunk may be gone.
        """
        got = await self._get(index, self._metadata_size)
        if got.status == Status.METADATA_TOO_SMALL and self._metadata_size < (got.needed or 0) <= MOST_METADATA:
            # Nothing was given out, and the KME says what to ask for.
            self._metadata_size = got.needed or 0
            got = await self._get(index, self._metadata_size)
        if got.key is None:
            if got.status in answers.CERTAIN:
                raise RefusedError(got.status)
            raise answers.refusal(self._dialer.place, Call.GET_KEY, got.status, lost=1)
        problem = self._defect(index, got, got.key)
        if problem is not None:
            got.key.wipe()
            raise KeySourceProtocolError(self._dialer.place, Call.GET_KEY.value, f"status 0, but {problem}", lost=1)
        self.told = answers.told(got.metadata) or self.told
        self.peer_connected = True
        return got.key

    def _defect(self, index: int, got: Got, key: Secret) -> str | None:
        size = self.qos.key_chunk_size
        if got.index != index:
            return f"it answered index {got.index}, where {index} was asked"
        if len(key) != size:
            return f"the chunk has {len(key)} bytes, where {size} were agreed"
        if len(got.metadata) > self._metadata_size:
            return f"{len(got.metadata)} bytes of metadata, where {self._metadata_size} were allowed"
        wrong = quality.defect(key)
        if wrong is not None:
            return f"the chunk cannot be of a QKD system: {wrong}"
        before = self._seen.taken_for(f"{self.ksid}:{index}", key)
        return None if before is None else f"the chunk at index {index} is the one of {before}"

    async def _get(self, index: int, metadata_size: int) -> Got:
        call, line = Call.GET_KEY, self._line
        if line is None or not line.alive:
            # Found before anything was sent, so nothing is gone.
            raise KeySourceUnreachableError(self._dialer.place, call.value, "the connection was lost")
        room = self.qos.key_chunk_size + metadata_size
        request = self._framing.get_key(self.ksid, index, metadata_size)
        try:
            return await self._exchange(line, call, request, room, self._framing.got)
        except (OSError, ValueError) as error:
            raise self._dialer.failure(call.value, error, lost=1) from None

    async def _exchange(
        self, line: Line, call: Call, request: bytes, room: int, parse: Callable[[bytearray], Answer]
    ) -> Answer:
        async with asyncio.timeout(self._timeout):
            body = await line.exchange(
                request, self._framing.header_size, lambda header: self._framing.length(header, call, room)
            )
        try:
            return parse(body)
        except ValueError:
            line.abort()
            raise
        finally:
            wipe(body)

    async def end(self) -> None:
        """CLOSE, which gives the stream up for both ends, and disconnect; a call under way is cut off. Never fails."""
        line, self._line = self._line, None
        if line is None:
            return
        if not line.busy:
            with contextlib.suppress(OSError, ValueError):
                async with asyncio.timeout(CLOSE_LIMIT):
                    await self._exchange(line, Call.CLOSE, self._framing.close(self.ksid), 0, self._framing.closed)
        line.abort()

    def disconnect(self) -> None:
        """Leave the stream as it is at the KME."""
        if self._line is not None:
            self._line.abort()
            self._line = None
