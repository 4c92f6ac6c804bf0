"""TLS contexts that follow their files: another certificate, key or CA is in force for the next connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from qtunnel.errors import QtunnelError

Stamp = tuple[tuple[int, int, int, int] | None, ...]
"""Of each file its inode, size, and times of the last change of content and of attributes; None where it is missing."""


class Files(Protocol):
    """Files that a context is made of, such as ``qtunnel.tls.AnyFiles``."""

    @property
    def paths(self) -> tuple[Path, ...]: ...


class Certificates:
    """One TLS context, made anew when the files that it comes from have changed.

    make: makes it; raises a ``QtunnelError`` for files that cannot be used. Where that happens to files that changed,
    the context of before stays in force, and ``problem`` says why, until they are good again.
    """

    def __init__(self, files: Files, make: Callable[[], ssl.SSLContext]) -> None:
        self._paths, self._make = files.paths, make
        self._stamp = _stamp(self._paths)
        self._context = make()
        self._lock = asyncio.Lock()
        self.problem: str | None = None

    async def current(self) -> ssl.SSLContext:
        """The context for a connection that is made now."""
        if _stamp(self._paths) != self._stamp:
            async with self._lock:
                # Taken before the files are read: what changes while they are is seen at the next look.
                stamp = _stamp(self._paths)
                if stamp != self._stamp:
                    await self._renew(stamp)
        return self._context

    async def _renew(self, stamp: Stamp) -> None:
        try:
            self._context = await asyncio.to_thread(self._make)  # to open a private key takes up to a second
        except QtunnelError as error:
            self.problem = f"its certificate files changed and cannot be used, so those of before stay: {error}"
        else:
            self.problem = None
        self._stamp = stamp


def _stamp(paths: tuple[Path, ...]) -> Stamp:
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
