"""The files of an audit log: which they are, in what order, and the one that is written to.

The newest file has the name of the configuration; when it is full it gets the number of its first record into its name,
and another one begins. Nothing is ever written over, cut or deleted here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from pathlib import Path

from qtunnel.audit.chain import Found, examine
from qtunnel.audit.head import MAX_HEAD, SignedHead
from qtunnel.audit.record import MAX_LINE, RecordError
from qtunnel.audit.verify import LogFile
from qtunnel.errors import AlreadyRunningError, AuditError, QtunnelError
from qtunnel.files import others_may_change

HEAD_FILE = "audit.head"
"""In the state directory: the newest signed head."""
TAIL = 4 * MAX_LINE
"""Bytes at the end of a file that are read at a start: more than a torn line and the record before it can have."""
MAX_FILE = 1 << 30
"""Bytes of one file that ``verify`` reads: 16 times what is usual, and what a machine of today has in memory."""
_NUMBER = r"-(\d{12,19})"


def rotated_name(path: Path, first: int) -> Path:
    """The name of a full file whose first record has this number."""
    return path.with_name(f"{path.stem}-{first:012d}{path.suffix}")


def files_of(path: Path) -> list[Path]:
    """All files of the log at ``path`` that are there, the oldest first."""
    pattern = re.compile(re.escape(path.stem) + _NUMBER + re.escape(path.suffix), re.ASCII)
    try:
        names = os.listdir(path.parent)
    except OSError as error:
        raise AuditError(f"{path.parent}: cannot be read: {error.strerror}") from None
    numbered = sorted((int(found[1]), path.with_name(name)) for name in names if (found := pattern.fullmatch(name)))
    return [file for _, file in numbered] + ([path] if path.name in names else [])


def read_log(path: Path) -> LogFile:
    """A whole file; raises ``AuditError``."""
    return LogFile(str(path), _read(path, MAX_FILE, "an audit log"))


def read_head(path: Path) -> SignedHead:
    """A head that was kept; raises ``AuditError``."""
    return SignedHead.parse(_read(path, MAX_HEAD, "the head of an audit log"), str(path))


def _read(path: Path, most: int, what: str) -> bytes:
    try:
        # Not blocking: a named pipe in the file's place must not hang the program.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise AuditError(f"{path}: not a regular file; {what} is expected here")
            data = file.read(most + 1)
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(data) > most:
        raise AuditError(f"{path}: more than {most} bytes are too many for {what}")
    return data


class LogFileWriter:
    """The file that is written to, open and locked. size: its bytes; first: number of its first record, 0 where it has
    none yet; found: how it ended when it was opened, None for one without a record."""

    def __init__(self, path: Path) -> None:
        """Raises ``OSError``; ``AuditError`` for what can never be used, ``AlreadyRunningError`` for what is in use."""
        self.path = path
        self._descriptor = -1
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_directory(path.parent)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
                raise AuditError(f"{path}: not a regular file; an audit log is expected here") from None
            raise
        try:
            self._check()
            self.size = os.fstat(self._descriptor).st_size
            self.found = self._look()
            self.first = 0 if self.found is None else self.found.first
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode) or others_may_change(status):
            raise AuditError(
                f"{self.path}: others may write there, or it is no regular file; an audit log belongs to the user of "
                f"qtunnel alone (chown, chmod 600 {self.path})"
            )
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"{self.path}: another qtunnel writes this audit log; give each gateway one of its own"
            ) from None

    def _look(self) -> Found | None:
        if not self.size:
            return None
        begin = max(0, self.size - TAIL)
        try:
            return examine(os.pread(self._descriptor, TAIL, 0), os.pread(self._descriptor, TAIL, begin))
        except RecordError as error:
            raise AuditError(f"{self.path}: {error}; move it away, and another one is begun") from None

    @property
    def disturbed(self) -> bool:
        """Whether somebody else moved, removed, cut or wrote to it; raises ``OSError``."""
        own = os.fstat(self._descriptor)
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino) or own.st_size != self.size

    def write(self, data: bytes) -> int:
        """As many bytes as there is room for, at least one; raises ``OSError``."""
        written = os.write(self._descriptor, data)
        self.size += written
        return written

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def move_away(self) -> None:
        """Give it its final name, which nobody has yet, and let it go."""
        if self.first:
            target = rotated_name(self.path, self.first)
            os.link(self.path, target, follow_symlinks=False)  # refuses to take another file's place
            os.unlink(self.path)
            sync_directory(self.path.parent)
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _check_directory(directory: Path) -> None:
    if others_may_change(directory.stat(), sticky=True):
        raise AuditError(
            f"{directory}: others may move or remove an audit log there; give it to the user of qtunnel alone "
            f"(chown, chmod 700 {directory})"
        )


def sync_directory(directory: Path) -> None:
    """So that names in it survive a power cut."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def keep_head(path: Path, head: SignedHead) -> None:
    """Put it in the place of the one before, whole or not at all; raises ``OSError``."""
    new = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # of a run that was cut short
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(new, flags, 0o600), "wb") as file:
            file.write(head.to_text().encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # it may be on another disk than the log


def unusable(path: Path, error: OSError) -> QtunnelError:
    """What is to be done about a disk that refuses."""
    words = (error.strerror or str(error)).lower()
    remedy = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see to that disk"
    return QtunnelError(f"audit log {error.filename or path}: {words}; {remedy}")
