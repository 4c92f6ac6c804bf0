"""KMEs that differ from the standard, each in one thing: the probe names it, and takes no more keys than it said."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable
from os import urandom
from pathlib import Path
from typing import Any

import pytest

from qtunnel.probe.model import Report, Verdict
from qtunnel.tls import server_context
from tests.drivers.faults import certificate
from tests.drivers.front import Exchange, Fault
from tests.probe.site import always, documents, entries, findings, refusals, site, to
from tests.support.kme import answer, run


def deviations(report: Report) -> dict[str, str]:
    return {name: f.seen for name, f in findings(report).items() if f.verdict is Verdict.DEVIATION}


def again(decode: Callable[[bytes], str]) -> Callable[[dict[str, Any]], Any]:
    def change(entry: dict[str, Any]) -> None:
        entry["key"] = decode(base64.b64decode(entry["key"]))

    return change


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], Any]:
    def change(fields: dict[str, Any]) -> None:
        fields[new] = fields.pop(old)

    return change


def with_fields(**fields: Any) -> Fault:
    """A status, or a container, with other fields; ``None`` takes one away."""

    def change(document: dict[str, Any]) -> None:
        document.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del document[name]

    return documents(change)


def mistaken(wanted: Callable[[Exchange], bool], number: int = 1, bits: int = 256) -> Fault:
    """Gives keys where it should have refused."""

    async def fault(exchange: Exchange) -> None:
        if exchange.status != 400 or not wanted(exchange):
            return await exchange.reply()
        listed = [
            {"key_ID": f"c0a80000-0000-4000-8000-{i:012d}", "key": base64.b64encode(urandom(bits // 8)).decode()}
            for i in range(number)
        ]
        return await exchange.reply({"keys": listed}, 200)

    return fault


def by_get_ignored() -> Fault:
    """One key of 256 bits for every GET, whatever its parameters say."""

    async def fault(exchange: Exchange) -> None:
        if exchange.method != "GET" or exchange.status != 200 or exchange.call != "enc_keys":
            return await exchange.reply()
        document = exchange.document
        for entry in document["keys"]:
            entry["key"] = base64.b64encode(urandom(32)).decode()
        return await exchange.reply(document)

    return fault


def no_method(method: str) -> Fault:
    return to("enc_keys", always("405 Method Not Allowed", {"message": "no"}), method)


NO_400 = refusals("404 Not Found", "<html><title>Not Found</title>", "text/html")

# What the front does with enc_keys and dec_keys, and the checks that find it, each with words of what it saw.
OF_KEYS: dict[str, tuple[Fault, dict[str, str]]] = {
    "Keys": (documents(renamed("keys", "Keys")), {"container": "Keys in the place of keys"}),
    "key_id": (entries(renamed("key_ID", "key_id")), {"container": "key_id in the place of key_ID"}),
    "base64url": (
        entries(again(lambda key: base64.urlsafe_b64encode(b"\xff\xfe" + key[2:]).decode())),
        {"encoding": "base64url"},
    ),
    "no padding": (
        entries(lambda e: e.update(key=e["key"].rstrip("="))),
        {"encoding": "without padding"},
    ),
    "hex": (entries(again(bytes.hex)), {"encoding": "hex"}),
    "no base64": (
        entries(lambda e: e.update(key="*" * 44)),
        {"encoding": "not base64", "enc-post": "without a key that can be read"},
    ),
    "key_ID no UUID": (entries(lambda e: e.update(key_ID="7" + e["key_ID"][:6])), {"key-id": "is no UUID"}),
    "keys as text": (with_fields(keys="none"), {"container": "no array keys"}),
    "text/plain": (
        lambda exchange: exchange.write(answer(f"{exchange.status} Word", exchange.body, "text/plain")),
        {"container": "content type text/plain"},
    ),
    "wrong size": (
        to("enc_keys", entries(again(lambda key: base64.b64encode(key[:16]).decode()))),
        {"enc-post": "keys of 128 bits where 256 are due"},
    ),
    "GET ignores": (by_get_ignored(), {"enc-get-size": "keys of 256 bits where 128 are due"}),
    "no POST": (no_method("POST"), {"enc-post": "HTTP 405"}),
    "no GET": (no_method("GET"), {"enc-get": "HTTP 405", "enc-get-size": "HTTP 405"}),
    "one key at a time": (
        to("enc_keys", documents(lambda d: {"keys": d["keys"][:1]})),
        {"enc-two": "1 of 2 keys"},
    ),
    "the same key twice": (
        to("enc_keys", documents(lambda d: [e.update(key=d["keys"][0]["key"]) for e in d["keys"]] and d)),
        {"enc-two": "the same key", "keys-vary": "came before under another key_ID"},
    ),
    "constant keys": (
        to("enc_keys", entries(again(lambda key: base64.b64encode(b"A" * len(key)).decode()))),
        {"keys-vary": "one byte over and over"},
    ),
    "more keys": (
        to("enc_keys", documents(lambda d: {"keys": d["keys"] * 2})),
        {"enc-post": "2 keys where 1 was due", "key-id": "two keys of one answer have the same key_ID"},
    ),
    "mandatory extension ignored": (
        mistaken(lambda x: "extension_mandatory" in x.fields), {"extension-mandatory": "HTTP 200 with 1 keys"},
    ),
    "optional extension refused": (
        to("enc_keys", lambda x: x.reply(*(({"message": "no extension"}, 400) if "extension_optional" in x.fields
                                           else ()))),
        {"extension-optional": "HTTP 400: no extension"},
    ),
    "size rounded": (
        mistaken(lambda x: x.fields.get("size", 0) % 8), {"size-odd": "HTTP 200 with 1 keys of 256 bits"},
    ),
    "large size": (
        mistaken(lambda x: x.fields.get("size", 0) > 4096, 1, 4104), {"size-large": "1 keys of 4104 bits"},
    ),
    "large number": (mistaken(lambda x: x.fields.get("number", 0) > 4, 5), {"number-large": "HTTP 200 with 5 keys"}),
    "404 for 400": (
        NO_400,
        dict.fromkeys(("size-odd", "size-large", "number-large", "unknown-key"), "HTTP 404 where 400 is due"),
    ),
    "no message": (refusals("400 Bad Request", '{"error": "no"}'), {"size-odd": "no message in it"}),
    "unknown key_ID given": (
        to("dec_keys", mistaken(lambda _: True)), {"unknown-key": "HTTP 200 for a key_ID that nobody has"},
    ),
    "it hangs up": (
        to("enc_keys", lambda x: x.write(b""), "GET"), {"enc-get": "closed the connection without an answer"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("quirk", OF_KEYS)
def test_what_a_kme_does_otherwise_with_keys(pki: Path, tmp_path: Path, quirk: str) -> None:
    fault, wanted = OF_KEYS[quirk]

    async def test() -> None:
        async with site(pki, tmp_path) as where:
            where.alice.fault = fault
            report = await where.probe()
            found = deviations(report)
            for check, words in wanted.items():
                assert words in found.get(check, "nothing"), (check, found)
            assert not report.conforms
            assert where.given <= where.announced[0]
            told = [finding for finding in findings(report).values() if finding.verdict is Verdict.DEVIATION]
            assert all(finding.means and finding.copes for finding in told)

    run(test)


OF_STATUS: dict[str, tuple[Fault, dict[str, str]]] = {
    "missing": (with_fields(max_key_count=None), {"status-fields": "missing: max_key_count"}),
    "text for a number": (with_fields(key_size="256"), {"status-fields": "key_size is no integer"}),
    "true for a number": (with_fields(key_size=True), {"status-fields": "key_size is no integer"}),
    "spelling": (
        documents(renamed("source_KME_ID", "source_kme_id")),
        {"status-fields": "source_kme_id in the place of source_KME_ID"},
    ),
    "extension": (with_fields(status_extension=[]), {"status-fields": "status_extension is no object"}),
    "master": (with_fields(master_SAE_ID="sae-carol"), {"status-saes": "master_SAE_ID is sae-carol, not sae-alice"}),
    "sizes": (with_fields(max_key_size=128), {"status-sizes": "64 to 128 bits, 256 by default"}),
    "unauthorized": (always("401 Unauthorized", {"message": "who?"}), {"status": "HTTP 401: who?"}),
    "not there": (always("404 Not Found", {"message": "where?"}), {"status": "HTTP 404: where?"}),
    "no JSON": (always("200 OK", "<html>", "text/html"), {"status": "without a JSON object"}),
    "content type": (
        lambda x: x.write(answer(f"{x.status} Word", x.body, "text/plain")), {"status": "content type text/plain"},
    ),
    "every SAE": (
        lambda x: x.reply(None if x.status == 200 else {"message": "fine"}, 200),
        {"unknown-sae": "HTTP 200 for an SAE that does not exist"},
    ),
    "404": (refusals("404 Not Found", '{"message": "no such SAE"}'), {"unknown-sae": "HTTP 404 where 400 or 401"}),
}  # fmt: skip


@pytest.mark.parametrize("quirk", OF_STATUS)
def test_what_a_kme_does_otherwise_with_the_status(pki: Path, tmp_path: Path, quirk: str) -> None:
    fault, wanted = OF_STATUS[quirk]

    async def test() -> None:
        async with site(pki, tmp_path) as where:
            where.alice.status_fault = fault
            found = deviations(await where.probe(peer=False))
            for check, words in wanted.items():
                assert words in found.get(check, "nothing"), (check, found)
            assert where.given <= where.announced[0]

    run(test)


def test_a_kme_that_gives_more_than_it_is_asked_for_is_left_alone_soon(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            where.alice.fault = to("enc_keys", documents(lambda d: {"keys": d["keys"] * 30}))
            report = await where.probe()
            asked = [one for one in where.alice.requests if one.call == "enc_keys"]
            assert len(asked) == 1
            assert (
                findings(report)["enc-get"].seen == "the KME gives more keys than it is asked for, so no more are taken"
            )
            assert (report.taken, report.announced) == (30, 20)
            assert not report.conforms

    run(test)


@pytest.mark.parametrize(("status", "each"), [("500 Failed", 1), ("202 Accepted", 1), ("503 None", 0), ("400 No", 0)])
def test_keys_that_may_have_been_given_out_count_as_taken(pki: Path, tmp_path: Path, status: str, each: int) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            where.alice.fault = to("enc_keys", always(status, {"message": "no"}))
            report = await where.probe(peer=False)
            assert report.taken == each * report.announced

    run(test)


def test_paths_with_a_slash(pki: Path, tmp_path: Path) -> None:
    async def fault(exchange: Exchange) -> None:
        slash = exchange.path.partition("?")[0].endswith("/")
        await (exchange.reply() if slash else exchange.reply({"message": "not here"}, 404))

    async def test() -> None:
        async with site(pki, tmp_path) as where:
            for server in (where.alice, where.bob):
                server.fault = server.status_fault = fault
            report = await where.probe()
            assert set(deviations(report)) == {"status"}
            assert findings(report)["status"].copes == "trailing_slash: true"

    run(test)


def test_a_key_is_forgotten_when_the_next_one_is_given_out(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            last: list[str] = []

            async def remember(exchange: Exchange) -> None:
                if exchange.status == 200 and exchange.call == "enc_keys":
                    last[:] = [entry["key_ID"] for entry in exchange.document["keys"]]
                await exchange.reply()

            async def forget(exchange: Exchange) -> None:
                asked = json.dumps(exchange.fields) + exchange.path
                gone = not any(key_id in asked for key_id in last)
                await (exchange.reply({"message": "not found"}, 400) if gone else exchange.reply())

            where.alice.fault, where.bob.fault = remember, forget
            report = await where.probe()
            assert set(deviations(report)) == {"dec-order"}
            assert "gone once enc_keys gave out others" in deviations(report)["dec-order"]

    run(test)


def test_a_key_is_given_to_whoever_asks_again(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            given: dict[str, dict[str, Any]] = {}

            async def generous(exchange: Exchange) -> None:
                asked = json.dumps(exchange.fields)
                if exchange.status == 200:
                    given[asked] = exchange.document
                    return await exchange.reply()
                return await (exchange.reply(given[asked], 200) if asked in given else exchange.reply())

            where.bob.fault = generous
            report = await where.probe()
            assert deviations(report) == {"dec-once": "the same key is given out again"}

    run(test)


DELIVERIES: dict[str, tuple[Fault, dict[str, str]]] = {
    "another key": (
        entries(again(lambda key: base64.b64encode(key[::-1]).decode())),
        {"dec-post": "another key under"},
    ),
    "another key_ID": (
        entries(lambda e: e.update(key_ID="c0a80000-0000-4000-8000-000000000009")),
        {"dec-post": "the key under another key_ID"},
    ),
    "no key": (always("400 Bad Request", {"message": "not found"}), {"dec-post": "HTTP 400: not found"}),
    "refused": (always("401 Unauthorized", {"message": "not yours"}), {"dec-get": "HTTP 401: not yours"}),
    "no GET": (to("dec_keys", always("405 No", {"message": "no"}), "GET"), {"dec-get": "HTTP 405"}),
    "no POST": (
        lambda x: x.write(answer("405 No", "{}")) if x.method == "POST" else x.reply(),
        {"dec-post": "HTTP 405"},
    ),
}


@pytest.mark.parametrize("quirk", DELIVERIES)
def test_what_the_other_end_gets_otherwise(pki: Path, tmp_path: Path, quirk: str) -> None:
    fault, wanted = DELIVERIES[quirk]

    async def test() -> None:
        async with site(pki, tmp_path) as where:
            where.bob.fault = fault
            report = await where.probe()
            for check, words in wanted.items():
                assert words in deviations(report).get(check, "nothing"), deviations(report)
            assert where.given <= where.announced[0]

    run(test)


def test_a_certificate_for_another_host(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            await where.alice.stop()
            await where.alice.start(where.alice.context(certificate("name-mismatch", pki, tmp_path)))
            report = await where.probe()
            assert set(deviations(report)) == {"server-name"}
            assert findings(report)["server-name"].copes == "server_hostname: kme.example.org"

    run(test)


def test_a_kme_that_asks_nobody_for_a_certificate_and_speaks_old_tls(
    pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lax(*given: Any) -> ssl.SSLContext:
        context = server_context(*given)
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        return context

    async def test() -> None:
        async with site(pki, tmp_path) as where:
            monkeypatch.setattr("tests.drivers.front.server_context", lax)
            await where.alice.stop()
            await where.alice.start(where.alice.context())
            found = deviations(await where.probe())
            assert found == {
                "tls-version": "it also takes TLS 1.1",
                "client-certificate": "without a client certificate it answers as well",
            }

    with pytest.warns(DeprecationWarning, match="TLSv1"):
        run(test)
