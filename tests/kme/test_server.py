"""Two KMEs over mutual TLS: ETSI GS QKD 014 v1.1.1 as an SAE meets it."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qtunnel.kme import listener
from qtunnel.kme.config import KmeConfig
from qtunnel.kme.pki import Authority
from qtunnel.kme.server import running
from qtunnel.tls import TlsFiles, client_context
from tests.support.kme import Sae, answer, broken_server, files, kme_pair, pair_configs, run, until, write_pair

NOT_FOUND = "one or more keys specified are not found on KME"


def test_both_ends_get_the_same_key_once_in_both_directions(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            for master, slave in (("sae-alice", "sae-bob"), ("sae-bob", "sae-alice")):
                status, container = await pair.sae(master).ask("POST", f"{slave}/enc_keys", {"number": 2, "size": 512})
                assert status == 200
                assert [set(entry) for entry in container["keys"]] == [{"key_ID", "key"}] * 2
                assert {len(base64.b64decode(entry["key"])) for entry in container["keys"]} == {64}
                ids = [entry["key_ID"] for entry in container["keys"]]
                assert [str(uuid.UUID(key_id)) for key_id in ids] == ids
                asked = {"key_IDs": [{"key_ID": key_id} for key_id in ids]}
                assert await pair.sae(slave).ask("POST", f"{master}/dec_keys", asked) == (200, container)
                status, body = await pair.sae(slave).ask("POST", f"{master}/dec_keys", asked)
                assert (status, body["message"]) == (400, NOT_FOUND)

    run(test)


def test_who_only_connects_keeps_nobody_from_his_keys(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 8)

    async def test() -> None:
        async with kme_pair(pki) as pair:
            assert pair.b.partner is not None
            ports = pair.a.listen.port, pair.b.partner.listen.port
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20) for port in ports]
            sae = pair.sae("sae-alice")
            for _ in range(2):
                status, _ = await sae.ask("POST", "sae-bob/enc_keys", {})
                assert status == 200
            for reader, _ in silent[:24]:
                assert await reader.read(1) == b""

    run(test)


def test_get_takes_number_and_size_and_key_id(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            status, container = await pair.sae("sae-alice").ask("GET", "sae-bob/enc_keys", number="1", size="128")
            assert status == 200
            (entry,) = container["keys"]
            assert len(base64.b64decode(entry["key"])) == 16
            path = "sae-alice/dec_keys"
            assert await pair.sae("sae-bob").ask("GET", path, key_ID=entry["key_ID"].upper()) == (200, container)

    run(test)


def test_everything_has_a_default(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, size=320) as pair:
            for method, body in (("GET", None), ("POST", None), ("POST", {}), ("POST", {"number": None})):
                status, container = await pair.sae("sae-alice").ask(method, "sae-bob/enc_keys", body)
                assert status == 200
                assert [len(base64.b64decode(entry["key"])) for entry in container["keys"]] == [40]

    run(test)


def test_status_has_every_field_of_the_standard_and_says_simulated(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_count=7, rate=1) as pair:
            await pair.sae("sae-alice").ask("GET", "sae-bob/enc_keys", number="2")
            status, body = await pair.sae("sae-alice").ask("GET", "sae-bob/status")
            assert status == 200
            extension = body.pop("status_extension")
            assert body == {
                "source_KME_ID": "kme-a",
                "target_KME_ID": "kme-b",
                "master_SAE_ID": "sae-alice",
                "slave_SAE_ID": "sae-bob",
                "key_size": 256,
                "stored_key_count": 5,
                "max_key_count": 7,
                "max_key_per_request": 128,
                "max_key_size": 4096,
                "min_key_size": 64,
                "max_SAE_ID_count": 4,
            }
            assert extension["simulated"] is True
            assert extension["key_rate"] == 1

    run(test)


def test_two_saes_of_one_kme_need_no_partner(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="b") as pair:
            _, container = await pair.sae("sae-bob").ask("POST", "sae-carol/enc_keys", {})
            asked = {"key_IDs": [{"key_ID": container["keys"][0]["key_ID"]}]}
            assert await pair.sae("sae-carol").ask("POST", "sae-bob/dec_keys", asked) == (200, container)
            _, body = await pair.sae("sae-bob").ask("GET", "sae-carol/status")
            assert body["target_KME_ID"] == "kme-b"

    run(test)


def test_additional_slaves_get_the_key_too(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            request = {"additional_slave_SAE_IDs": ["sae-alice"]}
            _, container = await pair.sae("sae-bob").ask("POST", "sae-carol/enc_keys", request)
            asked = {"key_IDs": [{"key_ID": container["keys"][0]["key_ID"]}]}
            for slave in ("sae-alice", "sae-carol"):
                assert await pair.sae(slave).ask("POST", "sae-bob/dec_keys", asked) == (200, container)
                assert (await pair.sae(slave).ask("POST", "sae-bob/dec_keys", asked))[0] == 400

    run(test)


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


def test_a_slow_link_runs_dry_with_503_and_refills(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_count=2, rate=100_000) as pair:
            alice = pair.sae("sae-alice")
            status, body = await alice.ask("POST", "sae-bob/enc_keys", {"size": 1024})
            assert status == 503
            assert body["message"].startswith("not enough keys")
            assert (await alice.ask("POST", "sae-bob/enc_keys", {"number": 2}))[0] == 200

            async def refilled() -> bool:
                return bool((await alice.ask("GET", "sae-bob/status"))[1]["stored_key_count"] == 2)

            await until(refilled)

    run(test)


def test_a_full_partner_means_503(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_count=1) as pair:
            alice = pair.sae("sae-alice")
            assert (await alice.ask("POST", "sae-bob/enc_keys", {}))[0] == 200
            status, body = await alice.ask("POST", "sae-bob/enc_keys", {})
            assert status == 503
            assert "partner KME kme-b: answered 503: the key store is full" in body["message"]

    run(test)


def test_a_key_that_nobody_fetches_expires(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, ttl="1s", max_count=1) as pair:
            _, container = await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", {})

            async def place_again() -> bool:
                return (await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", {}))[0] == 200

            await until(place_again)  # the store has place only when the key has expired
            asked = {"key_IDs": [{"key_ID": container["keys"][0]["key_ID"]}]}
            status, body = await pair.sae("sae-bob").ask("POST", "sae-alice/dec_keys", asked)
            assert (status, body["message"]) == (400, NOT_FOUND)

    run(test)


def test_without_its_partner_a_kme_answers_503_and_recovers(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="a", max_count=1) as pair:
            alice = pair.sae("sae-alice")
            status, body = await alice.ask("POST", "sae-bob/enc_keys", {})
            assert (status, body["message"]) == (503, "partner KME kme-b: cannot be reached")
            _, body = await alice.ask("GET", "sae-bob/status")
            assert body["status_extension"]["partner_problem"] == "cannot be reached"
            async with running(pair.b):
                assert (await alice.ask("POST", "sae-bob/enc_keys", {}))[0] == 200
                _, body = await alice.ask("GET", "sae-bob/status")
                assert "partner_problem" not in body["status_extension"]

    run(test)


def test_a_key_that_nobody_got_costs_nothing(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="a", rate=0.001, max_count=5) as pair:
            alice = pair.sae("sae-alice")
            assert (await alice.ask("POST", "sae-bob/enc_keys", {"number": 3}))[0] == 503
            assert (await alice.ask("GET", "sae-bob/status"))[1]["stored_key_count"] == 5

    run(test)


def test_a_connection_lost_under_a_push_is_tried_again(pki: Path) -> None:
    async def test() -> None:
        async with (
            kme_pair(pki, start="") as pair,
            broken_server(files(pki, "kme-b"), None, answer("200 OK", "{}")) as b,
        ):
            assert pair.a.partner is not None
            partner = pair.a.partner.model_copy(update={"url": f"https://127.0.0.1:{b.port}"})
            async with running(pair.a.model_copy(update={"partner": partner})):
                assert (await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", {}))[0] == 200
            assert b.lines == ["POST /link/v1/keys HTTP/1.1"] * 2

    run(test)


def test_a_silent_partner_means_503_within_its_timeout(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="") as pair:
            assert pair.a.partner is not None
            silent = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
            url = f"https://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
            config = pair.a.model_copy(
                update={"partner": pair.a.partner.model_copy(update={"url": url, "timeout": 0.3})}
            )
            async with silent, running(config):
                status, body = await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", {})
                assert (status, body["message"]) == (503, "partner KME kme-b: no answer within 0.3 s")

    run(test)


def test_keys_go_to_no_partner_of_another_name(pki: Path) -> None:
    """kme-a is told that its partner is kme-c; kme-b, with a good certificate, must not get the key."""

    async def test() -> None:
        async with kme_pair(pki, start="b") as pair:
            assert pair.a.partner is not None
            partner = pair.a.partner.model_copy(update={"kme_id": "kme-c"})
            async with running(pair.a.model_copy(update={"partner": partner})):
                status, body = await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", {})
                assert status == 503
                assert body["message"] == "partner KME kme-c: its certificate names kme-b, localhost, not kme-c"

    run(test)


@pytest.mark.parametrize("name", ["sae-alice", "sae-bob", "kme-b"])
def test_only_the_partner_may_push_keys(pki: Path, name: str) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="b") as pair:
            assert pair.b.partner is not None
            push = {
                "master_SAE_ID": "sae-alice",
                "slave_SAE_IDs": ["sae-bob"],
                "keys": [{"key_ID": "chosen", "key": base64.b64encode(bytes(32)).decode()}],
            }
            connector = aiohttp.TCPConnector(ssl=client_context(files(pki, name)))
            async with aiohttp.ClientSession(connector=connector) as session:
                url = f"https://{pair.b.partner.listen}/link/v1/keys"
                async with session.post(url, json=push) as response:
                    assert response.status == 401

    run(test)


PUSH = {"master_SAE_ID": "sae-alice", "slave_SAE_IDs": ["sae-bob"], "keys": [{"key_ID": "1", "key": "AAAA"}]}


@pytest.mark.parametrize(
    "change",
    [
        {"master_SAE_ID": "sae-bob"},
        {"master_SAE_ID": 1},
        {"slave_SAE_IDs": ["sae-alice"]},
        {"slave_SAE_IDs": []},
        {"slave_SAE_IDs": [1]},
        {"keys": [{"key_ID": "1", "key": "A"}]},
        {"keys": [{"key_ID": "1", "key": ""}]},
        {"keys": [{"key_ID": 1, "key": "AAAA"}]},
        {"keys": [{"key": "AAAA"}]},
        {"keys": 1},
        {"more": 1},
    ],
)
def test_a_malformed_push_is_refused(pki: Path, change: dict[str, Any]) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="b") as pair:
            assert pair.b.partner is not None
            connector = aiohttp.TCPConnector(ssl=client_context(files(pki, "kme-a")))
            async with aiohttp.ClientSession(connector=connector) as session:
                url = f"https://{pair.b.partner.listen}/link/v1/keys"
                async with session.post(url, json={**PUSH, **change}) as response:
                    assert response.status == 400
                async with session.post(url, json=PUSH) as response:
                    assert response.status == 200

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


def test_twenty_at_once_get_twenty_keys(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            alice = pair.sae("sae-alice")
            answers = await asyncio.gather(*(alice.ask("POST", "sae-bob/enc_keys", {}) for _ in range(20)))
            entries = [entry for status, body in answers for entry in body["keys"]]
            assert len({entry["key_ID"] for entry in entries}) == 20
            assert len({entry["key"] for entry in entries}) == 20

            async def fetch(entry: dict[str, str]) -> bool:
                asked = {"key_IDs": [{"key_ID": entry["key_ID"]}]}
                return await pair.sae("sae-bob").ask("POST", "sae-alice/dec_keys", asked) == (200, {"keys": [entry]})

            assert all(await asyncio.gather(*(fetch(entry) for entry in entries)))

    run(test)


def test_two_that_ask_for_one_key_at_once_do_not_both_get_it(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            _, container = await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", {})
            asked = {"key_IDs": [{"key_ID": container["keys"][0]["key_ID"]}]}
            bob = pair.sae("sae-bob")
            answers = await asyncio.gather(*(bob.ask("POST", "sae-alice/dec_keys", asked) for _ in range(8)))
            assert sorted(status for status, _ in answers) == [200] + [400] * 7

    run(test)


def test_the_log_tells_key_ids_and_simulation_but_no_key(pki: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "qtunnel")  # whatever a command of another test has made of it

    async def test() -> dict[str, str]:
        async with kme_pair(pki) as pair:
            _, container = await pair.sae("sae-alice").ask("POST", "sae-bob/enc_keys", {})
            asked = {"key_IDs": [{"key_ID": container["keys"][0]["key_ID"]}]}
            await pair.sae("sae-bob").ask("POST", "sae-alice/dec_keys", asked)
            entry: dict[str, str] = container["keys"][0]
            return entry

    entry = run(test)
    lines = [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
    assert any("kme.simulated" in line for line in lines)
    assert sum(entry["key_ID"] in line for line in lines) == 3  # made, handed over, fetched
    raw = base64.b64decode(entry["key"])
    for shape in (entry["key"], raw.hex(), repr(raw), str(list(raw))):
        assert not any(shape in line for line in lines)


def test_answers_are_not_cached(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="a") as pair:
            connector = aiohttp.TCPConnector(ssl=client_context(files(pki, "sae-alice")))
            url = f"https://{pair.a.listen}/api/v1/keys/sae-bob/status"
            async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
                assert response.headers["Cache-Control"] == "no-store"

    run(test)


def test_it_listens_on_ipv6(pki: Path) -> None:
    async def test() -> None:
        plain, _ = pair_configs(pki)
        port = plain["listen"].rpartition(":")[2]
        async with running(KmeConfig.model_validate({**plain, "listen": f"[::1]:{port}"})) as kme:
            status, _ = await Sae(f"https://{kme.config.listen}", files(pki, "sae-alice")).ask("GET", "sae-bob/status")
            assert status == 200

    run(test)
