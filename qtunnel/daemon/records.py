"""The lines of the state file: each with a checksum of its own, so that one that is damaged takes no other with it.

A line is eight hexadecimal digits, the CRC-32 (RFC 1952 section 8) of what follows a space: a JSON object. The first
line is about the file as a whole (``Header``); each further one has one peer, by its identity in hexadecimal, and what
is remembered of it; the last line of a peer counts. Files of version 1, which are read as well, have no checksums, all
peers in the first line, and any number of them in each further one.

The last line may have been cut short by a crash, and then was never confirmed: it is left out. The peer whose newest
line is damaged in any other way counts as lost, with the present as its replay time, so that nothing old is ever news.
Where nobody can tell whose line it was, it may have been that of any peer without a good line after it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from qtunnel.rekey.model import Memory

VERSION = 2
OLD_VERSION = 1
EPOCH_BOUND = 1 << 62
"""Epochs from here on can only come from a damaged file; half of what the wire format can hold is left for jumps."""
TIME_SIZE = 12
NEVER = bytes(TIME_SIZE)
"""A replay time before all others."""
_CRC_DIGITS = 8
_IDENTITY = slice(_CRC_DIGITS + 3, _CRC_DIGITS + 3 + 128)
"""Where the identity stands in a peer's line: behind checksum, space, brace and quotation mark."""
_MOST_WRONG = 64
"""Digits of an identity that may differ while it is still known: two identities differ in 120 of their 128."""
_MOST_GUESSES = 16
"""Damaged lines of which the owner is looked for in that way: of more the file is worth little, and it takes time."""
_BAD = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What content that is none raises."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a name of the configuration led. endpoint: that name; host: a numeric address."""

    endpoint: str
    host: str


@dataclass(frozen=True, slots=True)
class Header:
    """lost: peers that the file does not name may have been in one that is lost; seen: their replay time then."""

    lost: bool = False
    seen: bytes = NEVER


@dataclass(slots=True)
class Content:
    """What a file says. By identity (hexadecimal): peers and places.

    damage: what is wrong with it, in words; empty for nothing. dropped: identities whose newest line is gone, as far as
    that is known; anybody: it may be that of others as well.
    """

    header: Header = field(default_factory=Header)
    peers: dict[str, Memory] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    damage: str = ""
    dropped: tuple[str, ...] = ()
    anybody: bool = False


def header_line(header: Header) -> str:
    return _line({"version": VERSION, "lost": header.lost, "seen": header.seen.hex()})


def peer_line(identity: str, memory: Memory, place: Place | None) -> str:
    entry: dict[str, object] = {
        "epoch": memory.epoch,
        "proposed": memory.proposed,
        "sent": memory.sent.hex(),
        "seen": memory.seen.hex(),
        "lost": memory.lost,
    }
    if memory.held:
        entry["held"] = dict(memory.held)
    if memory.stored:
        entry["stored"] = memory.stored
    if place is not None:
        entry["place"] = {"endpoint": place.endpoint, "host": place.host}
    return _line({identity: entry})


def _line(document: dict[str, object]) -> str:
    text = json.dumps(document)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def read(content: bytes, clock: bytes, known: Collection[str] = ()) -> Content:
    """What the file's bytes say; never raises. clock: the present as a replay time (TAI64N). known: identities that
    may be in it besides those that are."""
    first, *rest = content.split(b"\n")
    lines = rest[:-1]  # what stands behind the last line's end was never confirmed
    found, old = Content(), first.startswith(b"{")
    try:
        document = json.loads(first) if old else _document(first)
        if document["version"] != (OLD_VERSION if old else VERSION):
            found.damage = f"cannot be read: version {document['version']} of it is not known here"
            lines = []
        else:
            found.header = Header(bool(document.get("lost", False)), _time(document.get("seen", NEVER.hex())))
            if old:
                found.peers, found.places = _peers(document["peers"])
    except _BAD as error:
        found.damage = f"its beginning cannot be read ({error})"
    newest: dict[str, int] = {}  # by identity, the number of its last good line
    damaged: list[int] = []
    for number, line in enumerate(lines, 1):
        try:
            peers, places = _peers(json.loads(line) if old else _document(line))
        except _BAD:
            if number < len(lines) or not (old or _cut_short(line)):
                damaged.append(number)
            continue
        found.peers |= peers
        found.places |= places
        newest |= dict.fromkeys(peers, number)
    if found.damage:
        found.anybody = True
    elif damaged:
        found.damage = f"line{'s' if len(damaged) > 1 else ''} {', '.join(str(its + 1) for its in damaged)} damaged"
    every = {*found.peers, *known}
    for number in damaged:
        owner = None if old else _owner(lines[number - 1], every, guess=len(damaged) <= _MOST_GUESSES)
        found.anybody = found.anybody or owner is None
        _lose(found, [*found.peers] if owner is None else [owner], newest, number, clock)
    if found.anybody:
        found.header = Header(lost=True, seen=max(found.header.seen, clock))
    return found


def _lose(found: Content, suspects: Iterable[str], newest: Mapping[str, int], number: int, clock: bytes) -> None:
    """A damaged line may have said something of these peers; those with a good one after it have lost nothing."""
    for identity in suspects:
        if newest.get(identity, 0) < number:
            memory = found.peers.get(identity, Memory())
            # Nor does anybody know which file of keys agreed ahead was the newest.
            found.peers[identity] = replace(memory, seen=max(memory.seen, clock), lost=True, stored=0)
            found.dropped = (*found.dropped, *({identity} - {*found.dropped}))


def _owner(line: bytes, known: Collection[str], *, guess: bool) -> str | None:
    """Whose line it was, as far as the identity in it can still be read. guess: also where it is damaged itself."""
    its = line[_IDENTITY].decode("latin-1")
    if its in known or not guess:
        return its if its in known else None
    whole = [one for one in known if len(one) == len(its)]
    near = [one for one in whole if sum(a != b for a, b in zip(its, one, strict=True)) <= _MOST_WRONG]
    return near[0] if len(near) == 1 else None


def _cut_short(line: bytes) -> bool:
    """Whether a last line looks as if the power went while it was written: not to its end, or with a hole."""
    return not line.endswith(b"}") or b"\0" in line


def _document(line: bytes) -> dict[str, Any]:
    digits, space, text = line[:_CRC_DIGITS], line[_CRC_DIGITS : _CRC_DIGITS + 1], line[_CRC_DIGITS + 1 :]
    if space != b" " or digits != f"{zlib.crc32(text):08x}".encode():
        raise ValueError("its checksum is wrong")
    document = json.loads(text)
    if not isinstance(document, dict):
        raise TypeError("not an object")
    return document


def _peers(entries: dict[str, dict[str, Any]]) -> tuple[dict[str, Memory], dict[str, Place]]:
    """What a line says of peers, by identity; raises as bad content does."""
    peers = {identity: _memory(entry) for identity, entry in entries.items()}
    return peers, {identity: _place(entry["place"]) for identity, entry in entries.items() if "place" in entry}


def _memory(entry: dict[str, Any]) -> Memory:
    epoch, proposed, stored = entry["epoch"], entry.get("proposed", 0), entry.get("stored", 0)
    held = entry.get("held", {})
    for number in (epoch, proposed, stored, *held.values()):
        if type(number) is not int or not 0 <= number < EPOCH_BOUND:
            raise ValueError("a number out of range")
    lost, counts = bool(entry.get("lost", False)), tuple(sorted(held.items()))
    return Memory(epoch, _time(entry["sent"]), _time(entry["seen"]), proposed, lost, counts, stored)


def _time(text: object) -> bytes:
    time = bytes.fromhex(str(text))
    if len(time) != TIME_SIZE:
        raise ValueError("a replay time of the wrong size")
    return time


def _place(entry: dict[str, object]) -> Place:
    return Place(str(entry["endpoint"]), str(ip_address(str(entry["host"]))))
