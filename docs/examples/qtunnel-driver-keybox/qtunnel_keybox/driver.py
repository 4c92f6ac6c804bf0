"""Driver ``keybox``: the agent of a Keybox, which listens at a Unix socket of this machine.

A connection carries one request and one answer, each a line::

    status PEER                 ok STORED QBER_IN_PERCENT [ALARM]
    fresh PEER BITS NUMBER      key ID HEX [ID HEX ...]
    fetch PEER BITS ID [ID ...] key ID HEX [ID HEX ...]
                                no (empty|unknown|denied|malformed) WORDS
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from qtunnel.drivers.answers import clean
from qtunnel.drivers.registry import Driver
from qtunnel.errors import (
    KeyRequestRejectedError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef, SourceStatus
from qtunnel.secret import Secret
from qtunnel_keybox import answers
from qtunnel_keybox.options import Options, PeerOptions, doubts

MOST_AT_ONCE = 16
"""Keys in one answer; the agent gives no more."""
CONNECT_SHARE = 0.5
"""Of ``timeout``, until the request is on its way: what fails before that costs no key, what fails later may."""
MAX_WORDS = 256
"""Bytes of an answer besides its keys."""
_CREDENTIALS = struct.Struct("3i")  # ucred of unix(7): pid, uid, gid


class Hub:
    """One agent, for all peers whose keys come from it."""

    def __init__(self, name: str, options: Options) -> None:
        self.name, self.options = name, options
        self.place = f"{name} ({options.socket})"
        self.trusted = {0, os.geteuid()}
        self._open: set[socket.socket] = set()
        self._closed = False

    def for_peer(self, options: PeerOptions) -> Source:
        return Source(self, options.peer)

    async def close(self) -> None:
        """End what is under way, and refuse what comes later."""
        self._closed = True
        for connection in self._open:
            with contextlib.suppress(OSError):  # not connected yet
                connection.shutdown(socket.SHUT_RDWR)

    async def ask(self, call: str, request: str, keys: int, most: int) -> tuple[bytearray, int]:
        """One request, sent once. The answer in a buffer that the caller wipes, and its length without the line's end.

        keys: how many it may consume; most: bytes of an answer that makes sense.
        """
        loop, timeout = asyncio.get_running_loop(), self.options.timeout
        buffer, sent = bytearray(most), False
        try:
            async with asyncio.timeout(timeout):
                with self._connection(call) as connection:
                    async with asyncio.timeout(timeout * CONNECT_SHARE):
                        await loop.sock_connect(connection, str(self.options.socket))
                    self._see_who_answers(connection, call)
                    sent = True  # from here on the agent may have read it, whatever we get to see
                    await loop.sock_sendall(connection, f"{request}\n".encode("ascii"))
                    return buffer, await self._read(connection, call, buffer, keys)
        except BaseException as error:  # also where the daemon cancels the call: it books what that may have cost
            buffer[:] = bytes(most)
            lost, what = (keys, "the connection ended") if sent else (0, "cannot be reached")
            if isinstance(error, TimeoutError):  # first, for it is an OSError
                what = f"no answer within {timeout:g} s" if sent else "cannot be reached: it accepts nobody"
                raise KeySourceTimeoutError(self.place, call, what, lost=lost) from None
            if isinstance(error, OSError):
                what = f"{what}: {(error.strerror or 'no reason given').lower()}"
                raise KeySourceUnreachableError(self.place, call, what, lost=lost) from None
            raise

    @contextlib.contextmanager
    def _connection(self, call: str) -> Iterator[socket.socket]:
        if self._closed:
            raise KeySourceUnavailableError(self.place, call, "the source is closed")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            self._open.add(connection)
            try:
                yield connection
            finally:
                self._open.discard(connection)

    def _see_who_answers(self, connection: socket.socket, call: str) -> None:
        """Before anything is asked: whoever may write to the socket's directory can listen in the agent's place."""
        connection.getpeername()  # an OSError where the agent's queue is full: asyncio takes that for connected
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(told)
        if uid not in self.trusted:
            what = f"user {uid} listens there; let the agent run as root or as the user of qtunnel"
            raise KeySourceUnauthorizedError(self.place, call, what)

    async def _read(self, connection: socket.socket, call: str, buffer: bytearray, keys: int) -> int:
        loop, length = asyncio.get_running_loop(), 0
        with memoryview(buffer) as view:
            while True:
                count = await loop.sock_recv_into(connection, view[length:])
                if not count:
                    raise ConnectionResetError(0, "in the middle of the answer")
                end = buffer.find(b"\n", length, length + count)
                if end >= 0:
                    return end
                length += count
                if length == len(buffer):
                    what = f"an answer of more than {length} bytes"
                    raise KeySourceProtocolError(self.place, call, what, lost=keys)


class Source:
    """The keys shared with one peer's Keybox. A ``qtunnel.keys.source.BatchKeySource``."""

    def __init__(self, hub: Hub, peer: str) -> None:
        self._hub, self._peer = hub, peer

    @property
    def name(self) -> str:
        return self._hub.name

    @property
    def description(self) -> str:
        return f"keybox:{self._hub.name}"

    async def status(self) -> SourceStatus:
        buffer, length = await self._hub.ask("status", f"status {self._peer}", 0, MAX_WORDS)
        with memoryview(buffer) as view:
            return answers.status_of(self._hub.place, view[:length])

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        return (await self.get_keys(size, 1))[0]

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        return (await self.get_keys_by_ids([ref]))[0]

    async def get_keys(self, size: int, number: int) -> list[tuple[KeyRef, Secret]]:
        number = min(number, MOST_AT_ONCE)
        found = await self._keys("fresh", f"fresh {self._peer} {8 * size} {number}", size, number)
        return [(KeyRef(self.name, key_id, size), key) for key_id, key in found]

    async def get_keys_by_ids(self, refs: Sequence[KeyRef]) -> list[Secret]:
        size = refs[0].size
        alike = next((number for number, ref in enumerate(refs) if ref.size != size), len(refs))
        asked = [ref.key_id for ref in refs[: min(alike, MOST_AT_ONCE)]]
        for key_id in asked:  # they come from the other end: a blank or a line's end in one would be another request
            if not answers.KEY_ID.fullmatch(key_id):
                what = f"not asked: {clean(key_id)!r} is no key_ID of a Keybox; has the peer another driver?"
                raise KeyRequestRejectedError(self._hub.place, "fetch", what)
        found = await self._keys("fetch", f"fetch {self._peer} {8 * size} {' '.join(asked)}", size, len(asked))
        answers.check_names(self._hub.place, "fetch", found, asked)
        return [key for _, key in found]

    async def _keys(self, call: str, request: str, size: int, number: int) -> list[tuple[str, Secret]]:
        most = MAX_WORDS + number * (2 * size + 80)
        buffer, length = await self._hub.ask(call, request, number, most)
        try:
            with memoryview(buffer) as view:
                return answers.keys_of(self._hub.place, call, view[:length], size, number)
        finally:
            buffer[:] = bytes(len(buffer))


DRIVER = Driver("keybox", Options, PeerOptions, Hub, doubts)
