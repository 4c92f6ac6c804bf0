"""What key sources answer: containers and statuses of ETSI GS QKD 014, SKIP, a vendor's program, errors as HTTP has
them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from qtunnel.drivers import etsi014_answers, program_answers, skip_answers
from qtunnel.drivers.answers import MAX_WORDS, clean, words
from qtunnel.errors import KeySourceError, KeySourceProtocolError
from qtunnel.keys.source import SourceStatus
from qtunnel.probe import container as container_of
from qtunnel.secret import Secret
from tests.fuzz.draw import Draw, document, spoiled
from tests.fuzz.target import Target, say

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()
UUID, OTHER = "2f9c0e1a-5b1d-4a53-9a3a-0123456789ab", "2F9C0E1A-5B1D-4A53-9A3A-0123456789AC"
NAMES = (
    "keys",
    "Keys",
    "key",
    "key_ID",
    "KEY_id",
    "keyId",
    "healthy",
    "alarm",
    "status_extension",
    "message",
    "details",
)
FORMS: tuple[Any, ...] = (TEXT, TEXT.rstrip("="), TEXT.replace("+", "-").replace("/", "_"), KEY.hex(), TEXT + "=",
    TEXT[:-1], "AAAA" * 11, "é" * 44,
         UUID, OTHER, UUID.upper(), "NaN", {"key": TEXT, "key_ID": OTHER}, {"keys": []}, "x" * 256, "-x",
         "a b")  # fmt: skip
"""Keys and key_IDs as servers write them."""

CONTAINER = {"keys": [{"key_ID": UUID, "key": TEXT}, {"key_ID": OTHER, "key": TEXT[::-1].replace("=", "") + "="}]}
STATUS = {
    "source_KME_ID": "kme-a", "target_KME_ID": "kme-b", "master_SAE_ID": "sae-a", "slave_SAE_ID": "sae-b",
    "key_size": 256,
    "stored_key_count": 25, "max_key_count": 10_000, "max_key_per_request": 128, "max_key_size": 4096,
    "min_key_size": 64,
    "max_SAE_ID_count": 4, "status_extension": {"qber": 0.01, "key_rate": 1000, "alarm": "eavesdropping",
    "simulated": True},
}  # fmt: skip
CAPABILITIES = {
    "entropy": True, "key": True, "algorithm": "QKD", "localSystemID": "KP_A", "remoteSystemID": ["KP_B", "KP_?", "*"],
}  # fmt: skip
FIXED = {"keyId": KEY.hex(), "key": KEY.hex()}
ENTROPY = {"randomStr": KEY.hex(), "minentropy": 256}
PRINTED = {"key_ID": UUID, "key": TEXT}
REPORT = {"healthy": True, "stored_keys": 3, "max_keys": 9, "key_size": 256, "qber": 0.01, "key_rate": 5.5,
    "alarm": "x",
          "detail": "all is well"}  # fmt: skip
ERROR = {"message": f"no key {TEXT}", "details": [{"key": TEXT}, {"reason": "x"}]}


def fail(what: str) -> KeySourceProtocolError:
    return KeySourceProtocolError("place", "call", what, lost=1)


def _check_error(error: KeySourceError) -> None:
    """In one line for people, without the key."""
    say(str(error))
    assert "\n" not in str(error)
    assert not any(secret in str(error) for secret in (TEXT, TEXT[:40], KEY.hex(), KEY.hex()[:40])), "a key in an error"
    assert 0 <= error.lost <= etsi014_answers.MAX_LOST


def container(data: bytes) -> None:
    """As many keys as were asked for at most, each of its size, no key_ID twice."""
    asked = 1 + (data[0] % 3 if data else 0)
    body = document(data[1:], CONTAINER, FORMS)
    try:
        keys = etsi014_answers.keys_of("place", "enc_keys", body, 32, asked)
    except KeySourceError as error:
        _check_error(error)
        assert error.lost >= asked
        keys = []
    assert len(keys) <= asked
    assert all(len(key) == 32 and 0 < len(key_id) <= etsi014_answers.MAX_KEY_ID for key_id, key in keys)
    for key_id, _ in keys:
        say(key_id)
    wanted = (UUID, OTHER)[:asked]
    try:
        found = etsi014_answers.keys_by_id("place", "dec_keys", body, 32, wanted)
        assert len(found) == len(wanted)
    except KeySourceError as error:
        _check_error(error)


def probed(data: bytes) -> None:
    """The same container as ``qtunnel kme probe`` reads it: what is odd in it, in words and without a key."""
    try:
        found = json.loads(document(data, CONTAINER, FORMS))
    except (ValueError, RecursionError):
        return
    keys, odd = container_of.read(found, 256)
    assert all(isinstance(key_id, str) for key_id, _ in keys)
    for seen, copes in odd.values():
        say(seen + copes)
        assert TEXT not in seen


def status(data: bytes) -> None:
    """Numbers are numbers or not told; an alarm is one in any form; words are fit to be shown."""
    try:
        fields = etsi014_answers.status("place", document(data, STATUS, FORMS))
        found = etsi014_answers.source_status("place", fields)
    except KeySourceError as error:
        return _check_error(error)
    _check_status(found)
    extension = fields.get("status_extension")
    if isinstance(extension, dict) and extension.get("alarm") not in (None, False, 0, "", [], {}):
        assert found.alarm or not str(extension["alarm"]).strip()
    limits = etsi014_answers.limits(fields)
    assert limits.max_per_request >= 1
    say(limits.problem(256) or "")
    return None


def _check_status(found: SourceStatus) -> None:
    say(found.detail)
    say(found.alarm or "")
    for number in (found.stored_keys, found.max_keys, found.key_size, found.qber, found.key_rate):
        assert number is None or 0 <= number <= 1e15


def capabilities(data: bytes) -> None:
    try:
        found = skip_answers.capabilities("place", document(data, CAPABILITIES, (*FORMS, "[", "[!", "*" * 200)))
    except KeySourceError as error:
        return _check_error(error)
    found.reaches("KP_B" * 10)
    say(found.listed + found.algorithm + found.local_system_id)
    return None


def fixed(data: bytes) -> None:
    """A key of SKIP, and random bytes."""
    readers: tuple[Callable[[], Secret], ...] = (
        lambda: skip_answers.key("place", skip_answers.KEY, document(data, FIXED, FORMS), 32)[1],
        lambda: skip_answers.entropy("place", document(data, ENTROPY, FORMS), 32),
    )
    for read in readers:
        try:
            assert len(read()) == 32
        except KeySourceError as error:
            _check_error(error)


def printed(data: bytes) -> None:
    """What a vendor's program prints, in each of its forms."""
    draw = Draw(data[:2])
    kind = draw.choice(("json", "hex", "base64", "raw"))
    key_id = draw.choice((None, UUID, OTHER)) if kind == "json" else UUID
    plain = {"json": b"", "hex": KEY.hex().encode(), "base64": TEXT.encode(), "raw": KEY}[kind]
    output = document(data[2:], PRINTED, FORMS) if kind == "json" else spoiled(Draw(data[2:]), plain)
    found: tuple[str, Secret] | None = None
    try:
        found = program_answers.key_in(bytearray(output), kind, key_id, 32, fail)  # type: ignore[arg-type]  # of the four
    except KeySourceError as error:
        _check_error(error)
    assert found is None or len(found[1]) == 32
    assert found is None or key_id is None or found[0] == key_id
    assert found is None or program_answers.usable_key_id(found[0])
    said = program_answers.complaint(data[1:], bytearray(output))
    say(said)
    assert len(said) <= MAX_WORDS


def report(data: bytes) -> None:
    """The status that a vendor's program prints."""
    try:
        _check_status(program_answers.status_in(bytearray(document(data, REPORT, FORMS)), fail, fail))
    except KeySourceError as error:
        _check_error(error)


def refusal(data: bytes) -> None:
    """Any status code, header and body: a named error, in words, without a key."""
    draw = Draw(data)
    code = draw.choice((400, 401, 403, 404, 408, 429, 495, 500, 501, 502, 503, 301, 302, 204, 100, draw.number(0, 999)))
    kind = draw.choice(("application/json", "text/html", "text/plain", ""))
    headers: Mapping[str, str] = {"Content-Type": kind, "Location": draw.text(40)}
    call = draw.choice(("enc_keys", "dec_keys", "status"))
    skip_call = draw.choice((skip_answers.KEY, skip_answers.KEY_BY_ID, skip_answers.CAPABILITIES, skip_answers.ENTROPY))
    pages: tuple[Any, ...] = (
        b"<html><title>400 No required SSL certificate</title>",
        b"<h1>",
        b"<" * 400,
        b"&#1234567890;",
    )
    body = draw.choice(pages) + draw.rest() if draw.flag(3) else document(draw.rest(), ERROR, FORMS)
    _check_error(etsi014_answers.refusal("place", call, code, headers, body, keys=1))
    _check_error(skip_answers.refusal("place", skip_call, code, headers, body, keys=1))
    assert len(words(kind, body)) <= MAX_WORDS


def cleaned(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    said = clean(text)
    say(said)
    assert len(said) <= MAX_WORDS
    assert clean(said) == said or "…" in said or "[removed]" in said


JSON_WORDS = (*(f'"{name}":'.encode() for name in NAMES), TEXT.encode(), UUID.encode(), b"null", b"NaN", b"1e999")
TARGETS = {
    "container": Target(container, (), 600, JSON_WORDS),
    "probed": Target(probed, (), 600, JSON_WORDS),
    "status": Target(status, (), 600, JSON_WORDS),
    "capabilities": Target(capabilities, (), 600, JSON_WORDS),
    "fixed": Target(fixed, (), 600, JSON_WORDS),
    "printed": Target(printed, (), 600, JSON_WORDS),
    "report": Target(report, (), 600, JSON_WORDS),
    "refusal": Target(refusal, (), 600, (b"<title>", b"</title>", b"<h1", b"not found", b"no key available", b"&amp;")),
    "cleaned": Target(cleaned, (), 400),
}
