"""The daemon's end of the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qtunnel import __version__
from qtunnel.control.messages import (
    MAX_REQUEST,
    MAX_RESPONSE,
    VERSION,
    ErrorCode,
    Message,
    Pong,
    RekeyOutcome,
    ReloadOutcome,
    Request,
    SourceCleared,
    Status,
)
from qtunnel.control.socket_file import peer_credentials, take_socket
from qtunnel.errors import ConfigError, QtunnelError, UnknownPeerError, UnknownSourceError, printable
from qtunnel.events import Event, EventStream
from qtunnel.telemetry import log

MAX_CONNECTIONS = 64
"""At once. Enough for every screen that watches one gateway; a leaking script must not eat the daemon's descriptors."""

IDLE = 60.0
"""Seconds that a connection may stay without a request."""

WRITE_BOUND = 10.0
"""Seconds that a client may take to read an answer."""

MAX_PLACE = 80
"""Characters of a field's name that a refusal repeats."""

ASKED = {"rekey", "reload", "clear-source"}
"""Requests that change something: an event tells who asked."""

logger = log.get("control")


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the daemon answers with.

    status: of one peer or all; raises ``UnknownPeerError``. rekey: rekeys now and returns the outcome, a failed one
    too; it may be cancelled when its time is over, which must only end the waiting. events: what ``events`` follows.
    reload: reads the file ``config`` again; raises ``ConfigError`` for one that is not applied. clear_source: ends a
    key source's quarantine, towards one peer or all; raises ``UnknownSourceError``, ``UnknownPeerError`` or
    ``ControlError``.
    """

    status: Callable[[str | None], Awaitable[Status]]
    rekey: Callable[[str], Awaitable[RekeyOutcome]]
    events: EventStream
    reload: Callable[[], Awaitable[ReloadOutcome]]
    config: Path
    clear_source: Callable[[str, str | None], Awaitable[None]]


class _RefusedError(Exception):
    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class ControlServer:
    """Serves the socket at ``path`` to root and to the daemon's own user."""

    def __init__(self, path: Path, handlers: Handlers) -> None:
        self.path = path
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._made: tuple[int, int] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take the socket. Raises ``AlreadyRunningError`` where a daemon answers on it, ``ControlError`` where the
        path cannot be used."""
        listener = take_socket(self.path, "qtunnel daemon")
        found = os.stat(self.path)
        self._made = (found.st_dev, found.st_ino)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_REQUEST)

    async def stop(self) -> None:
        """Close the socket and every connection, and remove the file. Idempotent."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        with contextlib.suppress(OSError):
            found = os.stat(self.path, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == self._made:  # never another daemon's
                self.path.unlink()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError):
            writer.transport.abort()  # the client is gone, says nothing or reads nothing
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                writer.write(_refusal("stopping", "the daemon is stopping"))
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid, uid = peer_credentials(writer.get_extra_info("socket"))
        if uid not in (0, os.geteuid()):
            logger.warning("control.refused", uid=uid, pid=pid)
            await _write(writer, _refusal("forbidden", f"user {uid} may not control this daemon; run as root"))
            return
        if len(self._connections) > MAX_CONNECTIONS:
            await _write(writer, _refusal("busy", f"{MAX_CONNECTIONS} control connections are open; close some"))
            return
        while True:
            try:
                async with asyncio.timeout(IDLE):
                    line = await reader.readline()
            except ValueError:
                message = f"a request is one line of at most {MAX_REQUEST} bytes"
                await _write(writer, _refusal("bad-request", message))
                return
            if not line:
                return
            try:
                request = _parse(line)
                if request.request == "events":
                    await self._follow(request, reader, writer)
                    return
                if request.request in ASKED:
                    self._tell(request, uid, pid)
                answer = _encode({"ok": True, "result": (await self._handle(request)).model_dump(mode="json")})
                if len(answer) > MAX_RESPONSE:
                    raise _RefusedError("failed", "the answer is too large; ask for one peer")
            except _RefusedError as refused:
                answer = _refusal(refused.code, str(refused))
            await _write(writer, answer)

    def _tell(self, request: Request, uid: int, pid: int) -> None:
        """Who wants what changed; whether it was done, other events say."""
        fields = {} if request.source is None else {"source": request.source}
        self._handlers.events.publish(
            "control.asked", request.peer, request=request.request, uid=uid, pid=pid, **fields
        )

    async def _handle(self, request: Request) -> Message:
        try:
            match request.request:
                case "status":
                    return await self._handlers.status(request.peer)
                case "rekey":
                    return await self._rekey(request)
                case "reload":
                    return await self._handlers.reload()
                case "clear-source":
                    if request.source is None:
                        raise _RefusedError("bad-request", "clear-source needs a source")
                    await self._handlers.clear_source(request.source, request.peer)
                    return SourceCleared(source=request.source, peer=request.peer)
                case "ping":
                    return Pong(pid=os.getpid(), qtunnel=__version__, config=str(self._handlers.config))
                case "events":
                    raise AssertionError("followed, not answered once")
        except UnknownPeerError as error:
            raise _RefusedError("unknown-peer", str(error)) from None
        except UnknownSourceError as error:
            raise _RefusedError("unknown-source", str(error)) from None
        except ConfigError as error:
            raise _RefusedError("config", str(error)) from None
        except QtunnelError as error:
            raise _RefusedError("failed", str(error)) from None
        except _RefusedError:
            raise
        except Exception as error:
            logger.defect("control.failed", error, request=request.request)
            raise _RefusedError("internal", "an internal error; the daemon's log has the details") from None

    async def _rekey(self, request: Request) -> RekeyOutcome:
        if request.peer is None:
            raise _RefusedError("bad-request", "rekey needs a peer")
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._handlers.rekey(request.peer)
        except TimeoutError:
            raise _RefusedError(
                "timeout", f"no outcome within {request.timeout_s:g} s; the daemon goes on trying, see qtunnel status"
            ) from None

    async def _follow(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send events until the client hangs up or the daemon stops."""
        with self._handlers.events.subscribe() as subscription:
            hung_up = asyncio.create_task(reader.read(1))
            hung_up.add_done_callback(lambda _: subscription.close())
            try:
                if request.history:
                    for event in self._handlers.events.history(request.peer):
                        await _write(writer, _encode({"event": _event(event)}))
                dropped = 0
                async for event in subscription:
                    if subscription.dropped > dropped:
                        lost, dropped = subscription.dropped - dropped, subscription.dropped
                        notice = Event(event.time, "events.dropped", None, {"count": lost})
                        await _write(writer, _encode({"event": _event(notice)}))
                    if request.peer in (None, event.peer):
                        await _write(writer, _encode({"event": _event(event)}))
            finally:
                hung_up.cancel()


def _event(event: Event) -> dict[str, Any]:
    return {"time": event.time, "kind": event.kind, "peer": event.peer, "fields": event.fields}


def _parse(line: bytes) -> Request:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise _RefusedError("bad-request", "a request is one JSON object per line") from None
    if not isinstance(document, dict):
        raise _RefusedError("bad-request", "a request is a JSON object")
    if document.get("version") != VERSION:
        raise _RefusedError("version", f"this daemon (qtunnel {__version__}) speaks control protocol {VERSION}")
    try:
        return Request.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = printable(".".join(str(part) for part in first["loc"])[:MAX_PLACE]) or "request"
        raise _RefusedError("bad-request", f"{place}: {first['msg'].lower()}") from None


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, **document}, ensure_ascii=True).encode() + b"\n"


def _refusal(code: ErrorCode, message: str) -> bytes:
    return _encode({"ok": False, "error": {"code": code, "message": message}})


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    async with asyncio.timeout(WRITE_BOUND):  # wait_for of Python 3.11 may swallow the cancellation of ``stop``
        await writer.drain()
