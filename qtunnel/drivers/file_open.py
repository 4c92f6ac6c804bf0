"""Opens a pad and its ledger: who may use them, and that one process does."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from qtunnel.constants import DEFAULT_STATE_DIRECTORY
from qtunnel.drivers.file_format import HEADER_SIZE, PadInfo, Side
from qtunnel.drivers.file_ledger import SLOT_SIZE, Ledger, PadDiskError, newest
from qtunnel.drivers.file_pad import SLOTS, Pad, Step, silent
from qtunnel.errors import ConfigError, FilePermissionError, PadError
from qtunnel.files import open_secret_file, write_new_file

DEFAULT_LEDGER = Path(DEFAULT_STATE_DIRECTORY, "pads")
"""One for all gateways of a machine: so a pad that two of them name by mistake has one ledger."""


class PadInUseError(PadError):
    """Another process has the pad open."""


class File:
    """A descriptor as a ``Medium``. Owns it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read(self, offset: int, size: int) -> bytearray:
        buffer = bytearray(size)
        view, filled = memoryview(buffer), 0
        while filled < size and (count := os.preadv(self.descriptor, [view[filled:]], offset + filled)):
            filled += count
        view.release()
        del buffer[filled:]
        return buffer

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self.descriptor, view, offset)
            view, offset = view[count:], offset + count

    def sync(self) -> None:
        os.fsync(self.descriptor)

    def lock(self) -> bool:
        """Whether it is this process's alone from now on, until it is closed."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self.descriptor)


class OpenPad:
    """A pad that is open and locked, at a path. Raises what ``check_pad`` raises, and ``PadError``."""

    def __init__(self, path: Path, side: Side, ledger: Path, mark: bytes, step: Step = silent) -> None:
        with contextlib.ExitStack() as stack:
            pad, info = _pad(path)
            stack.callback(pad.close)
            if not pad.lock():
                raise PadInUseError("another process has this pad open; end it, or give each gateway a pad of its own")
            book = _book(ledger, info, side)
            stack.callback(book.close)
            if not book.lock():
                raise PadInUseError("another process uses a copy of this pad; end it, or take a pad of its own")
            self.pad = Pad(info, side, pad, book, mark, step)
            self._path = path
            self._identity = _identity(os.fstat(pad.descriptor))
            self._close = stack.pop_all().close

    def stands(self) -> bool:
        """Whether the path still leads to this file: a stick may have been taken away, or another pad put there."""
        try:
            return _identity(os.stat(self._path)) == self._identity
        except OSError:
            return False

    def close(self) -> None:
        """Let others have it. Idempotent."""
        self._close()


def check_pad(path: Path) -> PadInfo:
    """See that there is a pad that can be drawn from; changes nothing and takes no lock.

    Raises ``ConfigError``, ``FilePermissionError`` or ``PadError``, each of which begins with what is wrong.
    """
    pad, info = _pad(path)
    pad.close()
    return info


def read_ledger(directory: Path, info: PadInfo, side: Side) -> Ledger | None:
    """The ledger of that side, for people; ``None`` where there is none."""
    try:
        book = File(open_secret_file(ledger_path(directory, info, side)))
    except ConfigError:
        return None
    try:
        slots = [Ledger.decode(book.read(at * SLOT_SIZE, SLOT_SIZE)) for at in range(SLOTS)]
    finally:
        book.close()
    return newest(slots[0], slots[1])


def ledger_path(directory: Path, info: PadInfo, side: Side) -> Path:
    return directory / f"{info.pad_id}-{side}.ledger"


def read_info(path: Path, file: File) -> PadInfo:
    """The header of a pad, after a look at its size."""
    try:
        info = PadInfo.decode(file.read(0, HEADER_SIZE))
        size = os.fstat(file.descriptor).st_size
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except PadError as error:
        raise PadError(f"{path}: {error}") from None
    if size != HEADER_SIZE + info.size:
        raise PadError(
            f"{path}: has {size} bytes where its header says {HEADER_SIZE + info.size}; was it copied as a whole?"
        )
    return info


def _pad(path: Path) -> tuple[File, PadInfo]:
    try:
        pad = File(open_secret_file(path, write=True))
    except ConfigError as error:
        missing = not path.exists()
        remedy = "make one with: qtunnel pad new FILE --size 1GB" if missing else _remedy(path)
        raise ConfigError(f"{error}; {remedy}") from None
    try:
        return pad, read_info(path, pad)
    except BaseException:
        pad.close()
        raise


def _remedy(path: Path) -> str:
    with contextlib.suppress(OSError):
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return "used bytes have to be overwritten, so copy the pad to a disk that can be written"
    return "used bytes have to be overwritten, so it must be a file that can be"


def _book(directory: Path, info: PadInfo, side: Side) -> File:
    """The ledger's file, made where it is missing. The directory is synced each time: it costs little, and a ledger
    whose name is not on disk would be missing after a power cut."""
    path = ledger_path(directory, info, side)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.fstat(opened)
            if found.st_mode & 0o022 or found.st_uid not in (0, os.geteuid()):
                raise FilePermissionError(
                    f"{directory}: others may write there; give it to the user of qtunnel alone (chown, chmod 700 "
                    f"{directory})"
                )
            if not path.exists():
                _make(path)
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        remedy = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another with ledger"
        raise PadDiskError(f"the ledger's directory {directory} cannot be used: {words}; {remedy}") from None
    return File(open_secret_file(path, write=True))


def _make(path: Path) -> None:
    """A blank ledger: all of it, or none."""
    new = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # of a run that was cut short
    write_new_file(new, bytes(SLOTS * SLOT_SIZE), mode=0o600)
    os.rename(new, path)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
