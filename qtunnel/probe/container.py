"""A key container (clause 6.3) read as leniently as can be, and all in which it is not as the standard has it."""

from __future__ import annotations

import base64
import re
from typing import Any

from qtunnel.drivers.answers import clean
from qtunnel.secret import Secret

Keys = list[tuple[str, Secret]]
Oddities = dict[str, tuple[str, str]]
"""By kind (``fields``, ``key_id``, ``encoding``): what was seen, and what of the driver copes with it."""

NOT = "nothing: the driver refuses such an answer"
AS_IT_IS = "the driver takes it as it is, no option is needed"

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HEX = re.compile(r"[0-9A-Fa-f]+")
_FROM_URL = str.maketrans("-_", "+/")


def read(document: Any, bits: int) -> tuple[Keys, Oddities]:
    """The keys of a container where keys of ``bits`` bits were asked for. No key stands in the oddities."""
    keys: Keys = []
    odd: Oddities = {}
    entries = _field(document, "keys", odd)
    if not isinstance(entries, list):
        odd["fields"] = ("no array keys", NOT)
        return keys, odd
    for entry in entries:
        key_id, text = _field(entry, "key_ID", odd), _field(entry, "key", odd)
        if not isinstance(key_id, str) or not isinstance(text, str):
            odd["fields"] = ("an entry without key_ID or without key, both text", NOT)
            continue
        if not _UUID.fullmatch(key_id):
            usable = 0 < len(key_id) <= 255 and key_id.isascii() and key_id.isprintable() and " " not in key_id
            odd["key_id"] = (f"key_ID {clean(key_id)!r} is no UUID", AS_IT_IS if usable else NOT)
        raw = _decoded(text, bits, odd)
        if raw is not None:
            keys.append((key_id, Secret(raw)))
    if len({key_id.lower() for key_id, _ in keys}) != len(keys):
        odd["key_id"] = ("two keys of one answer have the same key_ID", NOT)
    return keys, odd


def _field(fields: Any, name: str, odd: Oddities) -> Any:
    """A field in whatever case it is written."""
    if not isinstance(fields, dict):
        return None
    if name in fields:
        return fields[name]
    for other, value in fields.items():
        if other.lower() == name.lower():
            odd.setdefault("fields", (f"{clean(other)} in the place of {name}", AS_IT_IS))
            return value
    return None


def _decoded(text: str, bits: int, odd: Oddities) -> bytes | None:
    bare = text.rstrip("=")
    if len(text) * 4 == bits and _HEX.fullmatch(text):
        odd["encoding"] = ("keys in hex", NOT)
        return bytes.fromhex(text)
    if ("-" in bare or "_" in bare) and not ("+" in bare or "/" in bare):
        odd["encoding"] = ("keys in base64url", AS_IT_IS)
        bare = bare.translate(_FROM_URL)
    if len(bare) % 4 and len(text) == len(bare):
        odd["encoding"] = ("keys in base64 without padding", AS_IT_IS)
    elif len(text) % 4:
        odd["encoding"] = ("keys in base64 with a part of the padding", NOT)
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except ValueError:
        odd["encoding"] = ("keys that are not base64", NOT)
        return None
