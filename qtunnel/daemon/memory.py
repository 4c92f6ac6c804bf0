"""What must survive a restart: per peer the newest epoch and the replay times. Never a key."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from qtunnel.errors import ConfigError
from qtunnel.rekey.model import Memory

FILE = "peers.json"
NEW = "peers.new"
DAMAGED = "peers.damaged"
WRITE_LIMIT = 5.0
"""Seconds for one write; a disk needs some 10 ms, one that is busy or wakes up a second or two."""
VERSION = 1
TIME_SIZE = 12
EPOCH_BOUND = 1 << 62
"""Epochs from here on can only come from a damaged file; half of what the wire format can hold is left for jumps."""


class StateDirectory:
    """The file in ``node.state_dir``. Peers are kept by identity, so that a new name changes nothing.

    The directory belongs to one process: a second one would write over what the first remembers. tell: hears of a file
    that cannot be used, as (kind, detail). Raises ``ConfigError`` for a directory that others use or may write.
    """

    def __init__(self, directory: Path, tell: Callable[[str, str], None]) -> None:
        self._path = directory / FILE
        self._tell = tell
        self._peers: dict[str, Memory] = {}
        self._lost = False
        self._failed = False
        self._writing = threading.Lock()
        self._directory = _open_directory(directory)
        try:
            self._peers = self._read()
            self._write(self._document())
        except OSError as error:
            self.close()
            raise _unusable(directory, error) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process have the directory; where a write hangs, the end of this one does. Idempotent."""
        if self._directory >= 0 and self._writing.acquire(blocking=False):
            os.close(self._directory)
            self._directory = -1
            self._writing.release()

    def of(self, identity: bytes) -> Memory:
        """What is remembered of the peer with that id."""
        return self._peers.get(identity.hex(), Memory(lost=self._lost))

    async def remember(self, identity: bytes, memory: Memory) -> None:
        """Keep it, in place before this returns. A disk that fails or hangs is told once and does not stop the tunnel:
        epochs and times in memory stay right, only a later restart may cost a QKD key."""
        self._peers[identity.hex()] = memory
        try:
            await self._write_aside(self._document())
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._tell("state.unwritable", f"{self._path}: {error.strerror}")
            self._failed = True

    async def _write_aside(self, document: str) -> None:
        """In a thread, which no key waits for longer than ``WRITE_LIMIT``; while one hangs no other is begun."""
        if not self._writing.acquire(blocking=False):
            raise OSError(errno.ETIMEDOUT, "the disk hangs")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[OSError | None] = loop.create_future()

        def tell(error: OSError | None) -> None:
            if not done.cancelled():
                done.set_result(error)

        def write() -> None:
            error = None
            try:
                self._write(document)
            except OSError as raised:
                error = raised
            finally:
                self._writing.release()
            with contextlib.suppress(RuntimeError):  # the daemon ended meanwhile
                loop.call_soon_threadsafe(tell, error)

        # Not of a pool: at the end of the process nobody may wait for a disk that hangs.
        threading.Thread(target=write, name="state", daemon=True).start()
        try:
            async with asyncio.timeout(WRITE_LIMIT):
                error = await done
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, f"the disk takes longer than {WRITE_LIMIT:g} s") from None
        if error is not None:
            raise error

    def _read(self) -> dict[str, Memory]:
        try:
            file = os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except FileNotFoundError:
            return {}
        try:
            with open(file, encoding="utf-8") as content:
                document = json.load(content)
            if document["version"] != VERSION:
                raise ValueError(f"version {document['version']}")
            peers = {identity: _memory(entry) for identity, entry in document["peers"].items()}
            self._lost = bool(document.get("lost", False))
            return peers
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # A second name for it: the file stays in its place until another stands there, so that no crash in between
            # makes the loss look like a first start.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(DAMAGED, dir_fd=self._directory)
            os.link(FILE, DAMAGED, src_dir_fd=self._directory, dst_dir_fd=self._directory, follow_symlinks=False)
            self._tell("state.damaged", f"{self._path} cannot be read ({error}); kept as {DAMAGED}, starting anew")
            self._lost = True
            return {}

    def _document(self) -> str:
        peers = {
            identity: {
                "epoch": memory.epoch,
                "proposed": memory.proposed,
                "sent": memory.sent.hex(),
                "seen": memory.seen.hex(),
                "lost": memory.lost,
            }
            for identity, memory in self._peers.items()
        }
        return json.dumps({"version": VERSION, "lost": self._lost, "peers": peers})

    def _write(self, document: str) -> None:
        directory = self._directory
        with contextlib.suppress(FileNotFoundError):
            os.unlink(NEW, dir_fd=directory)  # of a run that was cut short
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(NEW, flags, 0o600, dir_fd=directory), "w", encoding="utf-8") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())  # an empty file after a power cut would count as a lost chain
        os.replace(NEW, FILE, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)  # and so that the name leads to it


def _open_directory(directory: Path) -> int:
    """The directory, made where it is missing, and locked for as long as it is open."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(directory, error) from None
    try:
        found = os.fstat(opened)
        if found.st_mode & 0o022 or found.st_uid not in (0, os.geteuid()):
            raise ConfigError(
                f"node.state_dir: {directory}: others may write there; give it to the user of qtunnel alone "
                f"(chown, chmod 700 {directory})"
            )
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"node.state_dir: {directory}: in use by another qtunnel; give each gateway a directory of its own, or "
                "stop the other one"
            ) from None
        return opened
    except BaseException:
        os.close(opened)
        raise


def _unusable(directory: Path, error: OSError) -> ConfigError:
    return ConfigError(f"node.state_dir: {directory}: {error.strerror}; give qtunnel a directory that it may write")


def _memory(entry: dict[str, object]) -> Memory:
    epoch, proposed = entry["epoch"], entry.get("proposed", 0)
    sent, seen = bytes.fromhex(str(entry["sent"])), bytes.fromhex(str(entry["seen"]))
    for number in (epoch, proposed):
        if type(number) is not int or not 0 <= number < EPOCH_BOUND:
            raise ValueError("an epoch out of range")
    if len(sent) != TIME_SIZE or len(seen) != TIME_SIZE:
        raise ValueError("a replay time of the wrong size")
    assert isinstance(epoch, int)
    assert isinstance(proposed, int)
    return Memory(epoch, sent, seen, proposed, bool(entry.get("lost", False)))
