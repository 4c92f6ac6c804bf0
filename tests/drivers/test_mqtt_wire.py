"""Topics and payloads of the mqtt driver: what is read, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import json
import traceback
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.drivers import mqtt_wire as wire
from qtunnel.errors import KeySourceProtocolError, KeySourceUnavailableError
from qtunnel.secret import Secret

ID = "0d1f2f60-3a4b-4c5d-8e6f-708192a3b4c5"
KEY_ID = "9b2c7f80-1d2e-4f30-a1b2-c3d4e5f60718"
KEY = bytes(range(7, 39))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def good(**changes: Any) -> dict[str, Any]:
    fields = {"v": 1, "request_id": ID, "key_ID": KEY_ID, "key": base64.b64encode(KEY).decode(), "size": 256}
    return {name: value for name, value in (fields | changes).items() if value is not ...}


def read(fields: object) -> wire.Answer | wire.Refusal:
    return wire.response(json.dumps(fields).encode(), ID.encode(), 32)


@given(st.binary(min_size=1, max_size=600), st.uuids(), st.uuids())
def test_a_key_comes_out_as_it_went_in(key: bytes, request_id: uuid.UUID, key_id: uuid.UUID) -> None:
    fields = {"v": 1, "request_id": str(request_id), "key_ID": str(key_id).upper(), "size": len(key) * 8}
    payload = json.dumps(fields | {"key": base64.b64encode(key).decode()}).encode()
    answer = wire.response(payload, str(request_id).encode(), len(key))
    assert answer == wire.Answer(str(key_id), Secret(key))


def test_requests() -> None:
    assert json.loads(wire.request(ID, "bob", 32)) == {
        "v": 1, "type": "key", "request_id": ID, "peer": "bob", "size": 256,
    }  # fmt: skip
    assert json.loads(wire.request(ID, "bob", 32, KEY_ID)) == {
        "v": 1, "type": "key-by-id", "request_id": ID, "peer": "bob", "size": 256, "key_ID": KEY_ID,
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"v": 2}, "its version"),
        ({"v": True}, "its version"),
        ({"v": 1.0}, "its version"),
        ({"v": ...}, "its version"),
        ({"key": ...}, "it has no key"),
        ({"more": 1}, "a member that this version does not know"),
        ({"request_id": KEY_ID}, "not that of the correlation data"),
        ({"request_id": 7}, "request_id is not a UUID"),
        ({"key_ID": "seven"}, "key_ID is not a UUID"),
        ({"key_ID": KEY_ID.replace("-", "")}, "key_ID is not a UUID"),
        ({"key_ID": None}, "key_ID is not a UUID"),
        ({"size": 128}, "not the 256 bits"),
        ({"size": 256.0}, "not the 256 bits"),
        ({"key": base64.b64encode(KEY[:16]).decode()}, "has 128 bits where 256 were asked for"),
        ({"key": KEY.hex()}, "has 384 bits"),
        ({"key": "+" * 43}, "not base64"),
        ({"key": base64.b64encode(KEY).decode() + "\n"}, "not base64"),
        ({"key": list(KEY)}, "key is not text"),
        ({"error": {"code": "busy"}}, "does not know"),
    ],
)
def test_answers_that_are_not_of_the_protocol(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(wire.WireError, match=words):
        read(good(**changes))


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"null", b"[]", b"{", b"\xff", b'{"v":NaN}', b'{"v":1,"v":1}', b"[" * 16_000,
        json.dumps(good()).encode() + b" " * wire.MAX_PAYLOAD, b'{"v":' + b"1" * 5000 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_object_or_too_large(payload: bytes) -> None:
    for reader in (wire.presence, wire.link_report, lambda data: wire.response(data, ID.encode(), 32)):
        with pytest.raises(wire.WireError):
            reader(payload)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_nothing_else_is_ever_raised(payload: bytes) -> None:
    for reader in (wire.presence, wire.link_report, lambda data: wire.response(data, ID.encode(), 32)):
        with contextlib.suppress(wire.WireError):
            reader(payload)


REPORTED = ["v", "link", "stored_keys", "max_keys", "key_size", "qber", "key_rate", "alarm"]


@given(st.dictionaries(st.sampled_from(REPORTED), JSON | st.sampled_from([1, "up", "down"])))
def test_a_link_report_is_within_its_bounds_or_refused(fields: dict[str, Any]) -> None:
    try:
        report = wire.link_report(json.dumps(fields).encode())
    except wire.WireError:
        return
    assert report.qber is None or 0 <= report.qber <= 1
    assert report.key_rate is None or 0 <= report.key_rate <= 1e15
    assert report.stored_keys is None or 0 <= report.stored_keys <= wire.MAX_COUNT
    assert report.key_size is None or 0 < report.key_size <= wire.MAX_KEY


def test_nothing_of_a_key_stands_in_what_is_raised() -> None:
    key = base64.b64encode(KEY).decode()
    torn = json.dumps(good()).encode()[:-1]
    for payload in (torn, json.dumps(good(key_ID="x")).encode(), json.dumps(good(key=key + "=")).encode()):
        with pytest.raises(wire.WireError) as caught:
            wire.response(payload, ID.encode(), 32)
        error: BaseException | None = caught.value
        assert error is not None
        assert key[:12] not in "".join(traceback.format_exception(error))
        assert error.__context__ is None, "the library's exception, which holds the whole text, must not come along"


def test_refusals() -> None:
    def refused(error: object) -> wire.Refusal:
        found = read({"v": 1, "request_id": ID, "error": error})
        assert isinstance(found, wire.Refusal)
        return found

    assert refused({"code": "no-keys"}) == wire.Refusal(KeySourceUnavailableError, "no-keys", 0)
    assert refused({"code": "internal", "message": "disk"}).lost == 1
    unknown = refused({"code": "of-version-2"})
    assert (unknown.kind, unknown.lost) == (KeySourceProtocolError, 1)
    words = refused({"code": "busy", "message": "line\nbreak " + base64.b64encode(KEY).decode() + " \x1b[31m"}).detail
    assert words == "busy: line break [removed] [31m"
    for error in (None, "busy", {}, {"code": 7}, {"code": "BUSY"}, {"code": "-"}, {"code": "busy", "message": 1},
                  {"code": "busy", "more": 1}, {"code": "x" * 41}):  # fmt: skip
        with pytest.raises(wire.WireError):
            refused(error)


def test_topics() -> None:
    topics = wire.Topics("qkd/v1", "qkd-a", "gateway-a", "r")
    assert topics.request == "qkd/v1/qkd-a/request/gateway-a"
    assert topics.response == "qkd/v1/qkd-a/response/gateway-a/r"
    assert topics.status == "qkd/v1/qkd-a/status"
    assert topics.peer_of(topics.link("gateway-b")) == "gateway-b"
    for other in (topics.status, topics.link("a/b"), "qkd/v1/qkd-b/link/gateway-b"):
        assert topics.peer_of(other) is None
