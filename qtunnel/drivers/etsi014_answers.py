"""What KMEs answer, and what is made of it. Pure.

Tolerated: any case in field names (``Keys``, ``key_id``) and in a key_ID, further fields, base64url and base64 without
padding, errors as HTML, plain text or with ``detail``, and other status codes than the standard's. Not tolerated:
anything that leaves a doubt about which key of which size it is.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from qtunnel.drivers import answers
from qtunnel.drivers.answers import (
    NO_KEYS,
    NOT_FOUND,
    Body,
    Fail,
    clean,
    folded,
    json_object,
    number,
    perhaps_done,
    refuses_certificate,
    words,
)
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceStatusError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
)
from qtunnel.keys.source import SourceStatus
from qtunnel.secret import Secret

MAX_KEY_ID = 255
"""Characters of a key_ID; the standard's UUID has 36."""

MAX_LOST = 10_000
"""Keys that are booked for an answer with more than were asked for: no KME gives out as many at once."""

_HEX = re.compile(r"[0-9A-Fa-f]+")
_FROM_URL = str.maketrans("-_", "+/")


def keys_of(place: str, call: str, body: Body, size: int, asked: int) -> list[tuple[str, Secret]]:
    """The key_IDs and keys of a container that must hold from 1 to ``asked`` keys of ``size`` bytes (clause 6.3).

    Raises ``KeySourceProtocolError``, which never quotes the body; all keys are lost then, as one in doubt puts the
    others in doubt.
    """
    lost = asked

    def fail(what: str) -> KeySourceProtocolError:
        return KeySourceProtocolError(place, call, f"HTTP 200, but {what}", lost=lost)

    container = json_object(body, fail)
    keys = container.get("keys")
    if not isinstance(keys, list):
        raise fail("the answer has no array of keys")
    lost = max(asked, min(len(keys), MAX_LOST))
    if not 1 <= len(keys) <= asked:
        raise fail(f"it has {len(keys)} keys where {asked} {'was' if asked == 1 else 'were'} asked for")
    found: list[tuple[str, Secret]] = []
    try:
        for entry in keys:
            found.append(_key(entry, size, fail))
        if len({key_id.lower() for key_id, _ in found}) != len(found):
            raise fail("two keys have the same key_ID")
    except BaseException:
        for _, key in found:
            key.wipe()
        raise
    return found


def keys_by_id(place: str, call: str, body: Body, size: int, key_ids: Sequence[str]) -> list[Secret]:
    """The keys of exactly these key_IDs, in their order; raises ``KeySourceProtocolError`` as ``keys_of`` does."""
    found = keys_of(place, call, body, size, len(key_ids))
    # As UUIDs they are the same in any case (RFC 4122 clause 3).
    by_id = {key_id.lower(): key for key_id, key in found}
    if by_id.keys() != {key_id.lower() for key_id in key_ids}:
        for _, key in found:
            key.wipe()
        if len(found) == len(key_ids) == 1:
            what = f"answered key_ID {clean(found[0][0])} where {clean(key_ids[0])} was asked"
        else:
            what = f"answered {len(found)} keys, not those of the {len(key_ids)} key_IDs that were asked for"
        raise KeySourceProtocolError(place, call, what, lost=len(key_ids))
    return [by_id[key_id.lower()] for key_id in key_ids]


def _key(entry: object, size: int, fail: Fail) -> tuple[str, Secret]:
    if not isinstance(entry, dict):
        raise fail("the key is not a JSON object")
    fields = folded(entry, fail)
    key_id, text = fields.get("key_id"), fields.get("key")
    if not isinstance(key_id, str) or not _is_key_id(key_id):
        raise fail("the key has no usable key_ID")
    if not isinstance(text, str):
        raise fail("the key's value is missing")
    raw = _decoded(text)
    if raw is None:
        raise fail("the key is not base64")
    if len(raw) != size:
        what = f"the key has {len(raw) * 8} bits where {size * 8} were asked for"
        if len(text) == 2 * size and _HEX.fullmatch(text):
            what = f"the key seems to be {size * 8} bits in hex where base64 is expected"
        elif raw:
            what += f"; where the KME has keys of this size only, set key_size: {len(raw) * 8}"
        raise fail(what)
    return key_id, Secret(raw)


def _decoded(text: str) -> bytes | None:
    """The bytes of base64 (RFC 4648 clause 4) or base64url (clause 5), with its padding or without any.

    Either alphabet and either length mean the same bytes, so nothing is in doubt; a mixture, or half of the padding, is
    refused.
    """
    bare = text.rstrip("=")
    if len(text) != len(bare) and len(text) % 4:
        return None
    if "-" in bare or "_" in bare:
        if "+" in bare or "/" in bare:
            return None
        bare = bare.translate(_FROM_URL)
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except ValueError:
        return None


def status(place: str, body: Body) -> dict[str, Any]:
    """The status object (clause 6.1) with its field names in lower case.

    Raises ``KeySourceStatusError`` for one that cannot be read: it may have an alarm in it. Nothing, or a page for
    people, as servers have for paths that they do not know, is no status: ``KeySourceProtocolError``.
    """
    none = bytes(body).lstrip()[:1] in (b"", b"<")
    kind = KeySourceProtocolError if none else KeySourceStatusError

    def fail(what: str) -> KeySourceProtocolError:
        return kind(place, "status", f"HTTP 200, but {what}")

    return json_object(body, fail)


def source_status(place: str, fields: Mapping[str, Any]) -> SourceStatus:
    """What a status object says, in our terms: of the keys with one SAE (clause 5.1). Fields that are missing or of
    another type count as not told, besides an alarm, which is one in any form. Raises ``KeySourceStatusError`` for a
    QBER that cannot be read, and for an extension that is no object: nobody knows what it says. An empty one says
    nothing, in whatever type; some languages write an empty object as an empty list."""
    garbled = partial(KeySourceStatusError, place, "status")
    stored = number(fields.get("stored_key_count"))
    most = number(fields.get("max_key_count"))
    key_size = number(fields.get("key_size"))
    extension = _extension(fields.get("status_extension"), garbled)
    told = [f"{fields.get('source_kme_id', '?')} to {fields.get('target_kme_id', '?')}"]
    if stored is not None:
        told.append(f"{stored:g} keys stored")
    if extension.get("simulated") is True:
        told.append("simulated keys")
    if isinstance(extension.get("partner_problem"), str):
        told.append(f"its partner: {extension['partner_problem']}")
    alarm = answers.alarm(extension.get("alarm"))
    rate = extension.get("qber")
    qber = answers.qber(rate, garbled) if alarm is None else number(rate)
    if alarm is not None:
        told.append(f"ALARM {alarm}")
    return SourceStatus(
        healthy=alarm is None and (stored is None or stored > 0),
        detail=clean(", ".join(told)),
        stored_keys=None if stored is None else int(stored),
        max_keys=None if most is None else int(most),
        key_size=None if key_size is None else int(key_size) // 8,
        qber=qber,
        key_rate=number(extension.get("key_rate")),
        alarm=alarm,
        for_all=False,
    )


def _extension(value: object, garbled: Fail) -> dict[str, Any]:
    if value is None or value in ("", [], {}):
        return {}
    if not isinstance(value, dict):
        raise garbled("HTTP 200, but its status_extension is not a JSON object, so that no QBER or alarm can be read")
    return folded(value, garbled)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a status says that a request may ask for; sizes in bits."""

    max_per_request: int = 1
    min_size: int | None = None
    max_size: int | None = None

    def problem(self, size: int) -> str | None:
        """Why keys of ``size`` bits are not to be had, in words."""
        low, high = self.min_size or 1, self.max_size
        if high is None or not low <= high or low <= size <= high:
            return None
        told = f"of {low} bits only" if low == high else f"of {low} to {high} bits"
        return f"the KME has keys {told}, and {size} are wanted; see key_size"


def limits(fields: Mapping[str, Any]) -> Limits:
    """Those of a status object (clause 6.1). A KME that does not say how many keys it gives is asked for one."""
    most = number(fields.get("max_key_per_request"))
    low, high = (number(fields.get(name)) for name in ("min_key_size", "max_key_size"))
    return Limits(max(1, int(most or 1)), int(low) if low else None, int(high) if high else None)


def refusal(
    place: str, call: str, code: int, headers: Mapping[str, str], body: Body, *, keys: int = 0, mandatory: bool = False
) -> KeySourceError:
    """The named error for an answer other than 200, with the KME's own words.

    keys: how many were asked for; they may be lost where the answer comes from a server that failed, or from one that
    stands between us and the KME. mandatory: ``extension_mandatory`` was in the request.
    """
    if 300 <= code < 400:
        where = clean(headers.get("Location", ""))
        what = "redirects elsewhere; write its final address as url"
        if where.partition("?")[0].endswith(f"/{call}/"):
            what = "redirects to the same path with a slash at its end; set trailing_slash: true"
        return KeySourceProtocolError(place, call, f"HTTP {code}: {what}")
    if not 400 <= code < 600:
        return KeySourceProtocolError(
            place, call, f"HTTP {code} where the standard has 200, 400, 401 or 503", lost=keys
        )
    said = words(headers.get("Content-Type", ""), body)
    detail = f"HTTP {code}: {said}"
    kind: type[KeySourceError]
    if refuses_certificate(code, said):
        kind = KeySourceCertificateError
    elif code in (401, 403):
        kind = KeySourceUnauthorizedError
    elif call == "dec_keys" and (code == 404 or NOT_FOUND.search(said)):
        kind = KeyNotFoundError
    elif code >= 500 or code in (408, 429) or (call == "enc_keys" and NO_KEYS.search(said)):
        kind = KeySourceUnavailableError
    else:
        kind = KeyRequestRejectedError
        if mandatory and "extension" in said.lower():
            detail += "; what it does not support must not stand in extension_mandatory"
    return kind(place, call, detail, lost=keys if perhaps_done(code, said, kind) else 0)


def _is_key_id(text: str) -> bool:
    return 0 < len(text) <= MAX_KEY_ID and text.isascii() and text.isprintable() and " " not in text
