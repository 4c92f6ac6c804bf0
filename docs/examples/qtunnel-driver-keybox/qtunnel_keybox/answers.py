"""The agent's answers: from one line to keys, a status, or the error that it means. Pure."""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Sequence

from qtunnel.drivers.answers import clean
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
)
from qtunnel.keys.source import SourceStatus
from qtunnel.secret import Secret

KEY_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)

REFUSALS: dict[str, type[KeySourceError]] = {
    "empty": KeySourceUnavailableError,
    "unknown": KeyNotFoundError,
    "denied": KeySourceUnauthorizedError,
    "malformed": KeyRequestRejectedError,
}
"""What the agent says instead of giving a key. It has consumed none then."""


def keys_of(place: str, call: str, line: memoryview, size: int, asked: int) -> list[tuple[str, Secret]]:
    """``key ID HEX [ID HEX ...]``: from 1 to ``asked`` keys of ``size`` bytes. Wipes what it made where it raises."""
    parts = _parts(place, call, line, asked)
    given = (len(parts) - 1) // 2
    found: list[tuple[str, Secret]] = []
    try:
        if bytes(parts[0]) != b"key" or len(parts) % 2 == 0 or not 1 <= given <= asked:
            raise ValueError(f"{given} keys where {asked} were asked for")
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            key_id = bytes(name).decode("ascii")
            if not KEY_ID.fullmatch(key_id) or key_id in [known for known, _ in found]:
                raise ValueError("a key_ID that is none, or is there twice")
            found.append((key_id, Secret(unhexlify(text))))  # binascii.Error is a ValueError
            if len(found[-1][1]) != size:
                raise ValueError(f"a key of {len(found[-1][1])} bytes instead of {size}")
    except ValueError as error:
        for _, key in found:
            key.wipe()
        # ``from None``: the cause may quote the answer, and a traceback shows it.
        raise KeySourceProtocolError(place, call, f"not usable: {_words(error)}", lost=max(asked, given)) from None
    return found


def check_names(place: str, call: str, found: Sequence[tuple[str, Secret]], asked: Sequence[str]) -> None:
    """The keys must be those that were asked for; else they are wiped, and all are lost."""
    if [name for name, _ in found] != list(asked):
        for _, key in found:
            key.wipe()
        raise KeySourceProtocolError(place, call, "answered with other keys than were asked for", lost=len(asked))


def status_of(place: str, line: memoryview) -> SourceStatus:
    """``ok STORED QBER_IN_PERCENT [ALARM]``."""
    parts = _parts(place, "status", line, 0)
    try:
        if bytes(parts[0]) != b"ok":
            raise ValueError("no status")
        stored, qber = int(bytes(parts[1])), float(bytes(parts[2])) / 100
    except (ValueError, IndexError):
        raise KeySourceProtocolError(place, "status", "not usable: it does not say ok, a number and a QBER") from None
    alarm = clean(b" ".join(parts[3:]).decode("utf-8", "replace")) or None
    return SourceStatus(healthy=stored > 0, detail=f"{stored} keys", stored_keys=stored, qber=qber, alarm=alarm)


def _parts(place: str, call: str, line: memoryview, keys: int) -> list[memoryview]:
    """The words of the line, uncopied; raises what ``no REASON WORDS`` means."""
    text = bytes(line[:200])
    if text.startswith(b"no "):
        reason, _, words = text[3:].decode("utf-8", "replace").partition(" ")
        kind = REFUSALS.get(reason)
        if kind is None:  # we do not know what it did
            raise KeySourceProtocolError(place, call, f"refused for a reason that is new: {clean(reason)}", lost=keys)
        raise kind(place, call, clean(words) or reason)
    blanks = [at for at, byte in enumerate(line) if byte == 0x20]
    starts, stops = [0, *(at + 1 for at in blanks)], [*blanks, len(line)]
    return [line[start:stop] for start, stop in zip(starts, stops, strict=True)]


def _words(error: ValueError) -> str:
    return "a key that is not hexadecimal" if type(error) is not ValueError else str(error)
