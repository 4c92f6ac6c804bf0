"""Two KMEs over mutual TLS: ETSI GS QKD 014 v1.1.1 as an SAE meets it."""

from __future__ import annotations

import asyncio
import base64
import logging
import uuid
from pathlib import Path

import aiohttp
import pytest

from qtunnel.kme import listener
from qtunnel.kme.config import KmeConfig
from qtunnel.kme.server import running
from qtunnel.tls import client_context
from tests.support.kme import NOT_FOUND, Sae, files, kme_pair, pair_configs, run, until


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
