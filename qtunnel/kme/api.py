"""The data formats of ETSI GS QKD 014 v1.1.1 clause 6, as the KME reads and writes them. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qtunnel.secret import Secret

Json = dict[str, Any]

NOT_FOUND = "one or more keys specified are not found on KME"
"""The standard's own message for keys that are unknown, expired or delivered already."""


class ApiError(Exception):
    """An answer other than 200: HTTP status, and the message and details of clause 6.5. Never has key material."""

    def __init__(self, status: int, message: str, **details: object) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details

    def body(self) -> Json:
        body: Json = {"message": self.message}
        if self.details:
            body["details"] = [{name: value} for name, value in self.details.items()]
        return body


@dataclass(frozen=True, slots=True)
class Limits:
    """What the KME allows. Sizes in bits, counts in keys."""

    size: int
    min_size: int
    max_size: int
    max_per_request: int
    max_count: int
    max_sae_ids: int


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """Key request (clause 6.2). size in bits; mandatory: the extensions that the answer has to honour, all known."""

    number: int
    size: int
    additional_slaves: tuple[str, ...] = ()
    mandatory: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeliveredKey:
    """One key of a key container (clause 6.3)."""

    key_id: str
    key: Secret = field(repr=False)


def parse_json(body: bytes) -> Json:
    """The JSON object in a request's body, none being an empty one."""
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body is not a JSON object")
    return value


_KEY_REQUEST_FIELDS = ("number", "size", "additional_slave_SAE_IDs", "extension_mandatory", "extension_optional")


def parse_query(query: Iterable[tuple[str, str]]) -> Json:
    """The parameters of GET enc_keys, as the JSON object that POST would have."""
    fields: Json = {}
    for name, value in query:
        if name not in ("number", "size"):
            raise ApiError(400, f"unknown parameter {name[:40]!r}; GET takes number and size, POST takes all")
        if name in fields:
            raise ApiError(400, f"{name} is given twice")
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            raise ApiError(400, f"{name} shall be an integer", **{name: value[:40]})
        fields[name] = int(value)
    return fields


def parse_key_request(
    fields: Mapping[str, Any], limits: Limits, extensions: frozenset[str] = frozenset()
) -> KeyRequest:
    """A key request within the limits; raises ``ApiError`` 400. extensions: those that the KME knows."""
    _refuse_unknown(fields, _KEY_REQUEST_FIELDS)
    number = _integer(fields, "number", 1)
    size = _integer(fields, "size", limits.size)
    if not 1 <= number <= limits.max_per_request:
        raise ApiError(
            400, "number is out of range", number=number, minimum=1, max_key_per_request=limits.max_per_request
        )
    if size % 8:
        raise ApiError(400, "size shall be a multiple of 8", size=size)
    if not limits.min_size <= size <= limits.max_size:
        raise ApiError(
            400, "size is out of range", size=size, min_key_size=limits.min_size, max_key_size=limits.max_size
        )
    additional = _list(fields, "additional_slave_SAE_IDs", str)
    if len(additional) > limits.max_sae_ids:
        raise ApiError(
            400, "too many additional_slave_SAE_IDs", number=len(additional), max_SAE_ID_count=limits.max_sae_ids
        )
    mandatory = {name: value for one in _list(fields, "extension_mandatory", dict) for name, value in one.items()}
    if not mandatory.keys() <= extensions:
        supported = ", ".join(sorted(extensions)) or "none"
        raise ApiError(400, "not all extension_mandatory parameters are supported", supported=supported)
    _list(fields, "extension_optional", dict)  # well-formed ones are ignored, as the standard allows
    return KeyRequest(number, size, tuple(additional), mandatory)


def parse_key_ids(fields: Mapping[str, Any], limits: Limits) -> list[str]:
    """The key_IDs asked for (clause 6.4), in order, in lower case; raises ``ApiError`` 400."""
    _refuse_unknown(fields, ("key_IDs", "key_IDs_extension"))
    entries = _list(fields, "key_IDs", dict)
    found: list[str] = []
    for entry in entries:
        _refuse_unknown(entry, ("key_ID", "key_ID_extension"))
        key_id = entry.get("key_ID")
        if not isinstance(key_id, str) or not key_id:
            raise ApiError(400, "each of key_IDs shall have a key_ID, a string")
        found.append(key_id)
    return check_key_ids(found, limits)


def check_key_ids(key_ids: list[str], limits: Limits) -> list[str]:
    """``key_ids`` in lower case, if they can be asked for in one request; raises ``ApiError`` 400."""
    if not key_ids:
        raise ApiError(400, "key_ID is missing")
    if len(key_ids) > limits.max_per_request:
        raise ApiError(400, "too many key_IDs", number=len(key_ids), max_key_per_request=limits.max_per_request)
    lowered = [key_id.lower() for key_id in key_ids]
    if len(set(lowered)) != len(lowered):
        raise ApiError(400, "a key_ID is given twice")
    return lowered


def key_container(keys: Iterable[DeliveredKey]) -> bytes:
    """The JSON of a key container (clause 6.3)."""
    listed = [{"key_ID": key.key_id, "key": base64.b64encode(key.key.reveal()).decode()} for key in keys]
    return json.dumps({"keys": listed}).encode()


def _refuse_unknown(fields: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in fields:
        if name not in known:
            raise ApiError(400, f"unknown field {name[:40]!r}", known=list(known))


def _integer(fields: Mapping[str, Any], name: str, default: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise ApiError(400, f"{name} shall be an integer")
    return value


def _list(fields: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise ApiError(400, f"{name} shall be an array of {'objects' if kind is dict else 'strings'}")
    return value
