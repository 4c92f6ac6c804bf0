"""The faults that every driver has to stand, over real KMEs, between which and the driver they are done."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers import etsi014
from qtunnel.errors import (
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnreachableError,
)
from qtunnel.keys.quality import SeenKeys, defect
from qtunnel.keys.source import KeyRef
from qtunnel.kme.pki import Authority
from qtunnel.secret import Secret
from qtunnel.tls import TlsFiles
from tests.drivers.faults import FAULTS
from tests.drivers.front import Exchange, Fault, Front, front, honest
from tests.support.kme import Pair, answer, driver_options, kme_pair, run, until, write_pair

CASES: dict[str, type[KeySourceError] | str] = {
    "slow": KeySourceTimeoutError,
    "cut": KeySourceUnreachableError,
    "wrong-size": KeySourceProtocolError,
    "wrong-encoding": KeySourceProtocolError,
    "repeated-key": KeySourceProtocolError,
    "all-zero": KeySourceProtocolError,
    "low-entropy": KeySourceProtocolError,
    "huge": KeySourceProtocolError,
    "slow-loris": KeySourceTimeoutError,
    "expired-certificate": KeySourceCertificateError,
    "wrong-certificate": KeySourceCertificateError,
    "name-mismatch": KeySourceCertificateError,
    "restart": KeySourceUnreachableError,
    "clock-skew": KeySourceCertificateError,
}

WORDS = {
    "slow": "no answer within",
    "cut": "lost in the middle of the answer",
    "wrong-size": "the key has 128 bits where 256 were asked for",
    "wrong-encoding": "256 bits in hex where base64 is expected",
    "repeated-key": "was delivered before",
    "all-zero": "it is all zeros",
    "low-entropy": "it repeats itself after 16 bytes",
    "huge": "with more than",
    "slow-loris": "no answer within",
    "expired-certificate": "its certificate has expired",
    "wrong-certificate": "not signed by the CA that we trust",
    "name-mismatch": "its certificate is for another IP address",
    "restart": "closed the connection without an answer",
    "clock-skew": "not valid yet; are both clocks right?",
}

CERTIFICATES = {"expired-certificate", "wrong-certificate", "name-mismatch", "clock-skew"}
SLOW = {"slow", "slow-loris"}


class Bench:
    """Alice and Bob, one of them through a front; ``ask`` is that one's call for a key, checked as by the daemon."""

    def __init__(self, pair: Pair, front: Front, call: str, timeout: str) -> None:
        self.front, self.call = front, call
        sae, peer = ("sae-alice", "sae-bob") if call == "enc_keys" else ("sae-bob", "sae-alice")
        self._hub = etsi014.Hub("metro", driver_options(pair.pki, sae, front.url, timeout=timeout))
        pair.stack.push_async_callback(self._hub.close)
        self.source = self._hub.for_peer(etsi014.PeerOptions(peer_sae_id=peer))
        self.other = pair.source("sae-bob" if call == "enc_keys" else "sae-alice", sae)
        self.seen = SeenKeys(Secret(bytes(range(32))))
        self.last = Secret(bytes(32))

    async def ask(self) -> Secret:
        if self.call == "enc_keys":
            ref, key = await self.source.get_key(32)
        else:
            ref, theirs = await self.other.get_key(32)
            key = await self.source.get_key_by_id(ref)
            if self.front.fault is honest:
                assert key == theirs
        wrong = defect(key)
        before = self.seen.taken_for(ref.key_id, key) if wrong is None else None
        if wrong is not None or before is not None:
            raise KeySourceProtocolError("metro", self.call, wrong or "was delivered before", lost=1)
        if self.call == "enc_keys":
            assert await self.other.get_key_by_id(ref) == key
        self.last = key.copy()
        return key


def altered(change: Callable[[bytes], str]) -> Fault:
    """The key of an answer, from its bytes to another text."""

    async def fault(exchange: Exchange) -> None:
        document = exchange.document
        document["keys"][0]["key"] = change(base64.b64decode(document["keys"][0]["key"]))
        await exchange.reply(document)

    return fault


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


async def never(_: Exchange) -> None:
    await asyncio.Event().wait()


async def cut(exchange: Exchange) -> None:
    whole = answer("200 OK", exchange.body)
    await exchange.write(whole[: -len(exchange.body) // 2])


async def huge(exchange: Exchange) -> None:
    with contextlib.suppress(OSError):  # it hangs up in the middle
        await exchange.write(answer("200 OK", b'{"keys": [' + b" " * 4_000_000 + exchange.body))


async def loris(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await exchange.write(b" ")
        await asyncio.sleep(0.05)


def made_certificate(fault: str, directory: Path, pki: Path) -> TlsFiles:
    ca = Authority.create(datetime.now(UTC)) if fault == "wrong-certificate" else Authority.load(pki)
    hosts = ("10.1.2.3", "kme.example.org") if fault == "name-mismatch" else ("127.0.0.1",)
    issue: dict[str, Any] = {"server": True, "hosts": hosts}
    if fault == "expired-certificate":
        issue["lifetime"] = timedelta(seconds=-60)
    if fault == "clock-skew":
        issue["now"] = datetime.now(UTC) + timedelta(days=1)
    write_pair(directory, "kme-a", ca, **issue)
    return TlsFiles(directory / "ca.pem", directory / "kme-a.pem", directory / "kme-a.key")


async def strike(bench: Bench, fault: str, directory: Path) -> KeySourceError:
    """The error of one call with that fault; afterwards all is well again."""
    server = bench.front
    if fault in CERTIFICATES:
        await server.stop()
        await server.start(made_certificate(fault, directory, server.pki))
        error = await failing(bench.ask)
        await server.stop()
        await server.start()
        return error
    last = bytes(bench.last.reveal())
    server.fault = {
        "slow": never,
        "cut": cut,
        "wrong-size": altered(lambda key: encoded(key[:16])),
        "wrong-encoding": altered(bytes.hex),
        "repeated-key": altered(lambda _: encoded(last)),
        "all-zero": altered(lambda key: encoded(bytes(len(key)))),
        "low-entropy": altered(lambda key: encoded(key[:16] * 2)),
        "huge": huge,
        "slow-loris": loris,
        "restart": never,
    }[fault]
    before = len(server.calls)
    if fault == "restart":
        call = asyncio.create_task(failing(bench.ask))
        await until(lambda: asyncio.sleep(0, len(server.calls) > before))
        await server.stop()
        error = await call
        await server.start()
    else:
        error = await failing(bench.ask)
    assert server.calls[before:] == [f"POST {bench.call}"], "a consuming call is sent once"
    server.fault = honest
    return error


async def failing(ask: Callable[[], Awaitable[object]]) -> KeySourceError:
    with pytest.raises(KeySourceError) as caught:
        await ask()
    return caught.value


@pytest.mark.parametrize("call", ["enc_keys", "dec_keys"])
@pytest.mark.parametrize("fault", CASES)
def test_a_fault_has_its_name_harms_nobody_else_and_is_got_over(
    pki: Path, tmp_path: Path, fault: str, call: str
) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            upstream, sae = (pair.a, "sae-alice") if call == "enc_keys" else (pair.b, "sae-bob")
            async with front(pki, f"https://{upstream.listen}", sae) as server:
                bench = Bench(pair, server, call, "3s" if fault in SLOW else "20s")
                await bench.ask()
                neighbour = pair.source("sae-alice", "sae-carol")
                error, (ref, key) = await asyncio.gather(strike(bench, fault, tmp_path), neighbour.get_key(32))
                assert type(error) is CASES[fault]
                assert WORDS[fault] in str(error)
                assert error.lost == (0 if fault in CERTIFICATES else 1)
                assert await pair.source("sae-carol", "sae-alice").get_key_by_id(ref) == key
                for shown in (f"{error} {error!r} {error.__cause__!r}",):
                    assert encoded(bytes(bench.last.reveal())) not in shown
                    assert bytes(bench.last.reveal()).hex() not in shown
                assert await bench.ask() is not None, "the same source, without a restart"

    run(test)


def test_two_hundred_keys_reach_both_ends(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            alice, bob = pair.source("sae-alice", "sae-bob"), pair.source("sae-bob", "sae-alice")
            refs: list[KeyRef] = []
            for _ in range(200):
                ref, key = await alice.get_key(32)
                assert await bob.get_key_by_id(ref) == key
                refs.append(ref)
            assert len({ref.key_id for ref in refs}) == 200

    run(test)


def test_the_list_of_faults_is_the_one_of_all_drivers() -> None:
    assert CASES.keys() == FAULTS.keys() == WORDS.keys()
