"""Which indexes of a key stream were taken: in memory for a stream that ends with us, in a file for an agreed one.

An agreed stream goes on after a restart, and so must its indexes: one that is used twice is a key used twice.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from qtunnel.aside import aside

SLOT = 63
"""Bytes: KSID, next index in ten digits, chunk size in five, checksum in eight; blanks between, a newline after."""

_SLOT = re.compile(rb"(([0-9a-f-]{36}) ([0-9]{10}) ([0-9]{5})) ([0-9a-f]{8})\n")

WRITE_LIMIT = 5.0
"""Seconds for the disk; one that hangs must not hold a rekey for ever."""


class IndexesError(Exception):
    """No index can be taken; in words."""


class IndexFile:
    """The next index of one stream, synced to disk before any index below it is used.

    Two slots are written in turn, so that a crash in the middle leaves the one before. A lock makes two processes with
    the same file take different indexes.
    """

    def __init__(self, path: Path, ksid: UUID) -> None:
        self._path, self._ksid = path, ksid
        self._running: asyncio.Future[int] | None = None

    async def take(self, count: int, chunk: int) -> int:
        """The first of ``count`` indexes, of ``chunk`` bytes each, that nobody had before; raises ``IndexesError``.

        In a thread of its own: those of the loop's pool, which look up names for everybody, would soon all hang with
        the disk. While one hangs no other is begun.
        """
        if self._running is not None and not self._running.done():
            raise IndexesError(f"index_file {self._path}: the disk hangs")
        running = self._running = asyncio.ensure_future(aside(lambda: self._take(count, chunk)))
        running.add_done_callback(_heard)
        done, _ = await asyncio.wait({running}, timeout=WRITE_LIMIT)
        if not done:
            raise IndexesError(f"index_file {self._path}: the disk did not answer within {WRITE_LIMIT:g} s")
        try:
            return running.result()
        except OSError as error:
            raise IndexesError(f"index_file {self._path}: {(error.strerror or 'cannot be used').lower()}") from None

    def _take(self, count: int, chunk: int) -> int:
        with self._locked() as file:
            found = self._read(os.pread(file, 2 * SLOT, 0))
            slot, first, before = found if found is not None else (1, 0, chunk)
            if chunk != before:
                raise IndexesError(_other_size(self._ksid, before, chunk) + f"; the indexes are in {self._path}")
            data = f"{self._ksid} {first + count:010d} {chunk:05d}".encode()
            os.pwrite(file, data + b" %08x\n" % zlib.crc32(data), (1 - slot) * SLOT)
            os.fsync(file)
        return first

    @contextmanager
    def _locked(self) -> Iterator[int]:
        fresh = not self._path.exists()
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if fresh:  # its name must be there after a power cut, too
                directory = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
            yield file
        finally:
            os.close(file)

    def _read(self, data: bytes) -> tuple[int, int, int] | None:
        """Slot, next index and chunk size, of the slot that was written last; ``None`` where the file is new."""
        found = []
        for slot in (0, 1):
            match = _SLOT.fullmatch(data[slot * SLOT : (slot + 1) * SLOT])
            if match is not None and zlib.crc32(match[1]) == int(match[5], 16):
                found.append((int(match[3]), slot, int(match[4]), match[2].decode()))
        if not found:
            if data:
                raise IndexesError(f"index_file {self._path}: damaged; agree on new stream IDs, and remove the file")
            return None
        index, slot, chunk, ksid = max(found)
        if ksid != str(self._ksid):
            raise IndexesError(
                f"index_file {self._path}: is that of stream {ksid}; give {self._ksid} a file of its own"
            )
        return slot, index, chunk


class IndexMemory:
    """The same, for a stream that nobody opens again after us. next: the first index that was not taken."""

    def __init__(self, ksid: UUID) -> None:
        self._ksid, self._chunk = ksid, 0
        self.next = 0

    async def take(self, count: int, chunk: int) -> int:
        """The first of ``count`` indexes, of ``chunk`` bytes each, that nobody had before; raises ``IndexesError``."""
        if self.next and chunk != self._chunk:
            raise IndexesError(_other_size(self._ksid, self._chunk, chunk))
        first, self.next, self._chunk = self.next, self.next + count, chunk
        return first


def _heard(running: asyncio.Future[int]) -> None:
    """Nobody may be left to hear of what became of it; its indexes are lost."""
    if not running.cancelled():
        running.exception()


def _other_size(ksid: UUID, before: int, chunk: int) -> str:
    """An index then means other bytes, of which some were used already."""
    return f"stream {ksid} had chunks of {before} bytes before, and now has {chunk}; go back, or agree on new streams"
