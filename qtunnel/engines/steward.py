"""The steward: the one process of a service that may change the host's network, without any secret of the gateway.

It starts the engine, sets up the interface with its routes, and marks the daemon's sockets, as a daemon without
capabilities asks it to over a UNIX socket that their common user alone can reach. It takes no netlink message, only the
few operations of ``Interface``, and those for the interface of its own engine alone: one that was not there before it.

The engine is its child and goes on when the daemon ends, however that ends: the next daemon takes it over. When the
steward is told to end, it ends the engine; the unreachable routes behind the tunnel's stay, unless the last daemon has
said that its own end was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from qtunnel.engines.host import check_tun_device, index_of
from qtunnel.engines.interface import Interface
from qtunnel.engines.process import ChildProcess, LogLine
from qtunnel.engines.programs import find
from qtunnel.engines.steward_words import (
    MAX_LINE,
    PROGRAMS,
    SOCKETS,
    VERSION,
    decode,
    encode,
    is_interface_name,
    own_config_from_plain,
)
from qtunnel.errors import AlreadyRunningError, EngineError, InterfaceError
from qtunnel.marks import set_mark
from qtunnel.telemetry import log

RECEIVE_BOUND = 2.0
"""Seconds in which a socket that is to be marked has to come behind its connection; the daemon sends both at once."""

MAX_BUFFER = 16 << 20
"""Bytes of a socket's receive buffer, four times what the daemon asks for: it is the kernel's memory."""

GONE_BOUND = 5.0
"""Seconds for the interface of an engine that has ended to go away."""
GONE_POLL = 0.02

AT_ONCE = frozenset({"hello", "part", "end", "engine.wait"})
"""What waits for nothing else; everything else is done one after the other, in whatever pieces it was asked for."""

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
MARKING = struct.Struct("=II")
"""What comes with a socket: its mark (0 is none), and the bytes of its receive buffer."""
MARKED = struct.Struct("=i")
"""The answer: 0, or an errno."""

logger = log.get("steward")


class Steward:
    """One, for one gateway; ``serve`` until it is cancelled or asked to end."""

    def __init__(self, path: Path, log_line: LogLine) -> None:
        self._path, self._log_line = path, log_line
        self._child: ChildProcess | None = None
        self._making: Any = None
        self._interface: Interface | None = None
        self._parted = self._known = False
        self._owner: asyncio.StreamWriter | None = None
        self._over = asyncio.Event()
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._daemons: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(self, ready: Callable[[], object], stop: asyncio.Event) -> None:
        """Raises ``EngineError`` where the socket cannot be made. ready: called once it can be asked."""
        listener = _listen(self._path, socket.SOCK_STREAM)
        marks = _listen(self._path.with_name(self._path.name + SOCKETS), socket.SOCK_SEQPACKET)
        marks.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(marks.fileno(), self._accept_sockets, marks)
        server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_LINE)
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._over)]
        try:
            ready()
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            loop.remove_reader(marks.fileno())
            marks.close()
            server.close()
            for writer in self._daemons.values():
                writer.close()  # which ends what reads from it, in peace
            if self._daemons:
                await asyncio.wait(tuple(self._daemons), timeout=RECEIVE_BOUND)
            for task in tuple(self._tasks):
                task.cancel()
            for path in (self._path, self._path.with_name(self._path.name + SOCKETS)):
                path.unlink(missing_ok=True)
            await self._end()

    async def _end(self) -> None:
        if self._parted and self._interface is not None:
            try:
                await self._interface.down()
            except EngineError as error:
                logger.warning("interface.down", detail=str(error))
        await self._stop_engine()

    # -- one daemon

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: set[asyncio.Task[None]] = set()
        this = asyncio.current_task()
        assert this is not None
        self._daemons[this] = writer
        try:
            while line := await reader.readline():
                task = asyncio.create_task(self._answer(decode(line), writer))
                for held in (requests, self._tasks):
                    held.add(task)
                    task.add_done_callback(held.discard)
        except (OSError, EngineError, ValueError):
            pass  # a daemon that is gone, or something that is none
        finally:
            for task in requests:
                task.cancel()  # what only waits for the engine's end; the rest is over within an operation
            writer.close()
            del self._daemons[this]
            if self._owner is writer:  # this engine knows no end of a key, so it ends with who renews them
                self._owner = None
                await self._stop_engine()

    async def _answer(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        answer: dict[str, Any] = {"id": message.get("id")}
        try:
            what = str(message.get("do"))
            do = self._operations(writer).get(what)
            if do is None:
                raise EngineError("the steward does not know this; restart qtunnel-engine@ after an upgrade")
            async with contextlib.nullcontext() if what in AT_ONCE else self._turn:
                answer["is"] = await do(message)
        except EngineError as error:
            answer["error"], answer["kind"] = str(error), "interface" if isinstance(error, InterfaceError) else "engine"
        except Exception as error:  # a defect ends neither engine nor steward
            logger.defect("steward.defect", error)
            answer["error"], answer["kind"] = "the steward failed; its log has the details", "engine"
        if self._interface is not None:
            answer["interface"] = _state(self._interface)
        with contextlib.suppress(OSError):
            writer.write(encode(answer))
            await writer.drain()

    def _operations(self, writer: asyncio.StreamWriter) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        return {
            "hello": self._hello,
            "part": self._part,
            "end": self._end_soon,
            "engine.start": lambda message: self._start_engine(message, writer),
            "engine.find": self._find_engine,
            "engine.wait": self._wait_engine,
            "engine.stop": self._stop,
            "interface.new": self._new,
            "interface.change": self._change,
            "interface.up": lambda message: self._its().up(self._checked(message.get("index"))),
            "interface.down": lambda message: self._its().down(),
            "interface.undo": lambda message: self._its().undo(),
            "interface.missing": lambda message: self._its().missing(),
            "interface.put_back": lambda message: self._its().put_back(),
            "interface.follow_routes": lambda message: self._its().follow_routes(),
        }

    async def _hello(self, message: dict[str, Any]) -> dict[str, Any]:
        self._parted = self._known = False
        return {"version": VERSION, "pid": os.getpid()}

    async def _part(self, message: dict[str, Any]) -> None:
        self._parted = True

    async def _end_soon(self, message: dict[str, Any]) -> None:
        asyncio.get_running_loop().call_soon(self._over.set)

    # -- the engine

    async def _start_engine(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        name, interface, processes = message.get("program"), message.get("interface"), message.get("processes")
        if name not in PROGRAMS or not isinstance(processes, int):
            raise EngineError(f"engine {name}: the steward starts {', '.join(PROGRAMS)} alone")
        if not isinstance(interface, str) or not is_interface_name(interface):
            raise EngineError("the steward was sent an interface name that can be no gateway's own")
        await self._stop_engine()
        await _until_free(interface)
        check_tun_device()
        program = find(name).with_processes(processes)
        child = ChildProcess(program.command(interface), program.full_environment(), self._log_line)
        await child.start()
        self._owner = None if program.epochs else writer
        self._child, self._making = child, {"making": message.get("making"), "interface": interface}
        return {"pid": child.pid}

    async def _find_engine(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if self._child is None or self._child.pid is None:
            return None
        return {"pid": self._child.pid, "same": self._making["making"] == message.get("making")}

    async def _wait_engine(self, message: dict[str, Any]) -> dict[str, Any]:
        child = self._child
        if child is None:
            return {"ended": "was not started", "said": ""}
        ended = await child.wait()
        return {"ended": ended, "said": child.tail[-1] if child.tail else ""}

    async def _stop(self, message: dict[str, Any]) -> None:
        await self._stop_engine()

    async def _stop_engine(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.stop()

    # -- the interface

    async def _new(self, message: dict[str, Any]) -> None:
        config = own_config_from_plain(message.get("config"))
        if self._interface is not None and self._known and self._interface.config.name == config.name:
            await self._interface.change(config)  # of this daemon, whose engine was started again
        else:
            self._interface, self._known = Interface(config), True

    async def _change(self, message: dict[str, Any]) -> None:
        config, its = own_config_from_plain(message.get("config")), self._its()
        if (config.name, config.guard_metric) != (its.config.name, its.config.guard_metric):
            raise InterfaceError(f"interface {its.config.name}: its name and its guards' metric stay what they are")
        await its.change(config)

    def _its(self) -> Interface:
        if self._interface is None:
            raise InterfaceError("the steward was not told which interface")
        return self._interface

    def _checked(self, index: Any) -> int:
        """That of its engine's interface, and of no other one: this is what a daemon may have set up."""
        name = self._its().config.name
        if self._child is None or self._child.pid is None or self._making["interface"] != name:
            raise InterfaceError(f"interface {name} is not one of this steward's engine")
        if not isinstance(index, int) or index_of(name) != index:
            raise InterfaceError(f"interface {name} does not exist; its engine is not running")
        return index

    # -- sockets

    def _accept_sockets(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            task = asyncio.create_task(asyncio.to_thread(_mark, connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _until_free(interface: str) -> None:
    """Until nobody has the interface's name. Raises ``InterfaceError`` where one that no engine of ours made has it:
    with such a name, one that fails a moment later would make the host's own interface pass for its own."""
    for _ in range(round(GONE_BOUND / GONE_POLL)):
        if index_of(interface) is None:
            return
        await asyncio.sleep(GONE_POLL)
    raise InterfaceError(
        f"interface name {interface} is taken; choose another name under tunnel.interface, or remove the old one "
        f"(ip link del {interface})"
    )


def _mark(connection: socket.socket) -> None:
    """Mark the socket that comes over this connection, and give it its buffer."""
    with contextlib.suppress(OSError), connection:
        connection.settimeout(RECEIVE_BOUND)
        told, descriptors, *_ = socket.recv_fds(connection, MARKING.size, 1)
        mark, buffer = MARKING.unpack(told) if len(told) == MARKING.size else (0, -1)
        codes = [_mark_one(descriptor, mark, buffer) for descriptor in descriptors]
        connection.send(MARKED.pack(max(codes, default=-1)))


def _mark_one(descriptor: int, mark: int, buffer: int) -> int:
    """0, or an errno. Closes the descriptor."""
    try:
        theirs = socket.socket(fileno=descriptor)
    except OSError as error:  # none of a socket
        os.close(descriptor)
        return error.errno or -1
    with theirs:
        if not 0 <= buffer <= MAX_BUFFER:
            return errno.EINVAL
        try:
            if mark:
                set_mark(theirs, mark)
            theirs.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
        except OSError as error:
            return error.errno or -1
    return 0


def _state(interface: Interface) -> dict[str, Any]:
    """What the daemon's end shows of it without asking."""
    return {
        "warnings": interface.warnings,
        "undone": interface.undone,
        "looks": interface.looks,
        "is_up": interface.is_up,
    }


def _listen(path: Path, kind: int) -> socket.socket:
    """A socket there with mode 0600, in place of one that nobody listens at."""
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, kind) as probe:
            try:
                probe.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                path.unlink(missing_ok=True)
            else:
                raise AlreadyRunningError(f"steward {path}: another one answers there; stop it first")
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(16)
    except OSError as error:
        sock.close()
        raise EngineError(
            f"steward {path}: {(error.strerror or str(error)).lower()}; choose a path below /run"
        ) from None
    except BaseException:
        sock.close()
        raise
    return sock
