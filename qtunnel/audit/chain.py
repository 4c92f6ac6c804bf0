"""The end of the chain that is written to: what the next record is, and when a head is due."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from qtunnel.audit.head import HEAD_KIND, Sign, SignedHead, head_fields, key_name
from qtunnel.audit.record import GENESIS, Record, RecordError, encode, parse

OPENED = "log.opened"
"""The first record of each file. Fields: format, node, key (base64), and before: the file that it goes on from."""
TORN = "log.torn"
"""Says what the line before it is: the beginning of a record that a crash cut short. Fields: bytes, sha256."""
MISSING = "log.missing"
"""Says that records were here which are gone, or are others: at a start the file did not end as the state directory has
kept it. Fields: from, to."""
GAP = "log.gap"
"""Says that there were things to record, and no room: number, since."""
ALIVE = "log.alive"
"""Says that the daemon ran, at a time when it had nothing else to say."""
OWN_KINDS = frozenset({OPENED, TORN, MISSING, GAP, ALIVE, HEAD_KIND})

HEAD_AFTER = 256
"""Records after which a head is signed into the log: a signature has as many bytes as some ten records, so they cost
4 % of the log, and a change without any key is narrowed down to that many lines."""
UNCOUNTED = frozenset({OPENED, TORN, MISSING})
"""Records that may stand between two heads besides: of a start, and of crashes while it was under way."""


@dataclass(frozen=True, slots=True)
class End:
    """Where a chain ends: number and hash of its last record."""

    seq: int = 0
    digest: bytes = GENESIS


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds that is gone on with. first: number of its first record, 0 where it has none. end: of its last
    one. key_name: of the key that its beginning names, empty where it has none. torn: what stands behind its last
    line's end, and is no record. unfinished: its last line is a whole record without its end. signed: it is a head."""

    first: int = 0
    end: End = End()
    key_name: str = ""
    torn: bytes = b""
    unfinished: bool = False
    signed: bool = False


def examine(start: bytes, tail: bytes) -> Found:
    """What a file holds. start: its beginning; tail: its end, whose first line may be cut off at its front. Both are
    all of it where it is short.

    Raises ``RecordError`` where no whole record is among them, unless all that there is is one line without an end.
    """
    opened = list(_records(start.split(b"\n")))
    if not opened:
        if b"\n" in tail or not tail:
            raise RecordError("has no record in it: it is no audit log, or was changed")
        return Found(torn=tail)
    first = opened[0].seq
    name = next((str(its.fields.get("key_name", "")) for its in opened if its.kind == OPENED), "")
    lines = tail.split(b"\n")
    rest = lines.pop()
    if rest and (last := next(_records([rest]), None)) is not None:
        return Found(first, End(last.seq, last.hash), name, unfinished=True, signed=last.kind == HEAD_KIND)
    last = next(_records(reversed(lines)), None)
    if last is None:
        raise RecordError("has no record at its end: it was changed")
    return Found(first, End(last.seq, last.hash), name, rest, signed=last.kind == HEAD_KIND)


def _records(lines: Iterable[bytes]) -> Iterator[Record]:
    for line in lines:
        with suppress(RecordError):
            yield parse(line)


class Chain:
    """Makes lines, each of which follows from the one before. sign: by the node's key; public: that key, 1952 bytes."""

    def __init__(self, node: str, public: bytes, sign: Sign, end: End = End()) -> None:  # immutable
        self._node, self._public, self._sign = node, public, sign
        self.end = end
        self._signed = end.seq

    @property
    def key_name(self) -> str:
        return key_name(self._public)

    @property
    def head_due(self) -> bool:
        return self.end.seq - self._signed >= HEAD_AFTER

    def owe_head(self) -> None:
        """How many records at the end have no signature is not known: one is due."""
        self._signed = self.end.seq - HEAD_AFTER

    @property
    def unsigned(self) -> int:
        """Records since the last head in the log."""
        return self.end.seq - self._signed

    def append(self, time: str, kind: str, peer: str | None, fields: Mapping[str, Any]) -> bytes:
        """The next line, with its end."""
        line, digest = encode(self.end.seq + 1, time, kind, peer, fields, self.end.digest)
        self.end = End(self.end.seq + 1, digest)
        return line + b"\n"

    def open(self, time: str, version: str, before: str, public_text: str) -> bytes:
        """The first line of a file. before: name of the file that it goes on from, empty for none."""
        fields = {"format": 1, "node": self._node, "qtunnel": version, "before": before, "key_name": self.key_name,
                  "key": public_text}  # fmt: skip
        return self.append(time, OPENED, None, fields)

    def torn(self, time: str, rest: bytes) -> bytes:
        """Ends a line that a crash cut short, and says so in the next."""
        fields = {"bytes": len(rest), "sha256": hashlib.sha256(rest).hexdigest()}
        return b"\n" + self.append(time, TORN, None, fields)

    def missing(self, time: str, kept: End) -> bytes:
        """Goes on behind a head that was kept elsewhere, where the log does not end with it: the hole stays visible."""
        fields = {"from": min(self.end.seq + 1, kept.seq), "to": kept.seq}
        self.end = kept
        return self.append(time, MISSING, None, fields)

    def head(self, time: str) -> bytes:
        """A line that signs all before it; nothing where there is nothing new."""
        if not self.unsigned:
            return b""
        line = self.append(time, HEAD_KIND, None, head_fields(self.end.seq, time, self.end.digest, self._sign))
        self._signed = self.end.seq
        return line

    def signed_end(self, time: str, end: End) -> SignedHead:
        """A head to be kept elsewhere."""
        return SignedHead.make(self._node, end.seq, time, end.digest, self._public, self._sign)


def explains(torn: bytes, fields: Mapping[str, Any]) -> bool:
    """Whether a record ``TORN`` with these fields speaks of that line."""
    return fields.get("bytes") == len(torn) and fields.get("sha256") == hashlib.sha256(torn).hexdigest()
