"""The faults that every driver has to stand, at a real SKIP key provider."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qtunnel.errors import (
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnreachableError,
)
from qtunnel.keys.quality import SeenKeys, defect
from qtunnel.kme.pki import Authority
from qtunnel.secret import Secret
from qtunnel.tls import TlsFiles
from tests.drivers.faults import FAULTS
from tests.support.kme import run, until, write_pair
from tests.support.skip import Exchange, Fault, KeyProvider, Pair, key_providers, response, server_context

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
    "wrong-encoding": "seems to be base64 where hexadecimal is expected",
    "repeated-key": "was delivered before",
    "all-zero": "it is all zeros",
    "low-entropy": "it repeats itself after 16 bytes",
    "huge": "with more than",
    "slow-loris": "no answer within",
    "expired-certificate": "its certificate has expired",
    "wrong-certificate": "not signed by the CA that we trust",
    "name-mismatch": "its certificate is for another IP address; set server_hostname",
    "restart": "closed the connection without an answer",
    "clock-skew": "not valid yet; are both clocks right?",
}

CERTIFICATES = {"expired-certificate", "wrong-certificate", "name-mismatch", "clock-skew"}
SLOW = {"slow", "slow-loris"}


class Bench:
    """Alice and Bob; ``ask`` is the call for a key at ``provider``, which fails, checked as by the daemon."""

    def __init__(self, pair: Pair, call: str, timeout: str) -> None:
        self.pair, self.call = pair, call
        mine, theirs = ("Alice", "Bob") if call == "new" else ("Bob", "Alice")
        self.provider: KeyProvider = pair.alice if call == "new" else pair.bob
        self.source, self.other = pair.source(mine, timeout=timeout), pair.source(theirs)
        self.seen = SeenKeys(Secret(bytes(range(32))))
        self.last = Secret(bytes(32))

    async def ask(self) -> Secret:
        if self.call == "new":
            ref, key = await self.source.get_key(32)
        else:
            ref, theirs = await self.other.get_key(32)
            key = await self.source.get_key_by_id(ref)
            if not self.provider.faults:
                assert key == theirs
        wrong = defect(key)
        before = self.seen.taken_for(ref.key_id, key) if wrong is None else None
        if wrong is not None or before is not None:
            raise KeySourceProtocolError("kp", self.call, wrong or "was delivered before", lost=1)
        if self.call == "new":
            assert await self.other.get_key_by_id(ref) == key
        self.last = key.copy()
        return key


def altered(change: Callable[[bytes], str]) -> Fault:
    """The key of an answer, from its bytes to another text."""

    async def fault(exchange: Exchange) -> None:
        await exchange.reply(key=change(bytes.fromhex(exchange.document["key"])))

    return fault


async def never(_: Exchange) -> None:
    await asyncio.Event().wait()


async def cut(exchange: Exchange) -> None:
    await exchange.write(response(200, b'{"keyId": "aa", "key": "' + b"a" * 64)[:-32])


async def huge(exchange: Exchange) -> None:
    with contextlib.suppress(OSError):  # it hangs up in the middle
        await exchange.write(response(200, b'{"keyId": "aa"' + b" " * 4_000_000))


async def loris(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await exchange.write(b" ")
        await asyncio.sleep(0.05)


def bad_certificate(fault: str, directory: Path, pki: Path) -> ssl.SSLContext:
    ca = Authority.create(datetime.now(UTC)) if fault == "wrong-certificate" else Authority.load(pki)
    issue: dict[str, Any] = {"now": datetime.now(UTC), "server": True, "hosts": ("127.0.0.1",)}
    if fault == "name-mismatch":
        issue["hosts"] = ("10.1.2.3", "kp.example.org")
    if fault == "expired-certificate":
        issue["lifetime"] = timedelta(seconds=-60)
    if fault == "clock-skew":
        issue["now"] += timedelta(days=1)
    write_pair(directory, "kp", ca, **issue)
    return server_context(TlsFiles(pki / "ca.pem", directory / "kp.pem", directory / "kp.key"))


async def strike(bench: Bench, fault: str, directory: Path) -> KeySourceError:
    """The error of one call with that fault; afterwards all is well again."""
    provider = bench.provider
    if fault in CERTIFICATES:
        await provider.stop()
        await provider.start(bad_certificate(fault, directory, bench.pair.pki))
        error = await failing(bench.ask)
        await provider.stop()
        await provider.start()
        return error
    last = bytes(bench.last.reveal())
    faults: dict[str, Fault] = {
        "slow": never,
        "cut": cut,
        "wrong-size": altered(lambda key: key[:16].hex()),
        "wrong-encoding": altered(lambda key: base64.b64encode(key).decode()),
        "repeated-key": altered(lambda _: last.hex()),
        "all-zero": altered(lambda key: bytes(len(key)).hex()),
        "low-entropy": altered(lambda key: (key[:16] * 2).hex()),
        "huge": huge,
        "slow-loris": loris,
        "restart": never,
    }
    before = len(provider.asked("key"))
    provider.faults["key"] = faults[fault]
    if fault == "restart":
        call = asyncio.create_task(failing(bench.ask))
        await until(lambda: asyncio.sleep(0, len(provider.asked("key")) > before))
        await provider.stop()
        error = await call
        await provider.start()
    else:
        error = await failing(bench.ask)
    assert len(provider.asked("key")) == before + 1, "a consuming call is sent once"
    provider.faults.clear()
    return error


async def failing(ask: Callable[[], Awaitable[object]]) -> KeySourceError:
    with pytest.raises(KeySourceError) as caught:
        await ask()
    return caught.value


@pytest.mark.parametrize("call", ["new", "by id"])
@pytest.mark.parametrize("fault", CASES)
def test_a_fault_has_its_name_harms_nobody_else_and_is_got_over(
    pki: Path, tmp_path: Path, fault: str, call: str
) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair, key_providers(pki) as others:
            bench = Bench(pair, call, "3s" if fault in SLOW else "20s")
            await bench.ask()
            error, (ref, key) = await asyncio.gather(strike(bench, fault, tmp_path), others.source("Alice").get_key(32))
            assert type(error) is CASES[fault]
            assert WORDS[fault] in str(error)
            assert error.lost == (0 if fault in CERTIFICATES else 1)
            assert await others.source("Bob").get_key_by_id(ref) == key, "another source goes on"
            shown = f"{error} {error!r} {error.__cause__!r}"
            assert bytes(bench.last.reveal()).hex() not in shown
            assert base64.b64encode(bytes(bench.last.reveal())).decode() not in shown
            assert await bench.ask() is not None, "the same source, without a restart"

    run(test)


def test_capabilities_that_are_slow_or_cut_cost_no_key(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            alice = pair.source("Alice", timeout="3s")
            for fault, kind in ((never, KeySourceTimeoutError), (cut, KeySourceUnreachableError)):
                pair.alice.faults["capabilities"] = fault
                error = await failing(lambda: alice.get_key(32))
                assert (type(error), error.lost) == (kind, 0)
            pair.alice.faults.clear()
            assert not pair.alice.asked("key")
            await alice.get_key(32)

    run(test)


def test_the_list_of_faults_is_the_one_of_all_drivers() -> None:
    assert CASES.keys() == FAULTS.keys() == WORDS.keys()
