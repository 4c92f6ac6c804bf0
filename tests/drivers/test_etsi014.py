"""The etsi014 driver against real KMEs over mutual TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers import etsi014, https, registry
from qtunnel.errors import (
    ConfigError,
    FilePermissionError,
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef
from qtunnel.kme.config import KmeConfig
from qtunnel.kme.pki import Authority
from qtunnel.kme.server import running
from qtunnel.secret import Secret
from tests.support.kme import driver_options, files, kme_pair, pair_configs, run, write_pair

PEER = etsi014.PeerOptions(peer_sae_id="sae-bob")


async def failing(url: str, pki: Path, sae_id: str = "sae-alice", **options: Any) -> KeySourceError:
    """The error that asking for a key raises."""
    hub = etsi014.Hub("metro", driver_options(pki, sae_id, url, **options))
    try:
        with pytest.raises(KeySourceError) as caught:
            await hub.for_peer(PEER).get_key(32)
    finally:
        await hub.close()
    assert "\n" not in str(caught.value)
    assert f"metro ({url})" in str(caught.value)
    return caught.value


def test_the_registry_finds_it() -> None:
    assert registry.find("etsi014") is etsi014.DRIVER


def test_a_key_reaches_both_ends(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            alice, bob = pair.source("sae-alice", "sae-bob"), pair.source("sae-bob", "sae-alice")
            assert (alice.name, alice.description) == ("metro", "etsi014:metro")
            for one, other, size in ((alice, bob, 32), (bob, alice, 64)):
                ref, key = await one.get_key(size)
                assert (ref.source, ref.size, len(key)) == ("metro", size, size)
                assert await other.get_key_by_id(ref) == key
                with pytest.raises(KeyNotFoundError, match=f"dec_keys: HTTP 400: one or more keys.*{ref.key_id}"):
                    await other.get_key_by_id(ref)

    run(test)


def test_status_in_our_terms(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_count=3, rate=1) as pair:
            alice = pair.source("sae-alice", "sae-bob")
            status = await alice.status()
            assert status.healthy
            assert (status.stored_keys, status.key_size, status.key_rate, status.qber) == (3, 32, 1, None)
            assert status.detail == "kme-a to kme-b, 3 keys stored, simulated keys"
            for _ in range(3):
                await alice.get_key(32)
            assert not (await alice.status()).healthy

    run(test)


def test_twenty_at_once_get_twenty_keys(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            alice, bob = pair.source("sae-alice", "sae-bob"), pair.source("sae-bob", "sae-alice")
            made = await asyncio.gather(*(alice.get_key(32) for _ in range(20)))
            assert len({ref for ref, _ in made}) == 20
            assert len({bytes(key.reveal()) for _, key in made}) == 20
            fetched = await asyncio.gather(*(bob.get_key_by_id(ref) for ref, _ in made))
            assert fetched == [key for _, key in made]

    run(test)


def test_two_hundred_at_once_take_turns_on_few_connections(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a call has begins with its turn; who never has one says so, and has lost nothing."""

    async def test() -> None:
        at_once = most = 0
        real = https.HttpsServer._call

        async def watched(self: https.HttpsServer, *arguments: Any) -> bytearray:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                return await real(self, *arguments)
            finally:
                at_once -= 1

        monkeypatch.setattr(https.HttpsServer, "_call", watched)
        async with kme_pair(pki) as pair:
            alice = pair.source("sae-alice", "sae-bob")
            made = await asyncio.gather(*(alice.get_key(32) for _ in range(200)))
            assert len({ref for ref, _ in made}) == 200
            assert most == https.CALLS_AT_ONCE
            monkeypatch.setattr(https, "TURN_LIMIT", 0.05)
            monkeypatch.setattr(https.HttpsServer, "_call", lambda *_: asyncio.sleep(0.2, bytearray(b"{}")))
            ended = await asyncio.gather(*(alice.get_key(32) for _ in range(20)), return_exceptions=True)
            late = [error for error in ended if isinstance(error, KeySourceTimeoutError)]
            assert len(late) == 20 - https.CALLS_AT_ONCE
            assert "not asked: 16 other calls of ours took longer than 0.05 s" in str(late[0])
            assert late[0].lost == 0

    run(test)


def test_refusals_of_a_real_kme_have_their_names(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_count=4, rate=1) as pair:
            alice = pair.source("sae-alice", "sae-bob")
            with pytest.raises(
                KeyRequestRejectedError, match=r"HTTP 400: size is out of range; size=8, min_key_size=64"
            ):
                await alice.get_key(1)
            with pytest.raises(KeyRequestRejectedError, match=r"HTTP 400: SAE 'nobody' is not known to kme-a"):
                await pair.source("sae-alice", "nobody").get_key(32)
            with pytest.raises(KeySourceUnauthorizedError, match=r"HTTP 401: sae-stranger is no SAE of kme-a"):
                await pair.source("sae-stranger", "sae-bob").get_key(32)
            with pytest.raises(KeyNotFoundError):
                await pair.source("sae-bob", "sae-alice").get_key_by_id(KeyRef("metro", "unknown", 32))
            with pytest.raises(KeySourceUnavailableError, match=r"HTTP 503: not enough keys"):
                await alice.get_key(512)

    run(test)


def test_partner_down_is_said_by_our_kme(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="a") as pair:
            error = await failing(f"https://{pair.a.listen}", pki)
            assert isinstance(error, KeySourceUnavailableError)
            assert error.retryable
            assert "partner KME kme-b: cannot be reached" in str(error)

    run(test)


def test_it_goes_on_after_the_kme_comes_back(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, start="b") as pair:
            alice = pair.source("sae-alice", "sae-bob")
            for _ in range(2):
                with pytest.raises(KeySourceUnreachableError, match="connection refused"):
                    await alice.get_key(32)
                async with running(pair.a):
                    await alice.get_key(32)

    run(test)


def kme_with(tmp_path: Path, pki: Path, kme_id: str = "kme-a", ca: Authority | None = None, **issue: Any) -> KmeConfig:
    """KME A with a certificate of its own, made as the test wants it."""
    write_pair(tmp_path, kme_id, ca or Authority.load(pki), server=True, **issue)
    plain, _ = pair_configs(pki)
    mine = {"certificate": str(tmp_path / f"{kme_id}.pem"), "private_key": str(tmp_path / f"{kme_id}.key")}
    return KmeConfig.model_validate({**plain, **mine})


LOCAL = ("127.0.0.1",)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda tmp, pki: kme_with(tmp, pki, lifetime=timedelta(seconds=-60), hosts=LOCAL),
            "its certificate has expired",
        ),
        (
            lambda tmp, pki: kme_with(tmp, pki, ca=Authority.create(datetime.now(UTC)), hosts=LOCAL),
            "its certificate is not signed by the CA that we trust",
        ),
        (
            lambda tmp, pki: kme_with(tmp, pki, hosts=("10.1.2.3", "kme.example.org")),
            "its certificate is for another IP address",
        ),
        (
            lambda tmp, pki: kme_with(tmp, pki),
            "its certificate is for another IP address",
        ),
    ],
    ids=["expired", "other CA", "other name", "no SAN"],
)
def test_a_wrong_certificate_of_the_kme(
    pki: Path, tmp_path: Path, make: Callable[[Path, Path], KmeConfig], said: str
) -> None:
    async def test() -> None:
        config = make(tmp_path, pki)
        async with running(config):
            error = await failing(f"https://{config.listen}", pki)
            assert isinstance(error, KeySourceCertificateError)
            assert said in error.detail
            assert not error.retryable

    run(test)


def test_a_certificate_without_names_needs_check_hostname_off(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        config = kme_with(tmp_path, pki)
        async with running(config):
            url = f"https://{config.listen}"
            error = await failing(url, pki)
            assert "check_hostname: false" in str(error)
            hub = etsi014.Hub("metro", driver_options(pki, "sae-alice", url, check_hostname=False, kme_id="kme-a"))
            try:
                assert (await hub.for_peer(PEER).status()).healthy
            finally:
                await hub.close()

    run(test)


def test_server_hostname_is_what_the_certificate_is_checked_for(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        config = kme_with(tmp_path, pki, hosts=("kme.example.org",))
        async with running(config):
            url = f"https://{config.listen}"
            hub = etsi014.Hub("metro", driver_options(pki, "sae-alice", url, server_hostname="kme.example.org"))
            try:
                assert (await hub.for_peer(PEER).status()).healthy
            finally:
                await hub.close()
            error = await failing(url, pki, server_hostname="other.example.org")
            assert isinstance(error, KeySourceCertificateError)
            assert "wanted: other.example.org" in str(error)

    run(test)


@pytest.mark.parametrize("check", [None, "certificate", "both"])
@pytest.mark.parametrize("check_hostname", [True, False])
def test_another_kme_is_refused_by_its_certificate(pki: Path, check: str | None, check_hostname: bool) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            url = f"https://{pair.a.listen}"
            error = await failing(url, pki, kme_id="kme-z", kme_id_check=check, check_hostname=check_hostname)
            assert isinstance(error, KeySourceCertificateError)
            assert error.detail == "its certificate names kme-a, localhost, not kme-z"

    run(test)


def test_another_kme_is_refused_by_its_status_before_it_is_asked_for_a_key(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, rate=1) as pair:
            error = await failing(f"https://{pair.a.listen}", pki, kme_id="kme-z", kme_id_check="status")
            assert isinstance(error, KeySourceCertificateError)
            assert (error.call, error.detail) == ("status", "the KME says it is kme-a, not kme-z (kme_id)")
            assert (await pair.source("sae-alice", "sae-bob").status()).stored_keys == 10_000
            for check in ("status", "both", "certificate", None):
                good = pair.source("sae-alice", "sae-bob", kme_id="kme-a", kme_id_check=check)
                assert len((await good.get_key(32))[1]) == 32

    run(test)


def test_a_kme_that_takes_the_place_of_another_is_found_out_by_every_peer(pki: Path) -> None:
    """Its status is asked before every key, whoever asked first."""

    async def test() -> None:
        async with kme_pair(pki) as pair:
            hub = etsi014.Hub("metro", pair.options("sae-alice", kme_id="kme-a", kme_id_check="status"))
            pair.stack.push_async_callback(hub.close)
            one, other = hub.for_peer(PEER), hub.for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob"))
            for source in (one, other):
                await source.get_key(32)
            hub.kmes[0].kme_id = "kme-z"  # as if the KME had become another
            for source in (one, other):
                with pytest.raises(KeySourceCertificateError, match="says it is kme-a, not kme-z"):
                    await source.get_key(32)
                with pytest.raises(KeySourceCertificateError, match="says it is kme-a, not kme-z"):
                    await source.get_key_by_id(KeyRef("metro", "1", 32))

    run(test)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lifetime": timedelta(seconds=-60)}, "refused our certificate: expired"),
        ({"ca": True}, "refused our certificate: not signed by a CA that it trusts"),
    ],
    ids=["expired", "other CA"],
)
def test_our_certificate_is_refused(pki: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    async def test() -> None:
        ca = Authority.create(datetime.now(UTC)) if change.pop("ca", False) else Authority.load(pki)
        write_pair(tmp_path, "sae-alice", ca, **change)
        (tmp_path / "ca.pem").write_bytes((pki / "ca.pem").read_bytes())
        async with kme_pair(pki, start="a") as pair:
            error = await failing(f"https://{pair.a.listen}", tmp_path)
            assert isinstance(error, KeySourceCertificateError)
            assert said in error.detail
            assert str(tmp_path / "sae-alice.pem") in error.detail

    run(test)


def test_no_key_in_any_log_or_repr(pki: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def test() -> tuple[Secret, str]:
        async with kme_pair(pki) as pair:
            alice, bob = pair.source("sae-alice", "sae-bob"), pair.source("sae-bob", "sae-alice")
            ref, key = await alice.get_key(32)
            await bob.get_key_by_id(ref)
            return key, f"{ref} {key!r} {alice!r} {vars(alice)}"

    key, shown = run(test)
    raw = bytes(key.reveal())
    import base64

    everything = shown + "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    for shape in (raw.hex(), base64.b64encode(raw).decode(), repr(raw)):
        assert shape not in everything


def test_a_closed_source_says_so(pki: Path) -> None:
    async def test() -> None:
        hub = etsi014.Hub("metro", driver_options(pki, "sae-alice", "https://127.0.0.1:1"))
        await hub.close()
        with pytest.raises(KeySourceUnreachableError, match="closed"):
            await hub.for_peer(PEER).status()

    run(test)


def test_open_refuses_unusable_files(pki: Path, tmp_path: Path) -> None:
    options = driver_options(pki, "sae-alice", "https://127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"nothing\.pem: no such file"):
        etsi014.DRIVER.open("metro", options.model_copy(update={"ca": tmp_path / "nothing.pem"}))
    key = tmp_path / "open.key"
    key.write_bytes(files(pki, "sae-alice").private_key.read_bytes())
    key.chmod(0o644)
    with pytest.raises(FilePermissionError, match=f"chmod 600 {key}"):
        etsi014.DRIVER.open("metro", options.model_copy(update={"private_key": key}))
