"""A control socket's place in the file system, and who is at its other end.

For whoever serves one, a daemon or a simulated network, and for their clients.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from qtunnel.constants import MAX_SOCKET_PATH
from qtunnel.errors import AlreadyRunningError, ControlError
from qtunnel.files import others_may_change

PROBE_BOUND = 2.0
"""Seconds to find out whether somebody listens on a socket that is there; the kernel answers at once."""

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


def peer_credentials(connection: socket.socket) -> tuple[int, int]:
    """pid and uid of the other end (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def take_socket(path: Path, whose: str) -> socket.socket:
    """A listening socket at the path, for this user and root. whose: what serves it, in words.

    Raises ``AlreadyRunningError`` where somebody answers on it, ``ControlError`` where the path cannot be used.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ControlError(
            f"control socket {path}: the path is longer than {MAX_SOCKET_PATH} bytes; name a shorter one"
        )
    with _locked_directory(path):
        _remove_stale(path, whose)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setblocking(False)
            os.fchmod(listener.fileno(), 0o600)  # before bind: the file is never open to others, not for a moment
            listener.bind(str(path))
            listener.listen()
        except OSError as error:
            listener.close()
            raise ControlError(f"control socket {path}: {(error.strerror or str(error)).lower()}") from None
        return listener


@contextlib.contextmanager
def _locked_directory(path: Path) -> Iterator[None]:
    """The directory, made where it is missing, seen to be safe, and locked against a second one's start."""
    directory = path.parent
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ControlError(f"directory {directory} of the control socket: {reason}") from None
    try:
        found = os.fstat(descriptor)
        if others_may_change(found, sticky=True):
            raise ControlError(
                f"directory {directory} of the control socket belongs to user {found.st_uid} and has mode "
                f"{stat.S_IMODE(found.st_mode):04o}, so others could put a socket of theirs there; give it to the user "
                f"of qtunnel alone (chown, chmod go-w {directory}), or name another path"
            )
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for some system calls only
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: Path, whose: str) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ControlError(f"control socket {path}: another kind of file is in the way; remove it")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ControlError(f"control socket {path}: {(error.strerror or str(error)).lower()}") from None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_BOUND)
        try:
            probe.connect(str(path))
            owner = f" (pid {peer_credentials(probe)[0]})"
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except TimeoutError:
            owner = " (by somebody who accepts no connections)"
        except OSError as error:
            raise ControlError(f"control socket {path}: {(error.strerror or str(error)).lower()}") from None
    raise AlreadyRunningError(
        f"control socket {path} is in use{owner}, likely by another {whose}; stop that first, or name another path"
    )
