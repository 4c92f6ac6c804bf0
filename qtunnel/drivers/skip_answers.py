"""What key providers answer over SKIP (draft-cisco-skip-02), and what is made of it. Pure.

Tolerated: any case in field names and in hexadecimal, further fields, errors as HTML or plain text. Not tolerated:
anything that leaves a doubt about which key of which size it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qtunnel.drivers.answers import (
    NO_KEYS,
    NOT_FOUND,
    Body,
    Fail,
    clean,
    json_object,
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
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
)
from qtunnel.secret import Secret

CAPABILITIES, KEY, KEY_BY_ID, ENTROPY = "capabilities", "key", "key by keyId", "entropy"
"""The calls, as errors name them (draft, table 2)."""

MAX_KEY_ID = 254
"""Hexadecimal digits of a keyId, two a byte; the draft's default is 32 (section 4.2.1). One byte holds the length of
a key_ID between the gateways."""

MAX_SYSTEM_ID = 255
"""Characters of a system ID or of a pattern for some; the draft has 32 as the least that must be possible."""

MAX_SYSTEM_IDS = 10_000
"""Entries of a list of system IDs; who has more key providers writes patterns."""

MAX_PATTERNS = 256
"""Of these, patterns: each costs up to 2 ms of the loop that carries all tunnels, and may be another one each time."""

_WILD = frozenset("*?[")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_MALFORMED = re.compile(r"malformed|invalid|bad\s+(key|format)|not\s+hex", re.IGNORECASE)

_MEANINGS = {
    (KEY_BY_ID, 400): "the keyId is malformed, or it has no such key",
    (KEY_BY_ID, 404): "it has no such key",
    (KEY, 500): "it failed while it read or wiped the key",
    (KEY_BY_ID, 500): "it failed while it read or wiped the key",
    (ENTROPY, 503): "it has no random number generator at hand, or too little entropy",
}
"""Status codes by call (draft, tables 7 and 9)."""

_GENERAL_MEANINGS = {
    404: "no path of SKIP there; is url that of the key provider?",
    405: "it takes no GET, which is all that SKIP has; is url that of the key provider?",
}
"""Status codes of every call (draft, table 3)."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a key provider says of itself (draft, section 4.1): whether it gives entropy and keys, how it makes and
    synchronizes them, its own system ID, and those it shares keys with, or patterns for them."""

    entropy: bool
    key: bool
    algorithm: str
    local_system_id: str
    remote_system_ids: tuple[str, ...]

    def reaches(self, system_id: str) -> bool:
        """Whether keys shared with that key provider can be had, by its ID or by a glob pattern (draft, table 5)."""
        return system_id in self.remote_system_ids or any(
            fnmatchcase(system_id, entry) for entry in self.remote_system_ids if _wild(entry)
        )

    @property
    def listed(self) -> str:
        """The remote system IDs for people."""
        return clean(", ".join(self.remote_system_ids[:20]))


def is_system_id(text: str) -> bool:
    return 0 < len(text) <= MAX_SYSTEM_ID and text.isprintable()


def _wild(entry: str) -> bool:
    """Whether a system ID is a pattern for some."""
    return not _WILD.isdisjoint(entry)


def is_key_id(text: str) -> bool:
    """Whether it is a keyId: bytes in hexadecimal."""
    return len(text) <= MAX_KEY_ID and _HEX.fullmatch(text) is not None


def capabilities(place: str, body: Body) -> Capabilities:
    """Those of an answer (draft, figure 3); raises ``KeySourceProtocolError``."""

    def fail(what: str) -> KeySourceProtocolError:
        return KeySourceProtocolError(place, CAPABILITIES, f"HTTP 200, but {what}")

    fields = json_object(body, fail)
    key, local, remote = (fields.get(name) for name in ("key", "localsystemid", "remotesystemid"))
    if not isinstance(key, bool):
        raise fail("it does not say whether it gives keys (key)")
    if not isinstance(local, str) or not is_system_id(local):
        raise fail("it has no usable localSystemID")
    if not isinstance(remote, list) or not 0 < len(remote) <= MAX_SYSTEM_IDS:
        raise fail("it has no list of remoteSystemID")
    if not all(isinstance(entry, str) and is_system_id(entry) for entry in remote):
        raise fail("an entry of remoteSystemID is not usable")
    if sum(map(_wild, remote)) > MAX_PATTERNS:
        raise fail(f"its remoteSystemID has more than {MAX_PATTERNS} patterns")
    algorithm = fields.get("algorithm")
    return Capabilities(
        fields.get("entropy") is True, key, clean(algorithm) if isinstance(algorithm, str) else "", local, tuple(remote)
    )


def key(place: str, call: str, body: Body, size: int) -> tuple[str, Secret]:
    """The keyId and the key of an answer (draft, figure 5), which must have ``size`` bytes.

    Raises ``KeySourceProtocolError``, which never quotes the body; the key is lost then.
    """

    def fail(what: str) -> KeySourceProtocolError:
        return KeySourceProtocolError(place, call, f"HTTP 200, but {what}", lost=1)

    fields = json_object(body, fail)
    key_id = fields.get("keyid")
    if not isinstance(key_id, str) or not is_key_id(key_id):
        raise fail("the key has no usable keyId in hexadecimal")
    return key_id, _bytes(fields.get("key"), size, "key", fail)


def entropy(place: str, body: Body, size: int) -> Secret:
    """The random bytes of an answer (draft, figure 7), which must be ``size``; raises ``KeySourceProtocolError``."""

    def fail(what: str) -> KeySourceProtocolError:
        return KeySourceProtocolError(place, ENTROPY, f"HTTP 200, but {what}")

    fields = json_object(body, fail)
    said = fields.get("minentropy")
    if not isinstance(said, int) or isinstance(said, bool):
        raise fail("it does not say how much entropy there is (minentropy)")
    if said < size * 8:
        raise fail(f"it has {said} bits of entropy where {size * 8} were asked for")
    return _bytes(fields.get("randomstr"), size, "random string", fail)


def _bytes(text: object, size: int, what: str, fail: Fail) -> Secret:
    if not isinstance(text, str) or not text:
        raise fail(f"the {what} is missing")
    if not _HEX.fullmatch(text):
        base64 = _BASE64.fullmatch(text) and len(text.rstrip("=")) == -(-size * 4 // 3)
        raise fail(f"the {what} " + ("seems to be base64 where hexadecimal is expected" if base64 else "is not hex"))
    if len(text) != 2 * size:
        raise fail(f"the {what} has {len(text) * 4} bits where {size * 8} were asked for")
    raw = bytearray.fromhex(text)
    try:
        return Secret(raw)
    finally:
        raw[:] = bytes(len(raw))


def refusal(
    place: str, call: str, code: int, headers: Mapping[str, str], body: Body, *, keys: int = 0
) -> KeySourceError:
    """The named error for an answer other than 200, with the key provider's own words and what the draft means by it.

    keys: how many were asked for; they may be lost where the answer comes from a server that failed, or from one that
    stands between us and the key provider.
    """
    if 300 <= code < 400:
        return KeySourceProtocolError(place, call, f"HTTP {code}: redirects elsewhere; write its final address as url")
    if not 400 <= code < 600:
        what = f"HTTP {code} where SKIP has 200, 400, 404, 405, 500 or 503"
        return KeySourceProtocolError(place, call, what, lost=keys)
    said = words(headers.get("Content-Type", ""), body)
    meaning = _MEANINGS.get((call, code)) or _GENERAL_MEANINGS.get(code)
    kind = _kind(call, code, said)
    detail = f"HTTP {code}: {said}" + (f" ({meaning})" if meaning else "")
    return kind(place, call, detail, lost=keys if perhaps_done(code, said, kind) else 0)


def _kind(call: str, code: int, said: str) -> type[KeySourceError]:
    if refuses_certificate(code, said):
        return KeySourceCertificateError
    if code in (401, 403):
        return KeySourceUnauthorizedError
    if call == KEY_BY_ID and code == 400 and _MALFORMED.search(said) and not NOT_FOUND.search(said):
        return KeyRequestRejectedError
    if call == KEY_BY_ID and (code in (400, 404, 410) or NOT_FOUND.search(said)):
        return KeyNotFoundError
    if code >= 500 or code in (408, 429) or (call == KEY and NO_KEYS.search(said)):
        return KeySourceUnavailableError
    return KeyRequestRejectedError
