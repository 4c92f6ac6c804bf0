"""Keys agreed ahead on disk: in the state directory one file for each peer, sealed, and replaced as a whole.

The file of before stays whole until the new one is whole: written beside it, synced, renamed, and the directory synced.
Whoever restarts has the one or the other. Which of them it may use is up to the state file, which knows the newest
generation: a key that was taken out is used only after the file without it is in place, so any file with a smaller
generation than the one remembered, as from a backup, is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from qtunnel.aside import aside
from qtunnel.daemon.clock import now
from qtunnel.daemon.memory import StateDirectory
from qtunnel.daemon.notices import Publish
from qtunnel.errors import StoreError
from qtunnel.files import write_all
from qtunnel.keys.stored import MAX_FILE, SALT_SIZE, seal, unseal
from qtunnel.rekey.ahead import NOTHING_KEPT, Kept
from qtunnel.rekey.model import Keep, Memory, Notice, PeerSettings
from qtunnel.rekey.node import RekeyNode

PREFIX = "reservoir-"
_NEW = ".new"
_NAME_DIGITS = 32
"""Hexadecimal digits of a peer's identity in its file's name: 128 bits, which two never have in common."""
WRITE_LIMIT = 5.0
"""Seconds for one file; a disk needs some 10 ms, one that is busy or wakes up a second or two."""
READ_LIMIT = 20.0
"""The same at the start, where what comes too late is lost, and nothing else runs yet."""


def file_name(peer: bytes) -> str:
    """peer: the id of its identity."""
    return PREFIX + peer.hex()[:_NAME_DIGITS]


class Stores:
    """The files of all peers, in a directory that belongs to this process (``StateDirectory``).

    publish: hears of a file that cannot be used or written. step: is told the name of every step on the disk.
    """

    def __init__(self, directory: Path, publish: Publish, step: Callable[[str], None] = lambda name: None) -> None:
        self._directory, self._publish, self._step = directory, publish, step
        self._busy: set[str] = set()
        self._guard = threading.Lock()  # of ``_busy``; nobody holds it while the disk works
        self._failed = False
        self._withheld: set[str] = set()

    def withheld(self, peer: str) -> bool:
        """Whether nothing may be sent to that peer: it could rest on a key that a restart would bring back."""
        return peer in self._withheld

    # -- at the start

    async def enter(
        self, core: RekeyNode, peers: Iterable[PeerSettings], memory: StateDirectory, among: int = 1
    ) -> None:
        """Add peers to the core, with what is remembered of them and what may be used of their files."""
        for settings in peers:
            before = memory.of(settings.public.id)
            kept = await self.load(settings, before, core.local.public.id)
            core.add_peer(settings, before, now(), among, kept)

    async def load(self, settings: PeerSettings, memory: Memory, own: bytes) -> Kept:
        """What may be used of a peer's file; a file that may not be is told. own: the id of our identity."""
        key = settings.store_key
        if key is None:
            return NOTHING_KEPT
        path = self._directory / file_name(settings.public.id)
        try:
            async with asyncio.timeout(READ_LIMIT):
                content = await aside(lambda: _read(path))
            generation, image = unseal(content, key, (own, settings.public.id))
            if not memory.stored or generation < memory.stored:
                image.wipe()
                known = "the state file knows of a newer one" if memory.stored else "the state file knows of none"
                raise StoreError(f"it may be an old copy, whose keys were used since: {known}")
            return Kept(image)
        except FileNotFoundError:
            if not memory.stored or not memory.held:
                return NOTHING_KEPT
            problem = "it is gone"
        except TimeoutError:
            problem = f"the disk takes longer than {READ_LIMIT:g} s"
        except OSError as error:
            problem = f"it cannot be read: {(error.strerror or str(error)).lower()}"
        except StoreError as error:
            problem = str(error)
        self._publish("reservoir.refused", settings.name, detail=f"{path}: {problem}")
        return Kept(None, f"the daemon was started anew, and their file cannot be used: {problem}")

    async def sweep(self, kept: Iterable[PeerSettings]) -> None:
        """Remove what is of no peer that keeps its keys on disk."""
        names = {file_name(its.public.id) for its in kept if its.store_key is not None}
        await aside(lambda: self._sweep(names))

    def _sweep(self, names: Collection[str]) -> None:
        with contextlib.suppress(OSError):  # what stays is too old for the state file, once there is a newer one
            for path in self._directory.glob(f"{PREFIX}*"):
                if path.name not in names and path.name.removesuffix(_NEW) not in self._busy:
                    path.unlink(missing_ok=True)

    # -- while it runs

    async def keep(self, effect: Keep) -> bool:
        """Carry it out; False where ``RekeyNode.unkept`` has to be called."""
        self._withheld.discard(effect.peer)
        error, certain = await self._done(effect)
        if error is None:
            self._failed = False
            return True
        if not self._failed:
            path = self._directory / file_name(effect.ends[1])
            self._publish("state.unwritable", None, detail=f"{path}: {(error.strerror or str(error)).lower()}")
        self._failed = True
        if certain or not effect.used:
            return True
        self._withheld.add(effect.peer)
        return False

    async def _done(self, effect: Keep) -> tuple[OSError | None, bool]:
        """What failed, and whether the file of before is certainly gone. In a thread that no key waits for longer than
        ``WRITE_LIMIT``; while one hangs no other is begun for that peer, or the older could come after the newer."""
        name = file_name(effect.ends[1])
        with self._guard:
            hangs = name in self._busy
            self._busy.add(name)
        if hangs:
            _wipe(effect)
            return OSError(errno.ETIMEDOUT, "the disk hangs"), False
        try:
            async with asyncio.timeout(WRITE_LIMIT):
                return await aside(lambda: self._work(name, effect))
        except TimeoutError:
            return OSError(errno.ETIMEDOUT, f"the disk takes longer than {WRITE_LIMIT:g} s"), False
        except OSError as error:  # it was not begun
            with self._guard:
                self._busy.discard(name)
            _wipe(effect)
            return error, False

    def _work(self, name: str, effect: Keep) -> tuple[OSError | None, bool]:
        try:
            if effect.image is None or effect.key is None:
                self._remove(name)
            else:
                salt = os.urandom(SALT_SIZE)
                self._write(name, seal(effect.image, effect.generation, effect.key, salt, effect.ends))
            return None, True
        except OSError as error:
            # A disk that is full still lets go of files.
            try:
                self._remove(name)
            except OSError:
                return error, False
            return error, True
        finally:
            _wipe(effect)
            with self._guard:
                self._busy.discard(name)

    def _write(self, name: str, content: bytes) -> None:
        path, new = self._directory / name, self._directory / f"{name}{_NEW}"
        new.unlink(missing_ok=True)  # of a run that was cut short
        self._step("cleared")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, 0o600), "wb", buffering=0) as file:
            half = len(content) // 2
            for part in (content[:half], content[half:]):
                write_all(file.fileno(), part)
                self._step("written in part")
            os.fsync(file.fileno())
        self._step("synced")
        os.replace(new, path)
        self._step("renamed")
        self._sync()

    def _remove(self, name: str) -> None:
        for path in (self._directory / name, self._directory / f"{name}{_NEW}"):
            path.unlink(missing_ok=True)
            self._step("removed")
        self._sync()

    def _sync(self) -> None:
        """So that the names lead to where they should after a power cut, too."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._step("directory synced")


async def take_leave(core: RekeyNode, memory: StateDirectory | None, tell: Callable[[Notice], None]) -> None:
    """At a clean end: what is in memory alone is told as lost now, and not once more at the next start."""
    changed = []
    for name, peer in list(core.peers.items()):
        kept = peer.context.memory
        if peer.settings.store_key is None and kept.held:
            for source, number in kept.held:
                fields = {"source": source, "number": number, "detail": "the daemon stops"}
                tell(Notice(name, "reservoir.lost", fields))
            changed.append((peer.settings.public.id, replace(kept, held=())))
        core.remove_peer(name)
    if memory is not None:
        await asyncio.gather(*(memory.remember(*change) for change in changed))


def _read(path: Path) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise StoreError(f"it has more than {MAX_FILE >> 20} MiB")
    return content


def _wipe(effect: Keep) -> None:
    if effect.image is not None:
        effect.image.wipe()
