"""What KMEs answer, and what is made of it. Pure.

Tolerated: any case in field names (``Keys``, ``key_id``), further fields, errors as HTML, plain text or with
``detail``, and other status codes than the standard's. Not tolerated: anything that leaves a doubt about which key of
which size it is.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Mapping
from typing import Any

from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
)
from qtunnel.keys.source import SourceStatus
from qtunnel.secret import Secret

MAX_WORDS = 200
"""Characters of a KME's own words that an error repeats."""

MAX_KEY_ID = 255
"""Characters of a key_ID; the standard's UUID has 36."""

MAX_NUMBER = 1e15
"""Counts and rates beyond this are nonsense; it also keeps infinity out."""

_KEY_LIKE = re.compile(r"[A-Za-z0-9+/_-]{20,}={1,2}|[A-Za-z0-9+/]{40,}")
"""Base64 or hex as long as a key. A UUID has dashes, so it stays."""

_NOT_FOUND = re.compile(r"not\s+(be\s+)?found|unknown\s+key|no\s+such\s+key|does(\s+not|n't)\s+exist", re.IGNORECASE)
_NO_KEYS = re.compile(
    r"insufficient|not\s+enough|exhausted|no\s+(more\s+)?keys?\s+(are\s+)?(available|left)", re.IGNORECASE
)
_TLS_REFUSED = re.compile(r"\b(SSL|TLS|client) certificate\b", re.IGNORECASE)
"""nginx in front of a KME refuses a client certificate with 400 and these words in the title. 5xx may speak of another
certificate, that of the partner KME."""

_TITLE = re.compile(r"<title[^>]*>(.*?)</title|<h1[^>]*>(.*?)</h1", re.IGNORECASE | re.DOTALL)


def clean(text: str) -> str:
    """One line of at most ``MAX_WORDS`` printable characters, with whatever looks like a key taken out."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 20 * MAX_WORDS]).split())
    line = _KEY_LIKE.sub("[removed]", line)
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"


def one_key(place: str, call: str, body: bytes, size: int) -> tuple[str, Secret]:
    """The key_ID and the key of a container that must hold exactly one key of ``size`` bytes (clause 6.3).

    Raises ``KeySourceProtocolError``, which never quotes the body.
    """

    def fail(what: str) -> KeySourceProtocolError:
        return KeySourceProtocolError(place, call, f"HTTP 200, but {what}")

    container = _object(body, fail)
    keys = container.get("keys")
    if not isinstance(keys, list):
        raise fail("the answer has no array of keys")
    if len(keys) != 1:
        raise fail(f"it has {len(keys)} keys where 1 was asked for")
    if not isinstance(keys[0], dict):
        raise fail("the key is not a JSON object")
    entry = _folded(keys[0], fail)
    key_id, text = entry.get("key_id"), entry.get("key")
    if not isinstance(key_id, str) or not _is_key_id(key_id):
        raise fail("the key has no usable key_ID")
    if not isinstance(text, str):
        raise fail("the key's value is missing")
    try:
        raw = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise fail("the key is not base64") from None
    if len(raw) != size:
        raise fail(f"the key has {len(raw) * 8} bits where {size * 8} were asked for")
    return key_id, Secret(raw)


def status(place: str, body: bytes) -> dict[str, Any]:
    """The status object (clause 6.1) with its field names in lower case; raises ``KeySourceProtocolError``."""

    def fail(what: str) -> KeySourceProtocolError:
        return KeySourceProtocolError(place, "status", f"HTTP 200, but {what}")

    return _object(body, fail)


def source_status(fields: Mapping[str, Any]) -> SourceStatus:
    """What a status object says, in our terms. Fields that are missing or of another type count as not told."""
    stored = _number(fields.get("stored_key_count"))
    most = _number(fields.get("max_key_count"))
    key_size = _number(fields.get("key_size"))
    extension = fields.get("status_extension")
    extension = extension if isinstance(extension, dict) else {}
    told = [f"{fields.get('source_kme_id', '?')} to {fields.get('target_kme_id', '?')}"]
    if stored is not None:
        told.append(f"{stored:g} keys stored")
    if extension.get("simulated") is True:
        told.append("simulated keys")
    if isinstance(extension.get("partner_problem"), str):
        told.append(f"its partner: {extension['partner_problem']}")
    return SourceStatus(
        healthy=stored is None or stored > 0,
        detail=clean(", ".join(told)),
        stored_keys=None if stored is None else int(stored),
        max_keys=None if most is None else int(most),
        key_size=None if key_size is None else int(key_size) // 8,
        qber=_number(extension.get("qber")),
        key_rate=_number(extension.get("key_rate")),
    )


def refusal(place: str, call: str, code: int, headers: Mapping[str, str], body: bytes) -> KeySourceError:
    """The named error for an answer other than 200, with the KME's own words."""
    if 300 <= code < 400:
        return KeySourceProtocolError(place, call, f"HTTP {code}: redirects elsewhere; write its final address as url")
    if not 400 <= code < 600:
        return KeySourceProtocolError(place, call, f"HTTP {code} where the standard has 200, 400, 401 or 503")
    words = _words(headers.get("Content-Type", ""), body)
    detail = f"HTTP {code}: {words}"
    kind: type[KeySourceError]
    if code in (495, 496) or (code == 400 and _TLS_REFUSED.search(words)):
        kind = KeySourceCertificateError
    elif code in (401, 403):
        kind = KeySourceUnauthorizedError
    elif call == "dec_keys" and (code == 404 or _NOT_FOUND.search(words)):
        kind = KeyNotFoundError
    elif code >= 500 or code in (408, 429) or (call == "enc_keys" and _NO_KEYS.search(words)):
        kind = KeySourceUnavailableError
    else:
        kind = KeyRequestRejectedError
    return kind(place, call, detail)


def _words(content_type: str, body: bytes) -> str:
    """What an error's body says: its message and details, its title where it is HTML, or its text."""
    text = body[: 64 * 1024].decode("utf-8", "replace")
    if not text.strip():
        return "no reason given"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if "html" in content_type.lower() or text.lstrip()[:1] == "<":
            title = _TITLE.search(text)
            said = html.unescape(re.sub(r"<[^>]*>", " ", title[1] or title[2] or "")) if title else ""
            return clean(f"an HTML page, {said.strip() or 'untitled'}")
        return clean(text)
    if isinstance(value, dict):
        parts = [_flat(value[name]) for name in ("message", "error", "detail", "details", "title") if value.get(name)]
        return clean("; ".join(part for part in parts if part)) or "no reason given"
    return clean(_flat(value)) or "no reason given"


def _flat(value: object, depth: int = 4) -> str:
    """JSON in words: ``name=value, ...``. Keys in it are left out."""
    if isinstance(value, str | int | float):
        return str(value)
    if depth and isinstance(value, list):
        return ", ".join(filter(None, (_flat(item, depth - 1) for item in value[:20])))
    if depth and isinstance(value, dict):
        named = ((str(name), _flat(item, depth - 1)) for name, item in list(value.items())[:20])
        return ", ".join(f"{name}={said}" for name, said in named if said and name.lower() not in ("key", "keys"))
    return ""


def _object(body: bytes, fail: Any) -> dict[str, Any]:
    if not body.strip():
        raise fail("the answer is empty")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        what = "HTML" if body.lstrip()[:1] == b"<" else "something else"
        raise fail(f"the answer is {what} where JSON is expected") from None
    if not isinstance(value, dict):
        raise fail("the answer is not a JSON object")
    return _folded(value, fail)


def _folded(fields: Mapping[str, Any], fail: Any) -> dict[str, Any]:
    """Field names in lower case; two that become one are refused."""
    folded = {name.lower(): value for name, value in fields.items()}
    if len(folded) != len(fields):
        raise fail("a field is there twice")
    return folded


def _is_key_id(text: str) -> bool:
    return 0 < len(text) <= MAX_KEY_ID and text.isascii() and text.isprintable() and " " not in text


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < MAX_NUMBER:
        return None
    return value
