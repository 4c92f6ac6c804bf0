"""The UNIX socket of a running network: a line of JSON is asked, a line of JSON answers.

Requests: ``{"request": "map"}``, ``{"request": "command", "target": ..., "action": ..., "arguments": [...]}`` and
``{"request": "happenings"}``. Answers: ``{"ok": true, "result": ...}`` or ``{"ok": false, "error": "..."}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qtunnel.control.socket_file import take_socket
from qtunnel.errors import NetworkError
from qtunnel.simulator.service import Service

MAX_REQUEST = 64 * 1024
"""Bytes of a request; a command has a hundred."""

IDLE = 60.0
"""Seconds that a connection may say nothing."""


@contextlib.asynccontextmanager
async def controlled(service: Service, path: Path) -> AsyncIterator[None]:
    """The socket serves within the context, to this user and root; raises ``ControlError``, ``AlreadyRunningError``."""
    listener = take_socket(path, "simulated network")
    mine = os.stat(path).st_ino
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await _serve(service, reader, writer)
        except (OSError, TimeoutError, ValueError, asyncio.CancelledError):
            writer.transport.abort()  # gone, silent, or no line
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_unix_server(accept, sock=listener, limit=MAX_REQUEST)
    try:
        yield
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        with contextlib.suppress(OSError):
            if os.stat(path).st_ino == mine:
                os.unlink(path)


async def _serve(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        async with asyncio.timeout(IDLE):
            line = await reader.readline()
        if not line:
            return
        try:
            answer = {"ok": True, "result": _answer(service, line)}
        except NetworkError as error:
            answer = {"ok": False, "error": str(error)}
        writer.write(json.dumps(answer).encode() + b"\n")
        async with asyncio.timeout(IDLE):
            await writer.drain()


def _answer(service: Service, line: bytes) -> Any:
    try:
        asked = json.loads(line)
        match asked:
            case {"request": "map"}:
                return service.map()
            case {"request": "happenings"}:
                service.advance()
                return [asdict(one) for one in service.happenings]
            case {"request": "command", "target": str(target), "action": str(action), "arguments": [*arguments]}:
                found = service.command(target, action, *(str(one) for one in arguments))
                return [asdict(one) for one in found]
    except (ValueError, RecursionError):
        pass
    raise NetworkError("not a request of this socket")
