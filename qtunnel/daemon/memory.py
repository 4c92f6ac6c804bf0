"""What must survive a restart: per peer the newest epoch, the replay times, and where its name led. Never a key.

Each line of the file is about one peer (qtunnel/daemon/records.py). So a rekey costs the disk a line, however many
peers there are; now and then, and at each start, the file is written anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from qtunnel.aside import Aside
from qtunnel.daemon.records import Header, Place, header_line, peer_line, read
from qtunnel.errors import AlreadyRunningError, ConfigError, QtunnelError
from qtunnel.files import others_may_change, write_all
from qtunnel.identity import fingerprint_of
from qtunnel.rekey.model import Memory
from qtunnel.tai64n import tai64n

FILE = "peers.json"
NEW = "peers.new"
DAMAGED = "peers.damaged"
WRITE_LIMIT = 5.0
"""Seconds for one write; a disk needs some 10 ms, one that is busy or wakes up a second or two."""
START_LIMIT = 20.0
"""Seconds for the first reading and writing: a third of what systemd allows a start. Nothing else runs meanwhile."""
LINES = 1000
"""Lines of changes before the file is written anew, and as many again for each peer as ..."""
LINES_PER_PEER = 4
"""... these: then a hub of 1,000 peers writes 1 MB of changes for each 0.3 MB of the whole."""
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
NAMED = 6
"""Peers that one event names."""


WRONG_PLACE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
}  # fmt: skip
"""Errors that another configuration ends. All others, such as a full disk, may end by themselves: the service is to be
started again, which it is not after a ``ConfigError``."""


class Job(NamedTuple):
    """Something to be written: the whole file, or a line at its end."""

    text: str
    whole: bool


class StateDirectory:
    """The file in ``node.state_dir``. Peers are kept by identity, so that a new name changes nothing.

    The directory belongs to one process: a second one would write over what the first remembers. tell: hears of a file
    that cannot be used, as (kind, detail). names: of the peers, by identity. Raises ``ConfigError`` for a directory
    that others may write or that can never be used, ``AlreadyRunningError`` where another process has it,
    ``QtunnelError`` for a disk that fails.
    """

    def __init__(
        self, directory: Path, tell: Callable[[str, str], None], names: Mapping[bytes, str] | None = None
    ) -> None:
        self._path = directory / FILE
        self._tell = tell
        self._names = {identity.hex(): name for identity, name in (names or {}).items()}
        self._peers: dict[str, Memory] = {}
        self._places: dict[str, Place] = {}
        self._header = Header()
        self._failed = False
        self._turn = asyncio.Lock()
        self._changed: dict[str, None] = {}
        self._whole_due = False
        self._lines = 0
        self._guard = threading.Lock()  # of the two that follow; nobody holds it while the disk works
        self._wanted = Job("", True)
        self._writing = False
        self._directory = self._file = -1
        self._start(directory)

    def _start(self, directory: Path) -> None:
        """Open and read it, and see that it can be written; in a thread, so that a disk that hangs is told."""
        damage: list[str] = []
        raised: list[BaseException] = []

        def work() -> None:
            try:
                self._directory = _open_directory(directory)
                self._read(damage.append)
                self._write(Job(self._document(), True))
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=work, name="state", daemon=True)
        thread.start()
        thread.join(START_LIMIT)
        if thread.is_alive():
            raise QtunnelError(
                f"node.state_dir: {directory}: the disk takes longer than {START_LIMIT:g} s; see what keeps it busy"
            )
        for detail in damage:
            self._tell("state.damaged", detail)
        if raised:
            self.close()
            error = raised[0]
            raise (_unusable(directory, error) if isinstance(error, OSError) else error) from None

    def close(self) -> None:
        """Let another process have the directory; where a write hangs, the end of this one does. Idempotent."""
        with self._guard:
            if self._directory >= 0 and not self._writing:
                os.close(self._directory)
                if self._file >= 0:
                    os.close(self._file)
                self._directory = self._file = -1

    def of(self, identity: bytes) -> Memory:
        """What is remembered of the peer with that id."""
        header = self._header
        return self._peers.get(identity.hex(), Memory(seen=header.seen, lost=header.lost))

    def place_of(self, identity: bytes) -> Place | None:
        """Where that peer's endpoint led when it was last looked up."""
        return self._places.get(identity.hex())

    async def remember(self, identity: bytes, memory: Memory) -> None:
        """Keep it, in place before this returns. A disk that fails or hangs is told once and does not stop the tunnel:
        epochs and times in memory stay right, only a later restart may cost a QKD key."""
        self._peers[identity.hex()] = memory
        await self._keep(identity)

    async def remember_place(self, identity: bytes, place: Place) -> None:
        """Keep where a peer's endpoint leads, as ``remember`` does; nothing is written where that is known."""
        if self.place_of(identity) != place:
            self._peers.setdefault(identity.hex(), self.of(identity))
            self._places[identity.hex()] = place
            await self._keep(identity)

    async def _keep(self, identity: bytes) -> None:
        self._changed[identity.hex()] = None
        try:
            async with self._turn:
                # Else one that waited too has written for all: a hub looks up a thousand names at once.
                if self._changed:
                    job = self._job()
                    self._changed = {}
                    await self._write_aside(job)
                    self._whole_due = False
            self._failed = False
        except OSError as error:
            self._whole_due = True  # nobody knows how much of it is there
            self._changed[identity.hex()] = None
            if not self._failed:
                self._tell("state.unwritable", f"{self._path}: {error.strerror}")
            self._failed = True

    def _job(self) -> Job:
        """What changed, as a line, or everything where that is due."""
        if self._whole_due or self._lines >= LINES + LINES_PER_PEER * len(self._peers):
            self._lines = 0
            return Job(self._document(), True)
        self._lines += len(self._changed)
        return Job("".join(self._line(identity) for identity in self._changed), False)

    async def _write_aside(self, job: Job) -> None:
        """In a thread, which no key waits for longer than ``WRITE_LIMIT``; while one hangs no other is begun, and it
        writes at its end what was wanted meanwhile."""
        with self._guard:
            self._wanted = job
            if self._writing:
                raise OSError(errno.ETIMEDOUT, "the disk hangs")
            self._writing = True
        loop = asyncio.get_running_loop()
        done: asyncio.Future[OSError | None] = loop.create_future()

        def tell(error: OSError | None) -> None:
            if not done.done():
                done.set_result(error)

        def write() -> None:
            error = self._write_wanted()
            with contextlib.suppress(RuntimeError):  # the daemon ended meanwhile
                loop.call_soon_threadsafe(tell, error)

        thread = None
        try:
            thread = Aside(write)
            async with asyncio.timeout(WRITE_LIMIT):
                error = await done
        except TimeoutError:
            if thread is not None and thread.give_up():
                raise self._not_begun(OSError(errno.EAGAIN, "a thread did not begin: out of memory")) from None
            raise OSError(errno.ETIMEDOUT, f"the disk takes longer than {WRITE_LIMIT:g} s") from None
        except OSError as raised:
            raise self._not_begun(raised) from None
        if error is not None:
            raise error

    def _not_begun(self, error: OSError) -> OSError:
        """Another write may be begun."""
        with self._guard:
            self._writing = False
        return error

    def _write_wanted(self) -> OSError | None:
        """Write until what is wanted is written, or was tried; what came of the last try."""
        try:
            while True:
                with self._guard:
                    job = self._wanted
                error = None
                try:
                    self._write(job)
                except OSError as raised:
                    error = raised
                with self._guard:
                    if self._wanted is job:
                        self._writing = False
                        return error
        except BaseException:
            with self._guard:
                self._writing = False
            raise

    def _read(self, damage: Callable[[str], None]) -> None:
        try:
            file = os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except FileNotFoundError:
            return
        with open(file, "rb") as opened:
            content = opened.read()
        found = read(content, tai64n(time.time_ns()), self._names)
        self._header, self._peers, self._places = found.header, found.peers, found.places
        if not found.damage:
            return
        self._keep_aside(content)
        named = [self._names.get(identity) or fingerprint_of(bytes.fromhex(identity)) for identity in found.dropped]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        whose = ", ".join(named[:NAMED]) + more or "none that is known"
        if found.anybody:
            whose += ", and whoever has no line in it"
        damage(
            f"{self._path}: {found.damage}; the file is kept as {DAMAGED}. Lost, so that no offer from before this "
            f"moment is taken from them and their next epoch begins a new chain: {whose}"
        )

    def _keep_aside(self, content: bytes) -> None:
        """A second name for the file: it stays in its place until another stands there, so that no crash in between
        makes the loss look like a first start. On a file system without hard links, a copy."""
        directory = self._directory
        with contextlib.suppress(FileNotFoundError):
            os.unlink(DAMAGED, dir_fd=directory)
        try:
            os.link(FILE, DAMAGED, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except OSError:
            self._write_new(DAMAGED, content)

    def _document(self) -> str:
        return header_line(self._header) + "".join(self._line(identity) for identity in self._peers)

    def _line(self, identity: str) -> str:
        return peer_line(identity, self._peers[identity], self._places.get(identity))

    def _write(self, job: Job) -> None:
        if not job.whole:
            write_all(self._file, job.text.encode())
            os.fdatasync(self._file)
            return
        directory = self._directory
        with contextlib.suppress(FileNotFoundError):
            os.unlink(NEW, dir_fd=directory)  # of a run that was cut short
        self._write_new(NEW, job.text.encode())
        os.replace(NEW, FILE, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)  # and so that the name leads to it
        before, self._file = self._file, os.open(FILE, _APPEND, dir_fd=directory)
        if before >= 0:
            os.close(before)

    def _write_new(self, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=self._directory), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # an empty file after a power cut would count as a lost chain


def _open_directory(directory: Path) -> int:
    """The directory, made where it is missing, and locked for as long as it is open."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(directory, error) from None
    try:
        found = os.fstat(opened)
        if others_may_change(found):
            raise ConfigError(
                f"node.state_dir: {directory}: others may write there; give it to the user of qtunnel alone "
                f"(chown, chmod 700 {directory})"
            )
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"node.state_dir: {directory}: in use by another qtunnel; give each gateway a directory of its own, or "
                "stop the other one"
            ) from None
        return opened
    except BaseException:
        os.close(opened)
        raise


def _unusable(directory: Path, error: OSError) -> QtunnelError:
    words = error.strerror or str(error)
    if error.errno in WRONG_PLACE:
        return ConfigError(f"node.state_dir: {directory}: {words}; give qtunnel a directory that it may write")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return QtunnelError(f"node.state_dir: {directory}: {words}; make room there")
    return QtunnelError(f"node.state_dir: {directory}: {words}; see to that disk, or give qtunnel another directory")
