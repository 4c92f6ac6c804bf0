"""The faults of faults.py as servers of keys over HTTPS can be made to show them, and how a source stands them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from qtunnel.errors import KeySourceError, KeySourceProtocolError
from qtunnel.keys.quality import SeenKeys, defect
from qtunnel.keys.source import KeySource
from qtunnel.secret import Secret
from tests.support.errors import failing
from tests.support.https_server import Exchange
from tests.support.kme import until

WORDS = {
    "slow": "no answer within",
    "cut": "lost in the middle of the answer",
    "wrong-size": "the key has 128 bits where 256 were asked for",
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
"""What the error of each says; a driver adds its own of the encoding."""

SLOW = {"slow", "slow-loris"}


async def never(_: Exchange) -> None:
    await asyncio.Event().wait()


async def cut(exchange: Exchange) -> None:
    await exchange.write(exchange.whole[:-32])


async def huge(exchange: Exchange) -> None:
    with contextlib.suppress(OSError):  # it hangs up in the middle
        await exchange.write(head(4_000_009) + b'{"keys": [' + b" " * 4_000_000)


async def loris(exchange: Exchange) -> None:
    await exchange.write(head(100_000))
    while True:
        await exchange.write(b" ")
        await asyncio.sleep(0.05)


def head(length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()


Altered = Callable[[Callable[[bytes], str]], Any]
"""From a change of a key's bytes into another text to the fault that makes it in an answer."""


def faults(
    altered: Altered, right: Callable[[bytes], str], wrong: Callable[[bytes], str], last: Secret
) -> dict[str, Any]:
    """What becomes of an answer. right, wrong: how the interface writes a key, and how it does not; last: the key that
    was delivered before."""
    before = bytes(last.reveal())
    return {
        "slow": never,
        "cut": cut,
        "wrong-size": altered(lambda key: right(key[:16])),
        "wrong-encoding": altered(wrong),
        "repeated-key": altered(lambda _: right(before)),
        "all-zero": altered(lambda key: right(bytes(len(key)))),
        "low-entropy": altered(lambda key: right(key[:16] * 2)),
        "huge": huge,
        "slow-loris": loris,
        "restart": never,
    }


class Bench:
    """A source that goes wrong and the peer's, which does not; ``ask`` is a call for a key at the first, judged as by
    the daemon. fresh: whether for a fresh key, or for one that the peer took."""

    def __init__(self, source: KeySource, peers: KeySource, *, fresh: bool) -> None:
        self.source, self.peers, self.fresh = source, peers, fresh
        self.honest = True
        self.last = Secret(bytes(32))
        self._seen = SeenKeys(Secret(bytes(range(32))))

    async def ask(self) -> Secret:
        if self.fresh:
            ref, key = await self.source.get_key(32)
        else:
            ref, theirs = await self.peers.get_key(32)
            key = await self.source.get_key_by_id(ref)
            assert not self.honest or key == theirs
        wrong = defect(key)
        before = self._seen.taken_for(ref.key_id, key) if wrong is None else None
        if wrong is not None or before is not None:
            raise KeySourceProtocolError("bench", "a key", wrong or "was delivered before", lost=1)
        if self.fresh:
            assert await self.peers.get_key_by_id(ref) == key
        self.last = key.copy()
        return key


class Spoilt(Protocol):
    """A server whose answers to calls for keys can be spoilt. asked: these calls, so far."""

    @property
    def asked_for_keys(self) -> list[str]: ...
    def spoil(self, fault: Callable[[Any], Awaitable[None]] | None) -> None: ...
    async def start(self, context: ssl.SSLContext | None = None) -> None: ...
    async def stop(self) -> None: ...


async def with_certificate(bench: Bench, server: Spoilt, context: ssl.SSLContext) -> KeySourceError:
    """The error of one call at the server with a certificate that is not right; afterwards all is well again."""
    await server.stop()
    await server.start(context)
    error = await failing(bench.ask)
    await server.stop()
    await server.start()
    return error


async def strike(bench: Bench, server: Spoilt, fault: str, made: Mapping[str, Any]) -> KeySourceError:
    """The error of one call with that fault of ``made``; afterwards all is well again."""
    before = len(server.asked_for_keys)
    server.spoil(made[fault])
    bench.honest = False
    if fault == "restart":
        call = asyncio.create_task(failing(bench.ask))
        await until(lambda: asyncio.sleep(0, len(server.asked_for_keys) > before))
        await server.stop()
        error = await call
        await server.start()
    else:
        error = await failing(bench.ask)
    assert len(server.asked_for_keys) == before + 1, "a consuming call is sent once"
    server.spoil(None)
    bench.honest = True
    return error


def shows(error: KeySourceError, key: Secret) -> bool:
    """Whether the key stands in the error, in any form."""
    shown = f"{error} {error!r} {error.__cause__!r}"
    forms = key.reveal().hex(), base64.b64encode(key.reveal()).decode()
    return any(form in shown for form in forms)
