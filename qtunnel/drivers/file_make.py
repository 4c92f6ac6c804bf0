"""Makes a pad: random bytes of the operating system behind a header."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from qtunnel.drivers.file_format import HEADER_SIZE, MAX_PAD, MIN_PAD, PadInfo
from qtunnel.errors import ConfigError, PadError
from qtunnel.files import write_all
from qtunnel.secret import RandomBytes

CHUNK = 1 << 20
PAD_ID_SIZE = 16


def make_pad(path: Path, size: int, share_a: int, random_bytes: RandomBytes) -> PadInfo:
    """A new file at ``path``, of mode 0600, with ``size`` random bytes, of which side ``a`` draws from the first
    ``share_a``. All of it, or no file. Raises ``PadError`` for sizes that make no pad, ``ConfigError`` for the place.
    """
    if not MIN_PAD <= size <= MAX_PAD:
        raise PadError(f"a pad of {size} bytes; take from {MIN_PAD} bytes to {MAX_PAD >> 40} TiB")
    info = PadInfo(random_bytes(PAD_ID_SIZE).hex(), size, share_a)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path}: exists already; a pad is never overwritten, so choose another name") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            os.fchmod(descriptor, 0o600)  # a umask must not open or close it further
            with contextlib.suppress(OSError):  # not every file system can; it shows at once where there is no room
                os.posix_fallocate(descriptor, 0, HEADER_SIZE + size)
            write_all(descriptor, info.encode())
            for at in range(0, size, CHUNK):
                write_all(descriptor, random_bytes(min(CHUNK, size - at)))
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
        raise
    return info
