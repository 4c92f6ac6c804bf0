"""The audit log as it is written: records in, lines on the disk, a signed head kept elsewhere. Without a thread."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qtunnel.audit.chain import GAP, Chain, End, Found
from qtunnel.auditlog.files import (
    HEAD_FILE,
    LogFileWriter,
    files_of,
    keep_head,
    read_head,
    rotated_name,
    sync_directory,
)
from qtunnel.auditlog.times import text_of
from qtunnel.crypto.signature import SigningKey
from qtunnel.errors import AuditError

HEAD_TIME = 600.0
"""Seconds after which what is new gets a signature into the log, however little it is: some 150 of them a day have
0.7 MB. The state directory has one of each sync."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something to be recorded. time: Unix seconds. fields: of JSON's types."""

    time: float
    kind: str
    peer: str | None
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LogOptions:
    """path: of the file that is written to; rotate: bytes after which another begins; state: directory of the kept
    head; node, version: what the first line of a file says."""

    path: Path
    rotate: int
    state: Path
    node: str
    version: str


class AuditLog:
    """One gateway's log. After an ``OSError`` any call may be repeated: what was not written is still to be written."""

    def __init__(self, options: LogOptions, key: SigningKey, clock: Callable[[], float]) -> None:
        """clock: Unix seconds."""
        self._options, self._clock = options, clock
        self._public, self._sign = key.public, key.sign
        self._file: LogFileWriter | None = None
        self._chain: Chain | None = None
        self._rest = b""
        self._kept = End()
        self._signed_at = clock()

    @property
    def path(self) -> Path:
        return self._options.path

    @property
    def records(self) -> int:
        """Number of the newest record."""
        return 0 if self._chain is None else self._chain.end.seq

    @property
    def unwritten(self) -> int:
        """Records that were added and are not on the disk yet."""
        return self._rest.count(b"\n")

    def open(self) -> None:
        """Find the end of the chain, and go on there; to be called before each batch, as somebody may have taken the
        file away: that is an ``AuditError``, once. Raises ``OSError``, ``AuditError``, ``AlreadyRunningError``."""
        if self._file is not None and not self._rest and self._file.disturbed:
            self.close()
            raise AuditError(
                f"audit log {self._options.path}: was moved, removed or changed by somebody else while it was written "
                "to; it is gone on with as it is now: see qtunnel audit verify"
            )
        if self._file is not None:
            return
        options = self._options
        kept = self._read_kept()
        file = LogFileWriter(options.path)
        try:
            self._go_on(file, kept)
        except BaseException:
            file.close()
            self.close()
            raise

    def _read_kept(self) -> End:
        path = self._options.state / HEAD_FILE
        if not os.path.lexists(path):
            return End()
        head = read_head(path)
        if head.public == self._public and not head.is_genuine:
            raise AuditError(f"{path}: was changed: its signature does not hold; verify the log, then move it away")
        return End(head.seq, head.digest)

    def _go_on(self, file: LogFileWriter, kept: End) -> None:
        options, found, now = self._options, file.found or Found(), text_of(self._clock())
        before = ""
        if not found.first and (older := files_of(options.path)[:-1]):  # a crash came before this one was begun
            last = LogFileWriter(older[-1])
            last.close()
            before, found = older[-1].name, replace(last.found or Found(), torn=found.torn)
        begun = file.first > 0
        chain = self._chain = Chain(options.node, self._public, self._sign, found.end)
        another = begun and found.key_name not in ("", chain.key_name)
        if found.first and not found.signed:  # a crash came before it
            chain.owe_head()
        self._kept, self._file, self._rest = kept, file, b""
        if found.unfinished and begun:
            self._rest = b"\n"
        if not begun:
            file.first = max(chain.end.seq, kept.seq) + 1
            if kept.seq > chain.end.seq:  # what came before was taken away: the number tells
                chain.end = kept
        if found.torn:
            self._rest += chain.torn(now, found.torn)
        if begun and (kept.seq > found.end.seq or (kept.seq == found.end.seq and kept.digest != found.end.digest)):
            self._rest += chain.missing(now, kept)
        if not begun or not found.key_name:  # a crash may have cut the first line itself short
            self._rest += self._opening(chain, before)
        if another:
            self._write()
            self._rotate(signed=False)  # this key's signatures belong into files that name it
            chain.owe_head()

    def _opening(self, chain: Chain, before: str) -> bytes:
        """The first line of a file."""
        public = base64.b64encode(self._public).decode()
        return chain.open(text_of(self._clock()), self._options.version, before, public)

    def add(self, entries: Iterable[Entry]) -> None:
        """What is to be recorded, in its order; however much it is, no more than ``HEAD_AFTER`` without a signature."""
        assert self._chain is not None
        for its in entries:
            if self._chain.head_due:
                self.sign()
            self._rest += self._chain.append(text_of(its.time), its.kind, its.peer, its.fields)

    def gap(self, number: int, since: float) -> None:
        """So many things could not be recorded, the first at ``since``, in Unix seconds."""
        self.add([Entry(self._clock(), GAP, None, {"number": number, "since": text_of(since)})])

    def sync(self) -> None:
        """All of it onto the disk, and a signed head beside the state; another file where this one is full. Raises
        ``OSError``."""
        assert self._file is not None
        assert self._chain is not None
        now = self._clock()
        if self._chain.head_due or (self._chain.unsigned and now - self._signed_at >= HEAD_TIME):
            self.sign()
        self._write()
        if self._file.size >= self._options.rotate:
            self._rotate()

    def sign(self) -> None:
        """A head into the log, with the next ``sync``."""
        assert self._chain is not None
        self._rest += self._chain.head(text_of(self._clock()))
        self._signed_at = self._clock()

    def _write(self) -> None:
        file, chain = self._file, self._chain
        assert file is not None
        assert chain is not None
        while self._rest:
            self._rest = self._rest[file.write(self._rest) :]
        file.sync()
        if chain.end != self._kept:
            keep_head(self._options.state / HEAD_FILE, chain.signed_end(text_of(self._clock()), chain.end))
            self._kept = chain.end

    def _rotate(self, *, signed: bool = True) -> None:
        file, chain, options = self._file, self._chain, self._options
        assert file is not None
        assert chain is not None
        if signed:
            self.sign()
        self._write()
        file.move_away()
        self._file = None
        new = LogFileWriter(options.path)
        new.first = chain.end.seq + 1
        self._rest = self._opening(chain, rotated_name(options.path, file.first).name)
        self._file = new
        self._write()
        sync_directory(options.path.parent)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
