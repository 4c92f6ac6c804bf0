"""Whom and what a KME refuses: malformed requests, SAEs that are not entitled, certificates; with the reason."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qtunnel.kme.pki import Authority
from qtunnel.tls import TlsFiles, client_context
from tests.support.kme import NOT_FOUND, kme_pair, run, write_pair

REFUSED_REQUESTS: list[tuple[object, str]] = [
    (b"{", "the body is not JSON"),
    (b"\xff", "the body is not JSON"),
    (b"[" * 30_000, "the body is not JSON"),
    ([1], "the body is not a JSON object"),
    ({"number": "1"}, "number shall be an integer"),
    ({"number": True}, "number shall be an integer"),
    ({"size": 256.0}, "size shall be an integer"),
    ({"number": 0}, "number is out of range"),
    ({"number": 129}, "number is out of range"),
    ({"size": 100}, "size shall be a multiple of 8"),
    ({"size": 0}, "size is out of range"),
    ({"size": -8}, "size is out of range"),
    ({"size": 56}, "size is out of range"),
    ({"size": 4104}, "size is out of range"),
    ({"sizes": 256}, "unknown field 'sizes'"),
    ({"extension_mandatory": [{"x": 1}]}, "not all extension_mandatory parameters are supported"),
    ({"extension_mandatory": {}}, "extension_mandatory shall be an array of objects"),
    ({"extension_optional": ["x"]}, "extension_optional shall be an array of objects"),
    ({"additional_slave_SAE_IDs": "sae-carol"}, "additional_slave_SAE_IDs shall be an array of strings"),
    ({"additional_slave_SAE_IDs": ["nobody"]}, "SAE 'nobody' is not known to kme-a"),
    ({"additional_slave_SAE_IDs": ["sae-bob"]}, "additional_slave_SAE_IDs names an SAE twice or the master SAE"),
    ({"additional_slave_SAE_IDs": ["sae-alice"]}, "additional_slave_SAE_IDs names an SAE twice or the master SAE"),
    ({"additional_slave_SAE_IDs": ["sae-carol"] * 5}, "too many additional_slave_SAE_IDs"),
    (b" " * 200_000, "the body is too large"),
]


def test_malformed_key_requests_get_400_with_a_reason(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            for request, message in REFUSED_REQUESTS:
                status, body = await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", request)
                assert (status, body["message"]) == (400, message)
            for name, value in (("size", "x"), ("number", "-1"), ("number", "9" * 30), ("colour", "red")):
                status, body = await pair.sae("sae-alice").ask("GET", "sae-bob/enc_keys", **{name: value})
                assert status == 400
                assert name in body["message"]
            status, body = await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", {}, size="256")
            assert status == 400
            _, body = await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", {"size": 56})
            assert body["details"] == [{"size": 56}, {"min_key_size": 64}, {"max_key_size": 4096}]
            _, body = await pair.sae("sae-alice").ask("GET", "sae-bob/status")
            assert body["stored_key_count"] == 10_000  # a refused request costs nothing

    run(test)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "key_ID is missing"),
        ({"key_IDs": []}, "key_ID is missing"),
        ({"key_IDs": "x"}, "key_IDs shall be an array of objects"),
        ({"key_IDs": [{"key_ID": 1}]}, "each of key_IDs shall have a key_ID, a string"),
        ({"key_IDs": [{"id": "x"}]}, "unknown field 'id'"),
        ({"key_IDs": [{"key_ID": "a"}, {"key_ID": "A"}]}, "a key_ID is given twice"),
        ({"key_IDs": [{"key_ID": str(n)} for n in range(129)]}, "too many key_IDs"),
        ({"key_IDs": [{"key_ID": "unknown"}]}, NOT_FOUND),
    ],
)
def test_malformed_key_ids_get_400_with_a_reason(pki: Path, request_: dict[str, Any], message: str) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="b") as pair:
            status, body = await pair.sae("sae-bob").ask("POST", "sae-alice/dec_keys", request_)
            assert (status, body["message"]) == (400, message)

    run(test)


def test_who_is_not_entitled_gets_401(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            for name, at in (("sae-stranger", pair.a), ("sae-bob", pair.a), ("kme-b", pair.a)):
                for method, path in (("GET", "sae-alice/status"), ("POST", "sae-alice/enc_keys")):
                    status, body = await pair.sae(name, at).ask(method, path)
                    assert (status, body["message"]) == (401, f"{name} is no SAE of kme-a")
            _, container = await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", {})
            asked = {"key_IDs": [{"key_ID": container["keys"][0]["key_ID"]}]}
            status, body = await pair.sae("sae-carol").ask("POST", "sae-alice/dec_keys", asked)
            assert (status, body["message"]) == (401, "a key was requested for another SAE")
            assert (await pair.sae("sae-bob").ask("POST", "sae-alice/dec_keys", asked))[0] == 200

    run(test)


def test_paths_and_methods_that_are_not_there(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="a") as pair:
            alice = pair.sae("sae-alice")
            assert (await alice.ask("GET", "nobody/status"))[0] == 400
            assert (await alice.ask("GET", "sae-alice/status"))[0] == 400
            assert (await alice.ask("GET", "sae-bob/keys"))[0] == 404
            assert (await alice.ask("PUT", "sae-bob/enc_keys"))[0] == 405
            assert (await alice.ask("POST", "sae-bob/status"))[0] == 405

    run(test)


@pytest.mark.parametrize("case", ["expired", "other CA", "none"])
def test_client_certificates_that_are_refused(pki: Path, tmp_path: Path, case: str) -> None:
    own = Authority.load(pki)
    if case == "expired":
        write_pair(tmp_path, "sae-alice", own, lifetime=timedelta(seconds=-60))
    else:
        write_pair(tmp_path, "sae-alice", Authority.create(datetime.now(UTC)) if case == "other CA" else own)
    mine = TlsFiles(pki / "ca.pem", tmp_path / "sae-alice.pem", tmp_path / "sae-alice.key")

    async def test() -> None:
        async with kme_pair(pki, start="a") as pair:
            context = ssl.create_default_context(cafile=pki / "ca.pem") if case == "none" else client_context(mine)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                with pytest.raises(aiohttp.ClientError):
                    await session.get(f"https://{pair.a.listen}/api/v1/keys/sae-bob/status")

    run(test)
