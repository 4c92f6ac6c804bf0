"""What servers say over HTTP, and programs print: in words for people, what these mean, and the JSON in it. Pure."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from qtunnel.errors import KeyNotFoundError, KeySourceError

Body = bytes | bytearray
Fail = Callable[[str], KeySourceError]
"""Makes the error for an answer that cannot be used."""

MAX_NUMBER = 1e15
"""Counts and rates beyond this are nonsense; it also keeps infinity out."""

MAX_WORDS = 200
"""Characters of a server's own words that an error repeats."""

NOTHING_DONE = {501, 503, 505}
"""Status codes from 500 on that are given before anything is done. The others come from a server that failed in the
middle, or from a proxy that lost its answer."""

NOT_FOUND = re.compile(r"not\s+(be\s+)?found|unknown\s+key|no\s+such\s+key|does(\s+not|n't)\s+exist", re.IGNORECASE)
"""Words by which servers say that they do not have a key, whatever the status code."""

NO_KEYS = re.compile(
    r"insufficient|not\s+enough|exhausted|no\s+(more\s+)?keys?\s+(are\s+)?(available|left)", re.IGNORECASE
)
"""Words by which they say that there is no key now."""

_TLS_REFUSED = re.compile(r"\b(SSL|TLS|client) certificate\b", re.IGNORECASE)
"""nginx in front of a server refuses a client certificate with 400 and these words in the title. 5xx may speak of
another certificate, such as that of a partner KME."""

_KEY_LIKE = re.compile(r"[A-Za-z0-9+/_-]{20,}={1,2}|[A-Za-z0-9+/]{40,}|[A-Za-z0-9_-]{40,}")
"""Base64 of either alphabet, or hex, as long as a key. A UUID has 36 characters with its dashes, so it stays."""

_TITLE = re.compile(r"<(title|h1)\b[^<>]*>", re.IGNORECASE)
_TITLE_END = re.compile(r"</(title|h1)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
"""None of these is tried twice at one place, whatever a server writes: a page of nothing but ``<`` would otherwise hold
the loop up for seconds, and with it the calls for all peers."""


def clean(text: str) -> str:
    """One line of at most ``MAX_WORDS`` printable characters, with whatever looks like a key taken out."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 20 * MAX_WORDS]).split())
    line = _KEY_LIKE.sub("[removed]", line)
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"


def words(content_type: str, body: Body) -> str:
    """What an error's body says: its message and details, its title where it is HTML, or its text."""
    text = body[: 64 * 1024].decode("utf-8", "replace")
    if not text.strip():
        return "no reason given"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if "html" in content_type.lower() or text.lstrip()[:1] == "<":
            said = html.unescape(_TAG.sub(" ", _title(text)))
            return clean(f"an HTML page, {said.strip() or 'untitled'}")
        return clean(text)
    if isinstance(value, dict):
        parts = [_flat(value[name]) for name in ("message", "error", "detail", "details", "title") if value.get(name)]
        return clean("; ".join(part for part in parts if part)) or "no reason given"
    return clean(_flat(value)) or "no reason given"


def refuses_certificate(code: int, said: str) -> bool:
    """Whether that status code and those words refuse our certificate; 495 and 496 are nginx's own."""
    return code in (495, 496) or (code == 400 and _TLS_REFUSED.search(said) is not None)


def perhaps_done(code: int, said: str, kind: type[KeySourceError]) -> bool:
    """Whether keys may be lost with an answer of that status code and those words, which is a ``kind``: it comes from
    a server that failed, or from one that stands between us and it."""
    return code >= 500 and code not in NOTHING_DONE and kind is not KeyNotFoundError and not NO_KEYS.search(said)


def _title(text: str) -> str:
    """What stands in the first title or heading of an HTML page; empty where there is none."""
    begin = _TITLE.search(text)
    end = None if begin is None else _TITLE_END.search(text, begin.end())
    return "" if begin is None or end is None else text[begin.end() : end.start()]


def alarm(value: object) -> str | None:
    """What an ``alarm`` warns of, in words; ``None`` where it is missing, blank, false, zero or empty. One that is not
    text is an alarm all the same: the keys of who raises it must not be used because of its form."""
    if not value or (isinstance(value, str) and not value.strip()):
        return None
    said = "" if value is True else clean(_flat(value))
    return said or "it does not say of what"


def qber(value: object, fail: Callable[[str], KeySourceError]) -> float | None:
    """A quantum bit error rate, as a fraction; ``None`` where it is missing or null. Raises what ``fail`` makes of the
    words for anything but a number from 0 to 1: a rate that cannot be read may be one above its limit."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:  # NaN is in no range
        return float(value)
    said = clean(_flat(value)) if isinstance(value, str | int | float) else type(value).__name__
    raise fail(
        f"its qber is {said or 'empty'}, where a number from 0 to 1 is expected; no key is used before it is one"
    )


def number(value: object) -> float | None:
    """A count or a rate of a status, which is 0 or more; ``None``, as not told, where it is missing or of no use."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < MAX_NUMBER:
        return None
    return value


def json_object(body: Body, fail: Fail, *, printed: bool = False) -> dict[str, Any]:
    """The fields of a JSON object (RFC 8259), their names in lower case; two that become one are refused. printed:
    ``fail`` is told of what a program printed, not of a server's answer."""
    if not body or body.isspace():
        raise fail("it printed nothing" if printed else "the answer is empty")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        if printed:
            raise fail("what it printed is not JSON") from None
        what = "HTML" if body[:64].lstrip()[:1] == b"<" else "something else"
        raise fail(f"the answer is {what} where JSON is expected") from None
    if not isinstance(value, dict):
        raise fail(f"{'what it printed' if printed else 'the answer'} is not a JSON object")
    return folded(value, fail)


def folded(fields: Mapping[str, Any], fail: Fail) -> dict[str, Any]:
    """Field names in lower case; two that become one are refused."""
    lower = {name.lower(): value for name, value in fields.items()}
    if len(lower) != len(fields):
        raise fail("a field is there twice")
    return lower


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
