"""The faults that every driver has to stand, for etsi004, at a real KME over mutual TLS."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers import etsi004
from qtunnel.errors import (
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.kme.pki import Authority
from qtunnel.tls import server_context
from tests.drivers.faults import FAULTS, OVER_TLS, certificate
from tests.support.errors import failing
from tests.support.etsi004 import GET, OPEN, Kme, Pair, kme_pair, peer_options
from tests.support.kme import files, run, until, write_pair

CASES: dict[str, type[KeySourceError] | str] = OVER_TLS

ANSWERS = {
    "slow": "hang",
    "cut": "cut",
    "wrong-size": "short",
    "wrong-encoding": "hex",
    "repeated-key": "repeat",
    "all-zero": "zero",
    "low-entropy": "block",
    "huge": "huge",
    "slow-loris": "drip",
}
"""What the KME does for those that are an answer."""


def test_no_fault_is_left_out() -> None:
    assert CASES.keys() == FAULTS.keys()


async def failure(source: etsi004.Source) -> KeySourceError:
    """The error that asking for a key raises."""
    error = await failing(lambda: source.get_key(32))
    assert str(error).isprintable()
    return error


async def good_key(pair: Pair, taker: etsi004.Source) -> str:
    """The key_ID of a key that both ends have."""
    ref, key = await taker.get_key(32)
    hub = etsi004.Hub("fibre", pair.options("b"))
    assert await hub.for_peer(peer_options("b")).get_key_by_id(ref) == key
    await hub.close()
    return ref.key_id


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(pki: Path, tmp_path: Path, fault: str) -> None:
    """One named error; the same source then delivers again, and another one never stopped."""

    async def test() -> None:
        async with kme_pair(pki) as pair:
            kme, other = pair.kmes["a"], pair.source("b")
            source = pair.source("a", timeout="4s" if fault in ("slow", "slow-loris") else "20s")
            before = {await good_key(pair, source)}
            if fault in ANSWERS:
                kme.inject(ANSWERS[fault])
                error = await failure(source)
            elif fault == "restart":
                kme.inject("hang")
                asking = asyncio.create_task(failure(source))
                await until(lambda: asked(kme, 2))
                await kme.stop()
                error = await asking
                assert isinstance(await failure(source), KeySourceUnreachableError)
                await kme.start()
            else:
                await kme.stop()
                await kme.start(server_context(certificate(fault, pki, tmp_path), lambda said: None))
                error = await failure(source)
                await kme.stop()
                await kme.start()
            assert type(error) is CASES[fault]
            assert error.lost == (1 if fault in ANSWERS or fault == "restart" else 0)
            await other.get_key(32)
            after = await good_key(pair, source)
            assert after not in before
            # The index that may have been given out is left alone for ever.
            assert not error.lost or not after.endswith(":1:32")

    run(test)


async def asked(kme: Kme, count: int) -> bool:
    return kme.services.count(GET) == count


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("version", KeySourceProtocolError, "of version 2.0.1, or of another protocol"),
        ("service", KeySourceProtocolError, "of service 99 where 5 is expected"),
        ("http", KeySourceProtocolError, "of version 72.84.84, or of another protocol"),
        ("huge", KeySourceProtocolError, "has 2147483648 bytes where 4 to 1072 are possible"),
        ("lying-length", KeySourceProtocolError, "a chunk of 9 bytes and metadata of"),
        ("other-index", KeySourceProtocolError, "it answered index 1, where 0 was asked"),
        ("short", KeySourceProtocolError, "the chunk has 31 bytes, where 32 were agreed"),
        ("too-much-metadata", KeySourceProtocolError, "has 1073 bytes where 4 to 1072 are possible"),
        ("zero", KeySourceProtocolError, "cannot be of a QKD system: it is all zeros"),
        ("0", KeySourceProtocolError, "an answer with a chunk has 4 bytes"),
        ("1", KeySourceProtocolError, "status 1 (connected, but the peer is not), which the standard does not have"),
        ("4", KeySourceUnavailableError, "status 4: no QKD connection available"),
        ("6", KeySourceTimeoutError, "status 6: the KME's own timeout was over"),
        ("9", KeySourceProtocolError, "status 9, which the standard does not have for this call"),
    ],
)
def test_answers_to_get_key(fault: str, kind: type[KeySourceError], said: str) -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            source = pair.source("a")
            pair.kmes["a"].inject(fault)
            error = await failure(source)
            assert type(error) is kind
            assert said in str(error)
            assert error.lost == (0 if fault == "4" else 1)
            index = int((await good_key(pair, source)).split(":")[1])
            assert index == (0 if fault == "4" else 1)

    run(test)


async def nobody(kme: Kme) -> bool:
    return kme.connections == 0


def test_bytes_that_nobody_asked_for_are_never_an_answer() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            source, kme = pair.source("a"), pair.kmes["a"]
            kme.inject("extra")
            ref, _ = await source.get_key(32)
            await until(lambda: nobody(kme))
            assert (await good_key(pair, source))[:36] == ref.key_id[:36]

    run(test)


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("other-ksid", KeySourceProtocolError, None),
        ("other-chunk", KeySourceProtocolError, "chunks of 48 bytes, where 32 were asked"),
        ("version", KeySourceProtocolError, "of version 2.0.1"),
        ("huge", KeySourceProtocolError, "where 4 to 304 are possible"),
        ("cut", KeySourceUnreachableError, "closed the connection without an answer"),
        ("hang", KeySourceTimeoutError, "no answer within 2 s"),
        ("0", KeySourceProtocolError, "4 bytes stand beside status 0"),
        ("1", KeySourceUnavailableError, "status 1: connected, but the peer is not"),
        ("2", KeySourceProtocolError, "which the standard does not have for this call"),
        ("4", KeySourceUnavailableError, "status 4: no QKD connection available"),
        ("5", KeySourceUnavailableError, "status 5: the key stream ID is in use already"),
        ("6", KeySourceTimeoutError, "status 6: the KME's own timeout was over"),
        ("7", KeyRequestRejectedError, "status 7: the QoS asked for cannot be met; see qos"),
        ("9", KeySourceProtocolError, "status 9, which the standard does not have for this call"),
    ],
)
def test_answers_to_open_connect(fault: str, kind: type[KeySourceError], said: str | None) -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            source = pair.source("a", timeout="2s" if fault == "hang" else "20s")
            if said is None:
                ref, _ = await pair.source("b").get_key(32)
                pair.kmes["a"].inject(fault, OPEN)
                with pytest.raises(KeySourceProtocolError, match="answered stream") as caught:
                    await source.get_key_by_id(ref)
                error: KeySourceError = caught.value
            else:
                pair.kmes["a"].inject(fault, OPEN)
                error = await failure(source)
                assert said in str(error)
            assert type(error) is kind
            assert error.lost == 0
            assert (await good_key(pair, source)).endswith(":0:32")

    run(test)


def test_the_same_chunk_under_another_stream_is_refused() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            source = pair.source("a")
            await source.get_key(32)
            kme = pair.kmes["a"]
            pair.link.streams.clear()
            kme.faults[GET] = ["", "repeat"]  # a new stream, whose first chunk is that of the old one
            error = await failure(source)
            assert "is the one of" in str(error)
            assert error.lost == 1

    run(test)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lifetime": timedelta(seconds=-60)}, "it refused our certificate: expired"),
        ({"ca": True}, "it refused our certificate: not signed by a CA that it trusts"),
    ],
)
def test_a_certificate_of_ours_that_the_kme_refuses(
    pki: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    async def test() -> None:
        ca = Authority.create(datetime.now(UTC)) if change.pop("ca", False) else Authority.load(pki)
        write_pair(tmp_path, "sae-alice", ca, **change)
        mine: dict[str, Any] = {"certificate": tmp_path / "sae-alice.pem", "private_key": tmp_path / "sae-alice.key"}
        async with kme_pair(pki) as pair:
            error = await failure(pair.source("a", **mine))
            assert isinstance(error, KeySourceCertificateError)
            assert said in str(error)

    run(test)


def test_the_reason_behind_a_lost_connection(pki: Path, tmp_path: Path) -> None:
    """The refusal of our certificate is lost on the first connection, and seen on the second."""

    async def test() -> None:
        async with kme_pair(pki) as pair:
            kme, mine = pair.kmes["a"], files(pki, "kme-a")
            blind = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            blind.load_cert_chain(mine.certificate, mine.private_key)
            (tmp_path / "ca.pem").write_bytes(Authority.create(datetime.now(UTC)).certificate_pem())
            strict = server_context(replace(mine, ca=tmp_path / "ca.pem"), lambda said: None)
            await kme.stop()
            await kme.start(blind)
            kme.inject("hang", OPEN)
            asking = asyncio.create_task(failure(pair.source("a")))
            await until(lambda: opening(kme))
            await kme.replace(strict)
            error = await asking
            assert isinstance(error, KeySourceCertificateError)
            assert "it refused our certificate: not signed by a CA that it trusts" in str(error)

    run(test)


async def opening(kme: Kme) -> bool:
    return kme.services == [OPEN]


def test_names_that_are_checked(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            wrong = await failure(pair.source("a", server_hostname="kme.example.org"))
            assert isinstance(wrong, KeySourceCertificateError)
            assert "its certificate is for another host name (wanted: kme.example.org)" in str(wrong)
            await pair.source("a", server_hostname="localhost").get_key(32)
            other = await failure(pair.source("a", kme_id="kme-b"))
            assert isinstance(other, KeySourceCertificateError)
            assert "not kme-b" in str(other)
            await pair.source("a", kme_id="kme-a", check_hostname=False).get_key(32)
            await pair.kmes["a"].stop()
            pair.kmes["a"].tls = None
            await pair.kmes["a"].start()
            no_tls = await failure(pair.source("a"))
            assert type(no_tls) is KeySourceUnreachableError
            assert no_tls.call == "OPEN_CONNECT"

    run(test)


def test_a_name_that_does_not_exist(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            error = await failure(pair.source("a", url="tls://kme.invalid:25575"))
            assert type(error) is KeySourceUnreachableError
            assert "the host name is not found" in str(error)

    run(test)


def test_no_key_stands_in_an_error() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            source, kme = pair.source("a"), pair.kmes["a"]
            await source.get_key(32)
            for fault in ("repeat", "short", "hex", "lying-length", "cut", "other-index"):
                kme.inject(fault)
                error = await failure(source)
                assert kme.last is not None
                for form in (kme.last.hex(), repr(kme.last)[2:-1]):
                    assert form not in f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"

    run(test)
