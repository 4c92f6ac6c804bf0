"""One record of the audit log, as a line of JSON that names the hash of the line before and its own.

docs/audit.md describes the format. The hash is over the line's own bytes, so whoever checks it needs no rules for
writing JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HASH_SIZE = 32
"""Bytes of SHA-256."""
GENESIS = bytes(HASH_SIZE)
"""What the first record of all names as the hash before it."""
MAX_LINE = 64 * 1024
"""Bytes of a line. The longest record is the one that begins a file, with 3 kB of public key; a reload that names
twenty changes has as much."""

MAX_SEQ = 2**63
"""Numbers of records are less."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_KIND = re.compile(r"[a-z][a-z-]*\.[a-z-]+", re.ASCII)
_TAIL = re.compile(rb',"hash":"([0-9a-f]{64})"\}', re.ASCII)
_TAIL_SIZE = len(b',"hash":""}') + 2 * HASH_SIZE
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


class RecordError(Exception):
    """A line that is no record, in words."""


@dataclass(frozen=True, slots=True)
class Record:
    """seq: its number, the first of all being 1. time: UTC, always as ``2026-01-31T14:05:00.123Z``, so that the order
    of the text is that of time. prev: hash of the record before; hash: its own; 32 bytes each."""

    seq: int
    time: str
    kind: str
    peer: str | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    prev: bytes = GENESIS
    hash: bytes = GENESIS


def is_time(text: str) -> bool:
    """Whether this is a time as records have it."""
    return _TIME.fullmatch(text) is not None


def encode(
    seq: int, time: str, kind: str, peer: str | None, fields: Mapping[str, Any], prev: bytes
) -> tuple[bytes, bytes]:
    """The line, without its end, and its hash. fields: of JSON's types."""
    document: dict[str, Any] = {"seq": seq, "time": time, "kind": kind}
    if peer is not None:
        document["peer"] = peer
    document |= {"fields": fields, "prev": prev.hex()}
    body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()[:-1]
    digest = hashlib.sha256(body).digest()
    return body + f',"hash":"{digest.hex()}"}}'.encode(), digest


def parse(line: bytes) -> Record:
    """The record of a line without its end; raises ``RecordError``."""
    if len(line) > MAX_LINE:
        raise RecordError(f"has {len(line)} bytes; a record has at most {MAX_LINE}")
    tail = _TAIL.fullmatch(line[-_TAIL_SIZE:])
    if tail is None:
        raise RecordError("does not end with its hash: it is no record, or a part of one")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise RecordError("is no JSON: it was changed") from None
    problem = _wrong(document)
    if problem:
        raise RecordError(problem)
    digest = hashlib.sha256(line[:-_TAIL_SIZE]).digest()
    if digest.hex() != tail[1].decode():
        raise RecordError(f"record {document['seq']} was changed: it does not have the hash that it names")
    return Record(
        document["seq"], document["time"], document["kind"], document.get("peer"), document["fields"],
        bytes.fromhex(document["prev"]), digest,
    )  # fmt: skip


def _wrong(document: Any) -> str:
    """What is wrong with the form of a record; empty where nothing is."""
    if not isinstance(document, dict):
        return "is no JSON object: it is no record"
    wanted = ["seq", "time", "kind", *(["peer"] if "peer" in document else []), "fields", "prev", "hash"]
    if list(document) != wanted:
        return "has other keys than a record"
    seq, time, kind, prev = (document[key] for key in ("seq", "time", "kind", "prev"))
    if not isinstance(seq, int) or isinstance(seq, bool) or not 1 <= seq < MAX_SEQ:
        return "has no number that a record can have"
    if not isinstance(time, str) or not is_time(time):
        return "has no time of the form 2026-01-31T14:05:00.123Z"
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        return "has no kind"
    if not isinstance(document.get("peer", ""), str) or not isinstance(document["fields"], dict):
        return "has a peer or fields of another type than a record"
    return "" if isinstance(prev, str) and _HEX.fullmatch(prev) else "names no hash of the record before"
