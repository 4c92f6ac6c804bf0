"""What a QKD device and its users say to each other over MQTT: topics and payloads, version 1 (docs/sources/mqtt.md).

Pure. Payloads are read strictly: exactly the members that the version has, each of its type and within its bounds.
Nothing that is raised here holds a part of what was read, for that may be a key.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
)
from qtunnel.secret import Secret

VERSION = 1

MAX_PAYLOAD = 16 * 1024
"""Bytes of a payload: the largest key in base64 and its frame. Larger ones are refused unread."""

MAX_KEY = 8 * 1024
"""Bytes of a key."""

MAX_WORDS = 200
"""Characters of a message for people that are shown."""

MAX_COUNT = 2**53
"""The largest integer that every JSON library holds exactly (RFC 8259 clause 6)."""

REFUSALS: Mapping[str, tuple[type[KeySourceError], int]] = {
    "no-keys": (KeySourceUnavailableError, 0),
    "link-down": (KeySourceUnavailableError, 0),
    "eavesdropping": (KeySourceUnavailableError, 0),
    "busy": (KeySourceUnavailableError, 0),
    "unknown-key": (KeyNotFoundError, 0),
    "unknown-peer": (KeyRequestRejectedError, 0),
    "bad-size": (KeyRequestRejectedError, 0),
    "bad-request": (KeyRequestRejectedError, 0),
    "bad-version": (KeyRequestRejectedError, 0),
    "expired": (KeySourceUnavailableError, 0),
    "forbidden": (KeySourceUnauthorizedError, 0),
    "internal": (KeySourceUnavailableError, 1),
}
"""The codes of errors: what each is to us, and how many keys it may have cost. Only ``internal`` may have cost one."""

_CODE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)


class WireError(Exception):
    """A payload that is not of the protocol; says what is wrong with it and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device, as one of its users sees them.

    prefix: of one level or more; device, client: one level each. reply: the last level of the topic of answers, new
    with each connection.
    """

    prefix: str
    device: str
    client: str
    reply: str

    @property
    def request(self) -> str:
        return f"{self.prefix}/{self.device}/request/{self.client}"

    @property
    def response(self) -> str:
        return f"{self.prefix}/{self.device}/response/{self.client}/{self.reply}"

    @property
    def status(self) -> str:
        return f"{self.prefix}/{self.device}/status"

    def link(self, peer: str) -> str:
        return f"{self.prefix}/{self.device}/link/{peer}"

    def peer_of(self, topic: str) -> str | None:
        """The peer whose link report this is the topic of."""
        before = self.link("")
        return topic[len(before) :] if topic.startswith(before) and "/" not in topic[len(before) :] else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A key that was asked for."""

    key_id: str
    key: Secret


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is none. kind: the error it is to us; lost: keys that it may have cost."""

    kind: type[KeySourceError]
    detail: str
    lost: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """What the device warns of. code: a word for programs, as ``eavesdropping`` or ``tamper``."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether the device is at the broker."""

    online: bool
    alarm: Alarm | None


@dataclass(frozen=True, slots=True)
class LinkReport:
    """How the link to one peer is. key_size: bytes; qber: a fraction; key_rate: secret bits per second."""

    up: bool
    stored_keys: int | None
    max_keys: int | None
    key_size: int | None
    qber: float | None
    key_rate: float | None
    alarm: Alarm | None


def request(request_id: str, peer: str, size: int, key_id: str | None = None) -> bytes:
    """The payload that asks for a key of ``size`` bytes: a fresh one, or that of ``key_id``."""
    fields: dict[str, object] = {
        "v": VERSION,
        "type": "key" if key_id is None else "key-by-id",
        "request_id": request_id,
        "peer": peer,
        "size": size * 8,
    }
    if key_id is not None:
        fields["key_ID"] = key_id
    return json.dumps(fields).encode()


def response(payload: bytes, correlation: bytes, size: int) -> Answer | Refusal:
    """The answer to the request whose id the correlation data has, for a key of ``size`` bytes."""
    fields = _object(payload)
    if "error" in fields:
        _members(fields, {"v", "request_id", "error"})
        _check_request_id(fields["request_id"], correlation)
        return _refusal(fields["error"])
    _members(fields, {"v", "request_id", "key_ID", "key", "size"})
    _check_request_id(fields["request_id"], correlation)
    key_id, text = fields["key_ID"], fields["key"]
    if not isinstance(key_id, str) or not is_uuid(key_id):
        _fail("its key_ID is not a UUID")
    if fields["size"] != size * 8 or not isinstance(fields["size"], int):
        _fail(f"its size is not the {size * 8} bits that were asked for")
    if not isinstance(text, str):
        _fail("its key is not text")
    raw = _base64(text)
    if raw is None:
        _fail("its key is not base64")
    if len(raw) != size:
        _fail(f"its key has {len(raw) * 8} bits where {size * 8} were asked for")
    return Answer(key_id.lower(), Secret(raw))


def presence(payload: bytes) -> Presence:
    """What the device's status says, or its last will."""
    fields = _object(payload)
    _members(fields, {"v", "online"}, {"alarm"})
    if not isinstance(fields["online"], bool):
        _fail("online is neither true nor false")
    return Presence(fields["online"], _alarm(fields.get("alarm")))


def link_report(payload: bytes) -> LinkReport:
    """What the report on one link says."""
    fields = _object(payload)
    _members(fields, {"v", "link"}, {"stored_keys", "max_keys", "key_size", "qber", "key_rate", "alarm"})
    if fields["link"] not in ("up", "down"):
        _fail("link is neither up nor down")
    bits = _count(fields, "key_size")
    if bits is not None and (bits % 8 or not 0 < bits <= MAX_KEY * 8):
        _fail("key_size is not a size of keys in bits")
    return LinkReport(
        up=fields["link"] == "up",
        stored_keys=_count(fields, "stored_keys"),
        max_keys=_count(fields, "max_keys"),
        key_size=None if bits is None else bits // 8,
        qber=_amount(fields, "qber", 1.0),
        key_rate=_amount(fields, "key_rate", 1e15),
        alarm=_alarm(fields.get("alarm")),
    )


def is_uuid(text: str) -> bool:
    """Whether it is a UUID in its canonical notation, in capitals or not (RFC 9562 clause 4)."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _fail(what: str) -> NoReturn:
    raise WireError(what)


def _object(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_PAYLOAD:
        _fail(f"it has more than {MAX_PAYLOAD} bytes")
    # The library's exception holds the whole text. It must be gone before another is raised, which would drag it along.
    value = _json(payload)
    if not isinstance(value, dict):
        _fail("it is not a JSON object")
    version = value.get("v")
    if version != VERSION or not isinstance(version, int) or isinstance(version, bool):
        _fail(f"its version (v) is not {VERSION}")
    return value


def _json(payload: bytes) -> object:
    try:
        return json.loads(payload.decode("utf-8"), object_pairs_hook=_once, parse_constant=_none)
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError
    return fields


def _none(constant: str) -> NoReturn:
    raise ValueError  # NaN and infinities, which are not JSON


def _members(fields: Mapping[str, Any], needed: set[str], possible: set[str] | None = None) -> None:
    missing = sorted(needed - fields.keys())
    if missing:
        _fail(f"it has no {missing[0]}")
    if fields.keys() - needed - (possible or set()):
        _fail("it has a member that this version does not know")


def _check_request_id(request_id: object, correlation: bytes) -> None:
    if not isinstance(request_id, str) or not is_uuid(request_id):
        _fail("its request_id is not a UUID")
    if request_id.encode() != correlation:
        _fail("its request_id is not that of the correlation data")


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None


def _refusal(error: object) -> Refusal:
    code, message = _coded(error, "error")
    if code not in REFUSALS:
        # What it means we cannot know, so neither whether a key is gone.
        return Refusal(KeySourceProtocolError, "an error whose code this version does not know", 1)
    kind, lost = REFUSALS[code]
    return Refusal(kind, f"{code}: {message}" if message else code, lost)


def _alarm(value: object) -> Alarm | None:
    return None if value is None else Alarm(*_coded(value, "alarm"))


def _coded(value: object, what: str) -> tuple[str, str]:
    if not isinstance(value, dict) or not {"code"} <= value.keys() <= {"code", "message"}:
        _fail(f"its {what} is not an object with code and message")
    code, message = value["code"], value.get("message", "")
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        _fail(f"the code of its {what} is not a word")
    if not isinstance(message, str):
        _fail(f"the message of its {what} is not text")
    return code, clean(message)


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        _fail(f"{name} is not a count")
    return value


def _amount(fields: Mapping[str, Any], name: str, most: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most or math.isnan(value):
        _fail(f"{name} is not a number from 0 to {most:g}")
    return float(value)


def clean(text: str) -> str:
    """One line of at most ``MAX_WORDS`` printable characters; long words, which may be keys, are taken out."""
    words = "".join(c if c.isprintable() else " " for c in text[: 20 * MAX_WORDS]).split()
    line = " ".join(word if len(word) <= 36 else "[removed]" for word in words)  # 36: a UUID
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"
