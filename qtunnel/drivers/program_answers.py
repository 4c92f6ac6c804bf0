"""What a vendor's program prints, and what is made of it. Pure.

Not tolerated is anything that leaves a doubt about which key of which size it is.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Literal

from qtunnel.drivers import answers
from qtunnel.drivers.answers import Fail, clean, folded, json_object, number
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
)
from qtunnel.keys.source import SourceStatus
from qtunnel.secret import Secret

Output = Literal["json", "hex", "base64", "raw"]

MAX_TEXT = 8 * 1024
"""Bytes of output besides the key itself."""
MAX_KEY_ID = 255

EXIT_CODES: dict[int, tuple[type[KeySourceError], str]] = {
    64: (KeyRequestRejectedError, "it calls the request malformed"),
    66: (KeyNotFoundError, "it has no such key"),
    69: (KeySourceUnavailableError, "it cannot serve now"),
    75: (KeySourceUnavailableError, "it has no key now"),
    77: (KeySourceUnauthorizedError, "it is not allowed to"),
}
"""Those of sysexits.h by which a program says that it gave no key away; any other but 0 leaves that open."""

_KEY_ID = re.compile(r"[!-,.-~][!-~]{0,254}", re.ASCII)
_LONG_HEX = re.compile(r"\b[0-9A-Fa-f]{32,}\b|\b(?:[0-9A-Fa-f]{2}[ :.,-]+){15,}[0-9A-Fa-f]{2}\b")
_WORD = re.compile(r"[^\s\"',:{}\[\]]{12,}")
_KEY_FIELDS = {"key_id", "key"}


def usable_key_id(text: str) -> bool:
    """Whether a key_ID may stand among a program's arguments: printable ASCII without blanks, and no leading dash, so
    that no program takes it for an option."""
    return _KEY_ID.fullmatch(text) is not None


def key_in(output: bytearray, kind: Output, key_id: str | None, size: int, fail: Fail) -> tuple[str, Secret]:
    """The key_ID and the key of ``size`` bytes. key_id: of the key that was asked for; ``None`` for any, where the
    program names it. Raises what ``fail`` makes of the words, which never quote the output."""
    if kind == "json":
        named, decoded = _from_json(output, fail)
        if key_id is not None and named.lower() != key_id.lower():
            raise fail(f"it answered with key_ID {clean(named)} where {clean(key_id)} was asked for")
        key_id, raw = named if key_id is None else key_id, bytearray(decoded)
    else:
        assert key_id is not None
        raw = output if kind == "raw" else bytearray(_decoded(bytes(output).strip(), kind, fail))
    if len(raw) != size:
        raise fail(f"the key has {len(raw) * 8} bits where {size * 8} were asked for")
    key = Secret(raw)
    raw[:] = bytes(size)
    return key_id, key


def _from_json(output: bytearray, fail: Fail) -> tuple[str, bytes]:
    fields = json_object(output, fail, printed=True)
    if "keys" in fields and not fields.keys() & _KEY_FIELDS:  # a key container of ETSI GS QKD 014 clause 6.3
        keys = fields["keys"]
        if not isinstance(keys, list) or len(keys) != 1 or not isinstance(keys[0], dict):
            raise fail("its answer does not have exactly one key")
        fields = folded(keys[0], fail)
    key_id, text = fields.get("key_id"), fields.get("key")
    if not isinstance(key_id, str) or not usable_key_id(key_id):
        raise fail("the key has no usable key_ID (1 to 255 printable characters, no blank, no leading '-')")
    if not isinstance(text, str):
        raise fail("the key's value is missing")
    return key_id, _decoded(text.encode("utf-8", "replace"), "base64", fail)


def _decoded(text: bytes, kind: str, fail: Fail) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if kind == "base64" else binascii.unhexlify(text)
    except (ValueError, binascii.Error):
        raise fail(f"the key is not {kind}") from None


def status_in(output: bytearray, fail: Fail, garbled: Fail) -> SourceStatus:
    """A status object, in our terms. Fields that are missing count as not told, those of another type too, besides an
    alarm, which is one in any form, and a QBER: raises what ``garbled`` makes of the words for one that cannot be read.
    Without ``healthy`` it is healthy where it has keys, or does not tell."""
    fields = json_object(output, fail, printed=True)
    stored, size = _count(fields.get("stored_keys")), _count(fields.get("key_size"))
    healthy, alarm = fields.get("healthy"), answers.alarm(fields.get("alarm"))
    if not isinstance(healthy, bool):
        healthy = stored is None or stored > 0
    detail = fields.get("detail")
    told = [detail] if isinstance(detail, str) and detail else []
    if stored is not None:
        told.append(f"{stored} keys stored")
    return SourceStatus(
        healthy=healthy,
        detail=clean(", ".join(told)) or ("can deliver" if healthy else "cannot deliver"),
        stored_keys=stored,
        max_keys=_count(fields.get("max_keys")),
        key_size=None if size is None else size // 8,
        qber=answers.qber(fields.get("qber"), garbled) if alarm is None else number(fields.get("qber")),
        key_rate=number(fields.get("key_rate")),
        alarm=alarm,
    )


def complaint(complaints: bytes, output: bytearray) -> str:
    """The last line that it said on its standard error, without anything that looks like a key or stood in its output;
    empty where it said nothing."""
    text = complaints.decode("utf-8", "replace")
    for word in _WORD.findall(bytes(output).decode("utf-8", "replace")):
        text = text.replace(word, "[removed]")
    lines = [line for line in text.splitlines() if line.strip()]
    return clean(_LONG_HEX.sub("[removed]", lines[-1])) if lines else ""


def _count(value: object) -> int | None:
    told = number(value)
    return None if told is None else int(told)
