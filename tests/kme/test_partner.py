"""The link between two KMEs: a partner that is away, full, silent or another one, and who may push keys."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qtunnel.kme.server import running
from qtunnel.tls import client_context
from tests.support.kme import answer, broken_server, files, kme_pair, run


def test_a_full_partner_means_503(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_count=1) as pair:
            alice = pair.sae("sae-alice")
            assert (await alice.ask("POST", "sae-bob/enc_keys", {}))[0] == 200
            status, body = await alice.ask("POST", "sae-bob/enc_keys", {})
            assert status == 503
            assert "partner KME kme-b: answered 503: the key store is full" in body["message"]

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
