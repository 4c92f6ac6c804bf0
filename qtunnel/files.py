"""Secret files: who may read them, and how they are read and made. Directories: who may change them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from qtunnel.errors import ConfigError, FilePermissionError
from qtunnel.secret import Secret

MAX_SECRET_FILE = 64 * 1024
"""Bytes. The largest secret file (an identity, a private key in PEM) has a few kilobytes."""

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def others_may_change(status: os.stat_result, *, sticky: bool = False, user: int | None = None) -> bool:
    """Whether others than root and the user can change a file, or what is in a directory.

    sticky: where a directory in which each can only take away what is his own (inode(7)) is good enough. user: whose
    process is to work there, by default this one's.
    """
    mine = status.st_uid in (0, os.geteuid() if user is None else user)
    return not mine or bool(status.st_mode & 0o022 and not (sticky and status.st_mode & stat.S_ISVTX))


def check_secret_file(path: Path) -> None:
    """See that only its owner, who is this process's user or root, can use the file at ``path``.

    Raises ``FilePermissionError`` where others own it or have any permission on it, ``ConfigError`` where it is
    missing, unreadable or no regular file.
    """
    os.close(open_secret_file(path))


def open_secret_file(path: Path, *, write: bool = False) -> int:
    """A descriptor of the secret file at ``path``, checked as ``check_secret_file`` does; write: to change it too."""
    return _open(path, os.O_RDWR if write else os.O_RDONLY)


def read_secret_file(path: Path, most: int = MAX_SECRET_FILE) -> Secret:
    """The content of a secret file, checked as ``check_secret_file`` does on the very file that is read.

    most: bytes that it may have.
    """
    descriptor = open_secret_file(path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        if size > most:
            raise ConfigError(f"{path}: {size} bytes is too large for a secret file; is it the right file?")
        buffer = bytearray(size)
        view = memoryview(buffer)
        filled = 0
        while filled < size:
            count = file.readinto(view[filled:])
            if not count:
                break
            filled += count
        secret = Secret(view[:filled])
        view.release()
        buffer[:] = bytes(len(buffer))
        return secret


def write_new_file(path: Path, data: bytes | bytearray, *, mode: int) -> None:
    """Write ``data`` to a file that must not exist yet, with exactly the permission bits ``mode``.

    All of it, or no file. Raises ``FileExistsError``, or ``OSError`` for what else the file system refuses.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # a umask must not open or close it further
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        # What is cut short is of no use, and would be in the way of the next attempt.
        path.unlink(missing_ok=True)
        raise


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of ``content``, however little the system takes at once; raises ``OSError``, with a part written."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _open(path: Path, how: int) -> int:
    try:
        # Not blocking: a named pipe in the file's place must not hang the program.
        descriptor = os.open(path, how | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        verb = "read" if how == os.O_RDONLY else "written"
        raise ConfigError(f"{path}: cannot be {verb}: {error.strerror}") from None
    try:
        _check(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _handed_over(path: Path, status: os.stat_result) -> bool:
    """Whether it is a credential that systemd made readable for this unit's user by an ACL (systemd.exec(5)): its mask
    shows as the permission of root's group."""
    given = os.environ.get("CREDENTIALS_DIRECTORY", "")
    owners = (status.st_uid, status.st_gid) == (0, 0)
    return bool(given) and path.parent == Path(given) and owners and status.st_mode & OTHERS == stat.S_IRGRP


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: not a regular file; a secret file is expected here")
    if status.st_uid not in (0, os.geteuid()):
        raise FilePermissionError(
            f"{path}: belongs to user {status.st_uid}, not to the user qtunnel runs as; "
            f"run: chown {os.geteuid()} {path}"
        )
    if status.st_mode & OTHERS and not _handed_over(path, status):
        raise FilePermissionError(
            f"{path}: others may use this secret file (mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 600 {path}"
        )
