"""The daemon's end of a steward: an engine, an interface and marked sockets, without a capability of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtunnel.engines.interface import Interface, InterfaceConfig
from qtunnel.engines.steward import MARKED, MARKING
from qtunnel.engines.steward_words import MAX_LINE, SOCKETS, VERSION, config_to_plain, decode, encode
from qtunnel.errors import EngineError, InterfaceError

OPERATION_BOUND = 30.0
"""Seconds for all but waiting for the engine's end: a hub's interface with thousands of routes takes some."""

CONNECT_BOUND = 10.0
"""Seconds until a steward that is being started again listens; a Python program needs 0.3 s."""

CONNECT_POLL = 0.05
SOCKET_BOUND = 5.0
"""Seconds for a socket to be marked."""


def return_to(path: Path) -> None:
    """Tell the steward that a daemon is being started, before anything of it can fail: that the one before was asked to
    end was no end of the gateway, so what stands behind the tunnel's routes has to stay. A steward that is not there is
    missed later."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SOCKET_BOUND)
        connection.connect(str(path))
        connection.sendall(encode({"id": 0, "do": "hello"}))
        connection.recv(1)  # it has heard


class StewardClient:
    """Connects when it is first asked, and again after the steward was gone. Every failure is an ``EngineError``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self.state: dict[str, Any] = {}
        """Of the interface, as the last answer told it."""

    async def ask(self, do: str, bound: float | None = OPERATION_BOUND, **fields: Any) -> Any:
        """The answer to one operation; raises what the steward refused, or ``EngineError`` where it is gone."""
        try:
            async with asyncio.timeout(bound):
                await self._connect()
                return await self._ask(do, **fields)
        except TimeoutError:
            raise self._gone("does not answer") from None

    async def _ask(self, do: str, **fields: Any) -> Any:
        writer, number = self._writer, next(self._numbers)
        if writer is None:
            raise self._gone("is gone")
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            writer.write(encode({"id": number, "do": do, **fields}))
            await writer.drain()
            answer = await future
        except OSError:
            raise self._gone("is gone") from None
        finally:
            self._waiting.pop(number, None)
        self.state = answer.get("interface", self.state)
        if "error" in answer:
            kind = InterfaceError if answer.get("kind") == "interface" else EngineError
            raise kind(str(answer["error"]))
        return answer.get("is")

    async def _connect(self) -> None:
        async with self._connecting:
            if self._writer is not None:
                return
            for _ in range(2):
                await self._open()
                told = await self._ask("hello")
                if isinstance(told, dict) and told.get("version") == VERSION:
                    return
                await self._ask("end")  # it and its engine are of before an upgrade that changed this language
                await self.close()
                await asyncio.sleep(CONNECT_POLL)
            raise self._gone("speaks another language: restart qtunnel-engine@")

    async def _open(self) -> None:
        deadline = asyncio.get_running_loop().time() + CONNECT_BOUND
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(str(self.path), limit=MAX_LINE)
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise self._gone(f"cannot be reached: {(error.strerror or str(error)).lower()}") from None
                await asyncio.sleep(CONNECT_POLL)
            else:
                self._reading = asyncio.create_task(self._read(reader, self._writer))
                return

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                answer = decode(line)
                future = self._waiting.pop(answer.get("id", 0), None)
                if future is not None and not future.done():
                    future.set_result(answer)
        except (OSError, EngineError, ValueError):
            pass
        finally:
            if self._writer is writer:
                self._writer = None
            writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._gone("is gone"))
            self._waiting.clear()

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    def mark(self, sock: socket.socket, mark: int, buffer: int) -> None:
        """Give the socket this mark (SO_MARK) and receive buffer. Raises ``OSError``."""
        path = self.path.with_name(self.path.name + SOCKETS)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(SOCKET_BOUND)
            connection.connect(str(path))
            socket.send_fds(connection, [MARKING.pack(mark, buffer)], [sock.fileno()])
            answer = connection.recv(MARKED.size)
        (code,) = MARKED.unpack(answer) if len(answer) == MARKED.size else (-1,)
        if code:
            raise OSError(code, os.strerror(code) if code > 0 else "the steward did not take it")

    def _gone(self, what: str) -> EngineError:
        return EngineError(f"the steward at {self.path} {what}; look at the log of qtunnel-engine@")


class StewardProcess:
    """As ``ChildProcess``, for an engine that is the steward's child."""

    def __init__(self, steward: StewardClient, pid: int) -> None:
        self._steward, self._pid = steward, pid
        self._ended: asyncio.Task[dict[str, Any]] = asyncio.create_task(self._await_end())
        self.tail: deque[str] = deque(maxlen=1)

    @classmethod
    async def start(
        cls, steward: StewardClient, program: str, interface: str, processes: int, making: Mapping[str, Any]
    ) -> StewardProcess:
        told = await steward.ask(
            "engine.start", program=program, interface=interface, processes=processes, making=dict(making)
        )  # fmt: skip
        return cls(steward, int(told["pid"]))

    @classmethod
    async def find(cls, steward: StewardClient, making: Mapping[str, Any]) -> tuple[StewardProcess, bool] | None:
        """The engine that runs there, and whether it is as ``making`` says."""
        told = await steward.ask("engine.find", making=dict(making))
        return None if told is None else (cls(steward, int(told["pid"])), bool(told["same"]))

    async def _await_end(self) -> dict[str, Any]:
        try:
            told = await self._steward.ask("engine.wait", None)
        except EngineError:
            return {"ended": "ended with its steward", "said": ""}
        return told if isinstance(told, dict) else {}

    @property
    def pid(self) -> int | None:
        """``None`` after its end."""
        return None if self._ended.done() else self._pid

    async def wait(self) -> str:
        told = await asyncio.shield(self._ended)
        if told.get("said"):
            self.tail.append(str(told["said"]))
        return str(told.get("ended", "ended"))

    async def stop(self) -> None:
        if self.pid is not None:
            with contextlib.suppress(EngineError):  # gone with its engine: what was wanted
                await self._steward.ask("engine.stop")
            await self.wait()

    def leave(self) -> None:
        """Stop watching; the engine goes on."""
        self._ended.cancel()


class StewardInterface(Interface):
    """As ``Interface``, which the steward has; what is planned is known at both ends."""

    def __init__(self, config: InterfaceConfig, steward: StewardClient) -> None:
        super().__init__(config)
        self._steward, self._begun = steward, False

    async def _do(self, what: str, **fields: Any) -> Any:
        try:
            return await self._steward.ask(f"interface.{what}", **fields)
        finally:
            state = self._steward.state
            self.warnings, self.undone = list(state.get("warnings", ())), bool(state.get("undone", True))

    @property
    def looks(self) -> int:
        return int(self._steward.state.get("looks", 1))

    @property
    def is_up(self) -> bool:
        return self._begun and bool(self._steward.state.get("is_up"))

    async def up(self, index: int | None = None) -> None:
        self._begun = True
        await self._do("new", config=config_to_plain(self.config))
        await self._do("up", index=index)

    async def change(self, config: InterfaceConfig) -> None:
        self._plan(config)
        if self._begun:
            await self._do("change", config=config_to_plain(config))

    async def undo(self) -> None:
        if self.is_up:
            await self._do("undo")

    async def missing(self) -> list[str]:
        return [str(line) for line in await self._do("missing")]

    async def put_back(self) -> None:
        await self._do("put_back")

    async def follow_routes(self) -> None:
        await self._do("follow_routes")

    async def down(self) -> None:
        if self.is_up:
            await self._do("down")
