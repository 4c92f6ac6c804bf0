"""Driver ``file``: pads, files of random bytes that were carried to both ends by hand, each byte used once.

Both ends have the same file. One of them is side ``a`` of it, the other side ``b``, and each draws keys from its own
half; the key_ID, ``PADID:OFFSET``, says where the other end finds the same bytes. docs/sources/file.md has the rest.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationInfo, model_validator

from qtunnel.aside import aside
from qtunnel.config.types import ConfigPath, Section, resolve
from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.drivers.file_format import Side
from qtunnel.drivers.file_ledger import (
    MAX_KEY,
    MIN_KEY,
    Ledger,
    PadDiskError,
    PadRefusalError,
    PadUsedUpError,
)
from qtunnel.drivers.file_open import DEFAULT_LEDGER, OpenPad, PadInUseError, check_pad
from qtunnel.drivers.file_pad import Pad, Step, silent
from qtunnel.drivers.registry import Driver
from qtunnel.errors import (
    ConfigError,
    FilePermissionError,
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
    PadError,
)
from qtunnel.keys.source import KeyRef, SourceStatus
from qtunnel.secret import Secret

DISK_LIMIT = 10.0
"""Seconds for one call. It syncs twice: that takes a disk some 20 ms, a stick a tenth of a second, one that wakes up
two or three."""
TURN_LIMIT = 10.0
"""Seconds that a call waits for those before it; with ``DISK_LIMIT`` that is within the 25 s that the daemon gives."""
MARK_SIZE = 16

_KEY_ID = re.compile(r"([0-9a-f]{32}):(\d{1,15})", re.ASCII)
Result = TypeVar("Result")


class Options(Section):
    """What stands under ``key_sources.<name>``. ledger: the directory of the ledgers, on a disk that stays in this
    machine and is not put back from backups."""

    ledger: ConfigPath = DEFAULT_LEDGER


class PeerOptions(Section):
    """What stands under ``peers[].qkd.sources.<name>``: this end's copy of the pad, and which half is this end's."""

    pad: ConfigPath = Field(examples=["bob.pad"])
    side: Literal["a", "b"] = Field(examples=["a"])

    @model_validator(mode="after")
    def _of_one_peer(self, info: ValidationInfo) -> PeerOptions:
        """Two peers with copies of one pad would have the same keys."""
        if sum(path == self.pad for path in _pads_in(info.context)) > 1:
            raise ValueError(
                "this pad stands here twice; each peer needs one of its own, or they would know each other's keys"
            )
        return self


class Shared:
    """A pad that this process has open, for all who use it: after a reload the former source still does for a while.

    Opened with the first call, and let go with the last user.
    """

    _all: ClassVar[dict[tuple[Path, Side, Path], Shared]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path, side: Side, ledger: Path, step: Step = silent) -> None:
        self._place, self._step = (path, side, ledger), step
        self._users = 0
        self._retired = False
        self._turn = threading.Lock()
        self._open: OpenPad | None = None

    @classmethod
    def of(cls, path: Path, side: Side, ledger: Path) -> Shared:
        """For one more user."""
        with cls._guard:
            shared = cls._all.get((path, side, ledger))
            if shared is None:
                shared = cls._all[path, side, ledger] = cls(path, side, ledger)
            shared._users += 1
            return shared

    def release(self) -> None:
        """One user less. Does not wait for a call under way."""
        with self._guard:
            self._users -= 1
            if self._users > 0:
                return
            self._retired = True
            if self._all.get(self._place) is self:
                del self._all[self._place]
        self._drop_if_retired()

    def use(self, work: Callable[[Pad], Result]) -> Result:
        """What ``work`` makes of the pad, which is opened where it is not, or not any more. Blocks."""
        try:
            with self._turn:
                if self._open is not None and not self._open.stands():
                    self._drop()
                if self._open is None:
                    self._open = OpenPad(*self._place, os.urandom(MARK_SIZE), self._step)
                pad = self._open.pad
                try:
                    return work(pad)
                finally:
                    if pad.broken:
                        self._drop()
        finally:
            self._drop_if_retired()

    def _drop(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened.close()

    def _drop_if_retired(self) -> None:
        # Where a call is under way it does this at its own end.
        if self._retired and self._turn.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._turn.release()


class Hub:
    """The pads of one source."""

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.options = options
        self._sources: weakref.WeakSet[Source] = weakref.WeakSet()

    def for_peer(self, options: PeerOptions) -> Source:
        """Looks at the pad, and leaves it as it is. Raises ``ConfigError`` or ``FilePermissionError``."""
        try:
            check_pad(options.pad)
        except PadError as error:
            raise ConfigError(str(error)) from None
        source = Source(self.name, options, Shared.of(options.pad, options.side, self.options.ledger))
        self._sources.add(source)
        return source

    async def close(self) -> None:
        for source in tuple(self._sources):
            source.close()


class Source:
    """The pad that is shared with one peer. A ``qtunnel.keys.source.KeySource``."""

    def __init__(self, name: str, options: PeerOptions, shared: Shared) -> None:
        self._name = name
        self._place = f"{name} ({options.pad})"
        self._shared = shared
        self._let_go = weakref.finalize(self, shared.release)
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._name

    @property
    def description(self) -> str:
        return f"file:{self._name}"

    def close(self) -> None:
        """Let others have the pad, once no call is under way any more. Idempotent."""
        self._let_go()

    async def status(self) -> SourceStatus:
        """What is left, in keys of 32 bytes. Goes on overwriting what was lost."""

        def look(pad: Pad) -> Ledger:
            pad.tidy()
            return pad.ledger

        ledger = await self._do("status", look)
        left = ledger.left // QKD_KEY_SIZE
        # Without the number of keys that it could hold: a full pad is no reason to rekey more often.
        return SourceStatus(healthy=left > 0, detail=words(ledger), stored_keys=left, key_size=QKD_KEY_SIZE)

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        """The next ``size`` bytes of this end's half."""
        self._check_size("get_key", size)

        def take(pad: Pad) -> tuple[KeyRef, Secret]:
            offset, key = pad.take(size)
            return KeyRef(self._name, f"{pad.info.pad_id}:{offset}", size), key

        return await self._do("get_key", take, consumes=True)

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        """The bytes that the peer drew from its half."""
        call = "get_key_by_id"
        self._check_size(call, ref.size)
        found = _KEY_ID.fullmatch(ref.key_id)
        if found is None:
            raise KeyNotFoundError(self._place, call, "the key_ID is not one of a pad; has the peer the same driver?")

        def give(pad: Pad) -> Secret:
            if pad.info.pad_id != found[1]:
                raise PadRefusalError(
                    f"the peer uses pad {found[1]}, and this one is {pad.info.pad_id}: both ends need copies of one pad"
                )
            return pad.give(int(found[2]), ref.size)

        return await self._do(call, give, consumes=True)

    def _check_size(self, call: str, size: int) -> None:
        if not MIN_KEY <= size <= MAX_KEY:
            raise KeyRequestRejectedError(
                self._place, call, f"a key of {size} bytes; a pad gives keys of {MIN_KEY} to {MAX_KEY} bytes"
            )

    async def _do(self, call: str, work: Callable[[Pad], Result], *, consumes: bool = False) -> Result:
        """In a thread, one at a time. A disk that hangs holds the thread and this source, and nothing else."""
        if not self._let_go.alive:
            raise KeySourceUnreachableError(self._place, call, "the source is closed")
        try:
            async with asyncio.timeout(TURN_LIMIT):
                await self._turn.acquire()
        except TimeoutError:
            raise KeySourceTimeoutError(
                self._place, call, f"not asked: the disk is busy with calls from {TURN_LIMIT:g} s ago"
            ) from None
        running = asyncio.ensure_future(aside(lambda: self._shared.use(work)))
        # Not before the thread is done, or threads would heap up behind a disk that hangs.
        running.add_done_callback(self._over)
        done, _ = await asyncio.wait({running}, timeout=DISK_LIMIT)
        if not done:
            raise KeySourceTimeoutError(
                self._place, call, f"the disk takes longer than {DISK_LIMIT:g} s", lost=int(consumes)
            )
        try:
            return running.result()
        except (PadError, ConfigError, FilePermissionError, OSError) as error:
            raise self._failure(call, error) from None

    def _over(self, done: asyncio.Future[Any]) -> None:
        self._turn.release()
        if not done.cancelled():
            done.exception()  # nobody may be left to hear of it

    def _failure(self, call: str, error: Exception) -> KeySourceError:
        """The named error of what went wrong; words that begin with the path do not repeat it."""
        said = str(error).removeprefix(f"{self._place.partition('(')[2].removesuffix(')')}: ")
        if isinstance(error, OSError):
            return KeySourceUnavailableError(self._place, call, (error.strerror or said).lower())
        lost = error.lost if isinstance(error, PadError) else 0
        kinds: dict[type[Exception], type[KeySourceError]] = {
            PadUsedUpError: KeySourceUnavailableError,
            PadInUseError: KeySourceUnavailableError,
            PadDiskError: KeySourceUnavailableError,
            PadRefusalError: KeyNotFoundError,
            FilePermissionError: KeySourceUnauthorizedError,
            ConfigError: KeySourceUnreachableError,
        }
        kind = kinds.get(type(error), KeySourceProtocolError)
        return kind(self._place, call, said, lost=lost)


def words(ledger: Ledger) -> str:
    """A ledger in a line for people: what is left, and what was odd."""
    start, stop = ledger.info.lane(ledger.side)
    percent = 100 * ledger.left / (stop - start) if stop > start else 0
    told = [f"side {ledger.side}: {ledger.left} bytes left ({percent:.3g} %)", f"the peer's {ledger.peer_left}"]
    if ledger.lost:
        told.append(f"{ledger.lost} that the peer skipped are lost")
    if ledger.came_back:
        told.append("used bytes had come back (an older copy, or a disk that loses writes) and were overwritten again")
    return ", ".join(told)


def _pads_in(context: Any) -> list[Path]:
    """Every pad that a configuration's peers name, as often as they do."""
    document = context.get("document") if isinstance(context, dict) else None
    peers = document.get("peers") if isinstance(document, dict) else None
    found = []
    for peer in peers if isinstance(peers, list) else ():
        qkd = peer.get("qkd") if isinstance(peer, dict) else None
        sources = qkd.get("sources") if isinstance(qkd, dict) else None
        for options in sources.values() if isinstance(sources, dict) else ():
            if isinstance(options, dict) and isinstance(options.get("pad"), str):
                found.append(resolve(Path(options["pad"]), context))
    return found


def _open(name: str, options: Options) -> Hub:
    return Hub(name, options)


DRIVER = Driver("file", Options, PeerOptions, _open, warns=False)
