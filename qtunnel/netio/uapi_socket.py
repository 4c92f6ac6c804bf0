"""The UAPI socket that wg(8) talks to: found by its path, only for its owner, served without blocking traffic."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from qtunnel.errors import AlreadyRunningError, EngineError
from qtunnel.wireguard.configuration import UapiConversation
from qtunnel.wireguard.device import Device

REQUEST_SLICE = 4 * 1024
"""Bytes of a request taken at a time: about 150 lines, half a millisecond between which traffic goes on."""

ANSWER_SLICE = 16 * 1024
"""Bytes of an answer made at a time: about 500 lines, as long."""

MAX_CONNECTIONS = 64
"""Clients at a time; more wait in the listen queue."""

_BACKLOG = 32
_PROBE_TIMEOUT = 2.0

_PAUSE = 0.05
_PATIENCE = 20
"""Looks at a socket that answers before it counts as taken: a second in all, far more than an engine takes to end."""


def bind_socket(directory: Path, name: str) -> socket.socket:
    """Listen at ``directory/name.sock`` with mode 0600, in place of a socket that nobody listens at any more.

    Raises ``AlreadyRunningError`` where somebody answers there, ``EngineError`` where it cannot be made.
    """
    path = directory / f"{name}.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        # Not reachable by its path before it listens: wg(8) removes a socket that refuses it.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise EngineError(
            f"UAPI socket {path}: {error.strerror or error}; the directory must be writable: run as root, "
            "or name another with --socket-dir (wg(8) looks only in the default one)"
        ) from None
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens at; who answers may be about to end, when its interface was just deleted."""
    for _ in range(_PATIENCE):
        if not path.is_socket():
            return
        if not _answers(path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        time.sleep(_PAUSE)
    raise AlreadyRunningError(f"UAPI socket {path}: a running WireGuard answers there; choose another interface name")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ETIMEDOUT):
                raise
    return True


class _Connection:
    """One client: what it sent goes to its conversation, the answers go out as it takes them."""

    def __init__(self, sock: socket.socket, device: Device) -> None:
        self.sock = sock
        self.conversation = UapiConversation(device)
        self.answers: deque[Iterator[bytes]] = deque()
        self.output = bytearray()
        self.ended = False

    def read(self, now: float) -> None:
        data = self.sock.recv(REQUEST_SLICE)
        if data:
            self.answers.extend(self.conversation.feed(data, now))
            self.ended = self.conversation.closed
            return
        self.ended = True
        last = self.conversation.end(now)
        if last is not None:
            self.answers.append(last)

    def write(self) -> None:
        """Send one slice; it may hold keys, so it is overwritten once sent."""
        while self.answers and len(self.output) < ANSWER_SLICE:
            piece = next(self.answers[0], None)
            if piece is None:
                self.answers.popleft()
            else:
                self.output += piece
        sent = self.sock.send(self.output)
        self.output[:sent] = bytes(sent)
        del self.output[:sent]

    @property
    def writing(self) -> bool:
        return bool(self.output or self.answers)


class UapiServer:
    """The listener and its connections, driven by an epoll loop that the caller runs."""

    def __init__(
        self, listener: socket.socket, device: Device, epoll: select.epoll, clock: Callable[[], float]
    ) -> None:
        self.listener = listener
        self.path = Path(listener.getsockname())
        self._inode = self.path.stat().st_ino
        self._device = device
        self._epoll = epoll
        self._clock = clock
        self._connections: dict[int, _Connection] = {}

    def exists(self) -> bool:
        """Whether the path still leads to this socket."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def accept(self) -> None:
        """Take the clients that wait; they are watched from now on."""
        while len(self._connections) < MAX_CONNECTIONS:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return  # none left, or it went away
            sock.setblocking(False)
            self._connections[sock.fileno()] = _Connection(sock, self._device)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        # Who waits is heard when one of these has ended; to be told all the time helps nobody.
        self._epoll.modify(self.listener.fileno(), 0)

    def owns(self, descriptor: int) -> bool:
        return descriptor in self._connections

    def handle(self, descriptor: int) -> None:
        """One slice of one client's traffic. After a defect in there that client is hung up on, and it is raised."""
        connection = self._connections[descriptor]
        try:
            # While an answer goes out nothing is read, so that a client cannot pile up answers.
            if not connection.writing:
                connection.read(self._clock())
            if connection.writing:
                connection.write()
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)
            return
        except Exception:  # never an answer that it was done
            self._drop(connection)
            raise
        if connection.writing:
            self._epoll.modify(descriptor, select.EPOLLOUT)
        elif connection.ended:
            self._drop(connection)
        else:
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.sock.fileno()]
        connection.output[:] = bytes(len(connection.output))
        connection.sock.close()  # which also ends the watching
        self._epoll.modify(self.listener.fileno(), select.EPOLLIN)
        self.accept()  # one that waited for a free place

    def close(self) -> None:
        """Hang up on all, and remove the socket if it is still ours."""
        for connection in list(self._connections.values()):
            connection.sock.close()
        self._connections.clear()
        if self.exists():
            self.path.unlink(missing_ok=True)
        self.listener.close()
