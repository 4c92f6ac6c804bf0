"""The etsi014 driver against servers that fail in every way, on real sockets with TLS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers import etsi014
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceStatusError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef
from tests.support.kme import Requests, answer, broken_server, driver_options, files, run

KEY = base64.b64encode(bytes(range(200, 232))).decode()
GOOD = {"keys": [{"key_ID": "11", "key": KEY}]}


def ok(body: object) -> bytes:
    return answer("200 OK", json.dumps(body))


def outcome(
    pki: Path,
    *replies: bytes | None,
    call: str = "enc_keys",
    tls: bool = True,
    hang: bool = False,
    timeout: str = "5s",
    port: int | None = None,
) -> tuple[object, Requests]:
    """What one call to a server with these replies returns or raises, and what the server saw."""

    async def test() -> tuple[object, Requests]:
        async with broken_server(files(pki, "kme-a") if tls else None, *replies, hang=hang) as seen:
            url = f"https://127.0.0.1:{port or seen.port}"
            hub = etsi014.Hub("metro", driver_options(pki, "sae-alice", url, timeout=timeout))
            source = hub.for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob"))
            try:
                if call == "status":
                    return await source.status(), seen
                if call == "dec_keys":
                    return await source.get_key_by_id(KeyRef("metro", "11", 32)), seen
                return await source.get_key(32), seen
            except KeySourceError as error:
                return error, seen
            finally:
                await hub.close()

    return run(test)


def error_of(pki: Path, *replies: bytes | None, **options: Any) -> KeySourceError:
    error, seen = outcome(pki, *replies, **options)
    assert isinstance(error, KeySourceError)
    assert len(seen.lines) <= 1  # a consuming call is never repeated
    text = f"{error} {error!r} {error.__cause__!r}"
    assert KEY not in text
    assert str(error).isprintable()
    return error


def test_the_broken_server_can_also_answer_well(pki: Path) -> None:
    result, seen = outcome(pki, ok(GOOD))
    assert isinstance(result, tuple)
    assert result[0] == KeyRef("metro", "11", 32)
    assert seen.lines == ["POST /api/v1/keys/sae-bob/enc_keys HTTP/1.1"]


@pytest.mark.parametrize(
    "body",
    [
        {"Keys": [{"key_ID": "11", "key": KEY}]},
        {"keys": [{"key_id": "11", "key": KEY}]},
        {"KEYS": [{"KEY_id": "11", "Key": KEY, "key_ID_extension": {}, "vendor": 1}], "key_container_extension": {}},
    ],
)
def test_other_spellings_and_further_fields(pki: Path, body: object) -> None:
    assert isinstance(outcome(pki, ok(body))[0], tuple)
    assert not isinstance(outcome(pki, ok(body), call="dec_keys")[0], KeySourceError)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (answer("200 OK"), "the answer is empty"),
        (answer("200 OK", "<html><title>" + KEY + "</title></html>", "text/html"), "the answer is HTML where JSON"),
        (answer("200 OK", KEY), "something else where JSON is expected"),
        (answer("200 OK", b"\xff\xfe"), "something else where JSON is expected"),
        (answer("200 OK", "[" * 100_000), "something else where JSON is expected"),
        (ok([GOOD]), "the answer is not a JSON object"),
        (ok({}), "no array of keys"),
        (ok({"keys": []}), "it has 0 keys where 1 was asked for"),
        (ok({"keys": GOOD["keys"] * 2}), "it has 2 keys where 1 was asked for"),
        (ok({**GOOD, "Keys": []}), "a field is there twice"),
        (ok({"keys": [KEY]}), "the key is not a JSON object"),
        (ok({"keys": [{"key": KEY}]}), "no usable key_ID"),
        (ok({"keys": [{"key_ID": 11, "key": KEY}]}), "no usable key_ID"),
        (ok({"keys": [{"key_ID": "a\nb", "key": KEY}]}), "no usable key_ID"),
        (ok({"keys": [{"key_ID": "x" * 256, "key": KEY}]}), "no usable key_ID"),
        (ok({"keys": [{"key_ID": "11"}]}), "the key's value is missing"),
        (ok({"keys": [{"key_ID": "11", "key": KEY + "!"}]}), "the key is not base64"),
        (ok({"keys": [{"key_ID": "11", "key": KEY[:-2]}]}), "the key has 248 bits where 256 were asked for"),
        (ok({"keys": [{"key_ID": "11", "key": KEY + "="}]}), "the key is not base64"),
        (ok({"keys": [{"key_ID": "11", "key": "AAAA"}]}), "the key has 24 bits where 256 were asked for"),
        (ok({"keys": [{"key_ID": "11", "key": KEY[:-1] + "A" + KEY}]}), "the key "),
        (answer("200 OK", b"x" * 400_000), "with more than"),
        (answer("200 OK", "x", headers="Content-Encoding: gzip\r\n"), "compressed"),
        (answer("204 No Content"), "HTTP 204"),
        (answer("302 Found", headers="Location: https://elsewhere/\r\n"), "redirects elsewhere"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "the answer is not HTTP"),
    ],
)
@pytest.mark.parametrize("call", ["enc_keys", "dec_keys"])
def test_answers_that_are_not_of_the_standard(pki: Path, call: str, reply: bytes, said: str) -> None:
    error = error_of(pki, reply, call=call)
    assert isinstance(error, KeySourceProtocolError)
    assert said in error.detail


def test_another_key_id_is_refused(pki: Path) -> None:
    error = error_of(pki, ok({"keys": [{"key_ID": "12", "key": KEY}]}), call="dec_keys")
    assert isinstance(error, KeySourceProtocolError)
    assert "answered key_ID 12 where 11 was asked" in error.detail


def html(title: str) -> str:
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>Oops</h1></body></html>"


@pytest.mark.parametrize(
    ("status", "body", "kind", "call", "expected", "said"),
    [
        (
            "400 Bad Request",
            '{"message": "bad size"}',
            "application/json",
            "enc_keys",
            KeyRequestRejectedError,
            "bad size",
        ),
        (
            "400 Bad Request",
            '{"message": "bad", "details": [{"size": 7}, {"hint": "use 8"}]}',
            "application/json",
            "enc_keys",
            KeyRequestRejectedError,
            "HTTP 400: bad; size=7, hint=use 8",
        ),
        (
            "422 Unprocessable Entity",
            '{"detail": [{"loc": ["body", "size"], "msg": "too big"}]}',
            "application/json",
            "enc_keys",
            KeyRequestRejectedError,
            "loc=body, size, msg=too big",
        ),
        (
            "401 Unauthorized",
            html("401 Authorization Required"),
            "text/html",
            "enc_keys",
            KeySourceUnauthorizedError,
            "401 Auth",
        ),
        ("403 Forbidden", "", "text/plain", "enc_keys", KeySourceUnauthorizedError, "no reason given"),
        ("404 Not Found", html("404"), "text/html", "enc_keys", KeyRequestRejectedError, "an HTML page, 404"),
        ("404 Not Found", "{}", "application/json", "dec_keys", KeyNotFoundError, "HTTP 404"),
        (
            "503 Unavailable",
            '{"detail": "Key not found"}',
            "application/json",
            "dec_keys",
            KeyNotFoundError,
            "Key not found",
        ),
        ("422 Unprocessable", "unknown key", "text/plain", "dec_keys", KeyNotFoundError, "unknown key"),
        (
            "400 Bad Request",
            '{"message": "Insufficient keys"}',
            "",
            "enc_keys",
            KeySourceUnavailableError,
            "Insufficient",
        ),
        (
            "400 Bad Request",
            html("400 The SSL certificate error"),
            "text/html",
            "enc_keys",
            KeySourceCertificateError,
            "an HTML page, 400 The SSL certificate error",
        ),
        ("496 Certificate", "", "", "dec_keys", KeySourceCertificateError, "HTTP 496: no reason given"),
        (
            "503 Unavailable",
            '{"message": "the partner KME refused our TLS certificate"}',
            "application/json",
            "enc_keys",
            KeySourceUnavailableError,
            "the partner KME refused",
        ),
        ("429 Too Many", "slow down", "text/plain", "enc_keys", KeySourceUnavailableError, "slow down"),
        (
            "500 Error",
            html("Error &amp; <b>more</b>"),
            "text/html",
            "enc_keys",
            KeySourceUnavailableError,
            "Error & more",
        ),
        ("502 Bad Gateway", "<h1>502</h1>", "text/html", "enc_keys", KeySourceUnavailableError, "an HTML page, 502"),
        ("503 Unavailable", "", "", "enc_keys", KeySourceUnavailableError, "HTTP 503: no reason given"),
    ],
)
def test_refusals_in_every_shape(
    pki: Path, status: str, body: str, kind: str, call: str, expected: type[KeySourceError], said: str
) -> None:
    error = error_of(pki, answer(status, body, kind), call=call)
    assert type(error) is expected
    assert said in error.detail
    assert error.detail.startswith(f"HTTP {status[:3]}")


def test_the_words_of_a_kme_are_one_short_line_without_keys(pki: Path) -> None:
    nasty = {"message": f"key {KEY} \x1b[31m\r\nerror=fake " + "long " * 500, "details": [{"key": KEY}]}
    error = error_of(pki, answer("400 Bad Request", json.dumps(nasty)))
    assert len(error.detail) < 250
    assert "[removed]" in error.detail


def test_no_answer(pki: Path) -> None:
    assert isinstance(error_of(pki, hang=True, timeout="200ms"), KeySourceTimeoutError)
    error = error_of(pki, None)
    assert isinstance(error, KeySourceUnreachableError)
    assert "closed the connection without an answer" in error.detail


def test_an_answer_that_breaks_off(pki: Path) -> None:
    broken = answer("200 OK", json.dumps(GOOD)).replace(b"Content-Length: ", b"Content-Length: 9")
    error = error_of(pki, broken)
    assert isinstance(error, KeySourceUnreachableError)
    assert "lost in the middle" in error.detail


def test_a_server_without_tls(pki: Path) -> None:
    error = error_of(pki, b"HTTP/1.1 400 Bad Request\r\n\r\n", tls=False)
    assert isinstance(error, KeySourceCertificateError)
    assert error.detail == "it does not speak TLS at this port"


def test_the_reason_behind_a_lost_connection(pki: Path) -> None:
    """The refusal of our certificate is lost on the first connection to a reset, and seen on the second."""
    mine = files(pki, "kme-a")
    blind, strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for context in (blind, strict):
        context.load_cert_chain(mine.certificate, mine.private_key)
    strict.verify_mode = ssl.CERT_REQUIRED  # and no CA: it trusts nobody
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)  # a client that does not come again must not hold the thread, and with it the suite

    def accepted() -> socket.socket:
        connection, _ = listener.accept()
        connection.settimeout(20)
        return connection

    def serve() -> None:
        with blind.wrap_socket(accepted(), server_side=True) as first:
            first.read(1)
        with accepted() as second, contextlib.suppress(ssl.SSLError):
            strict.wrap_socket(second, server_side=True)

    async def test() -> None:
        hub = etsi014.Hub("metro", driver_options(pki, "sae-alice", f"https://127.0.0.1:{listener.getsockname()[1]}"))
        server = asyncio.create_task(asyncio.to_thread(serve))
        try:
            with pytest.raises(KeySourceCertificateError, match="refused our certificate: not signed by a CA"):
                await hub.for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob")).get_key(32)
            await server
        finally:
            await hub.close()

    with listener:
        run(test)


def test_nobody_there(pki: Path) -> None:
    error = error_of(pki, port=1)
    assert isinstance(error, KeySourceUnreachableError)
    assert error.detail == "connection refused"


def test_a_name_that_does_not_exist(pki: Path) -> None:
    async def test() -> None:
        hub = etsi014.Hub("metro", driver_options(pki, "sae-alice", "https://kme.invalid:8443"))
        try:
            with pytest.raises(KeySourceUnreachableError, match="host name is not found"):
                await hub.for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob")).get_key(32)
        finally:
            await hub.close()

    run(test)


@pytest.mark.parametrize(
    ("body", "healthy"),
    [
        ({}, True),
        ({"stored_key_count": 0}, False),
        ({"stored_key_count": "many", "key_size": True, "status_extension": []}, True),
        ({"stored_key_count": 1e999, "key_size": -1}, True),
        ({"Stored_Key_Count": 10**400}, True),
        ({"stored_key_count": 5, "status_extension": {"alarm": "QBER 25%"}}, False),
        ({"stored_key_count": 5, "status_extension": {"alarm": ["QBER"]}}, False),
        ({"stored_key_count": 5, "status_extension": None}, True),
        ({"stored_key_count": 5, "status_extension": ""}, True),
        ({"stored_key_count": 5, "status_extension": {}}, True),
    ],
)
def test_a_status_with_gaps(pki: Path, body: object, healthy: bool) -> None:
    status, _ = outcome(pki, ok(body), call="status")
    assert not isinstance(status, KeySourceError)
    assert getattr(status, "healthy", None) is healthy


@pytest.mark.parametrize(
    "reply",
    [
        *(
            ok({"stored_key_count": 5, "status_extension": its})
            for its in ([{"qber": 0.4}], "alarm", 7, True, False, 0)
        ),
        answer("200 OK", '{"stored_key_count": 5, "status_extension": {"alarm": "Ev'),
        answer("200 OK", '{"status_extension": {"alarm": "Eve"}, "Status_Extension": {}}'),
        answer("200 OK", "[]"),
        answer("200 OK", "null"),
        answer("200 OK", "ALARM"),
    ],
)
def test_a_status_in_which_an_alarm_may_be_is_one_that_cannot_be_read(pki: Path, reply: bytes) -> None:
    status, _ = outcome(pki, reply, call="status")
    assert type(status) is KeySourceStatusError


@pytest.mark.parametrize("body", ["", " ", "<!doctype html><title>console</title>", "\n<html></html>"])
def test_a_page_for_people_is_no_status(pki: Path, body: str) -> None:
    """As of a server that has one for each path that it does not know: it says nothing of the keys."""
    status, _ = outcome(pki, answer("200 OK", body), call="status")
    assert type(status) is KeySourceProtocolError


def test_twenty_timeouts_at_once_leave_nothing_open(pki: Path) -> None:
    async def test() -> None:
        async with broken_server(files(pki, "kme-a"), hang=True) as seen:
            hub = etsi014.Hub("metro", driver_options(pki, "sae-alice", f"https://127.0.0.1:{seen.port}", timeout="1s"))
            source = hub.for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob"))
            results = await asyncio.gather(*(source.get_key(32) for _ in range(20)), return_exceptions=True)
            assert all(isinstance(result, KeySourceTimeoutError) for result in results)
            await hub.close()

    run(test)
