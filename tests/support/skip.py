"""Two real SKIP key providers on loopback over TLS, which hand each other their keys and can be made to fail.

What they answer is that of draft-cisco-skip-02: capabilities (section 4.1), keys (4.2), entropy (4.3), status codes
(tables 3, 7 and 9).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from qtunnel.drivers import skip
from qtunnel.tls import TlsFiles
from tests.support import https_server
from tests.support.https_server import HttpsServer
from tests.support.kme import files

CERTIFICATES = {"Alice": "kme-a", "Bob": "kme-b"}
"""Whose certificate of the test's PKI each key provider shows."""

WORDS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Error", 503: "Unavailable"}


@dataclass(kw_only=True)
class Exchange(https_server.Exchange):
    """What the provider is about to answer to a request. call: the first segment of its path."""

    target: str
    document: dict[str, Any]

    @property
    def whole(self) -> bytes:
        return response(self.status, json.dumps(self.document))

    async def reply(self, **changed: Any) -> None:
        """As a provider answers; changed: fields of the document."""
        await self.write(response(self.status, json.dumps({**self.document, **changed})))


Fault = Callable[[Exchange], Awaitable[None]]


async def honest(exchange: Exchange) -> None:
    await exchange.reply()


def response(status: int, body: str | bytes, kind: str = "application/json", headers: str = "") -> bytes:
    data = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status} {WORDS.get(status, 'Word')}\r\nContent-Type: {kind}\r\n{headers}"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


@dataclass
class KeyProvider(HttpsServer):
    """One key provider.

    faults: what becomes of the answers to a call, by its first path segment (``key`` for both ways to a key). before:
    whether that strikes before anything is consumed. requests: the targets of all that it was asked.
    """

    system_id: str
    context: Callable[[], ssl.SSLContext]
    remote: list[str]
    host: str = "127.0.0.1"
    port: int = 0
    algorithm: str = "PRF"
    gives_keys: bool = True
    gives_entropy: bool = True
    sizes: range = range(8, 4097, 8)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    partners: dict[str, KeyProvider] = field(default_factory=dict, repr=False)
    _waiting: dict[tuple[str, bytes], str] = field(default_factory=dict, repr=False)

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    def asked(self, call: str) -> list[str]:
        return [target for target in self.requests if urlsplit(target).path.split("/")[1] == call]

    @property
    def asked_for_keys(self) -> list[str]:
        return self.asked("key")

    def spoil(self, fault: Fault | None) -> None:
        """What becomes of answers with keys."""
        self.faults.pop("key", None)
        if fault is not None:
            self.faults["key"] = fault

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        self.port = await self.listen(self.host, self.port, context or self.context())

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        method, target = head[0].split()[:2]
        self.requests.append(target)
        call = urlsplit(target).path.split("/")[1]
        fault = self.faults.get(call, honest)
        status, document = self._answer(method, target)
        await fault(Exchange(call=call, target=target, status=status, document=document, writer=writer))
        return fault is honest

    def _answer(self, method: str, target: str) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = [unquote(part) for part in parts.path.split("/")[1:]]
        if method != "GET":
            return 405, {"message": "only GET"}
        if path == ["capabilities"]:
            return 200, {
                "entropy": self.gives_entropy,
                "key": self.gives_keys,
                "algorithm": self.algorithm,
                "localSystemID": self.system_id,
                "remoteSystemID": self.remote,
            }
        if path == ["entropy"] and self.gives_entropy:
            bits = int(query.get("minentropy", "256"))
            return 200, {"randomStr": os.urandom(bits // 8).hex().upper(), "minentropy": bits}
        if path[0] == "key" and len(path) <= 2:
            return self._key(query, path[1] if len(path) == 2 else None)
        return 404, {"message": "no such path"}

    def _key(self, query: dict[str, str], key_id: str | None) -> tuple[int, dict[str, Any]]:
        remote = query.get("remoteSystemID", "")
        if not any(fnmatchcase(remote, pattern) for pattern in self.remote):
            return 400, {"message": f"no keys with {remote!r}"}
        if key_id is not None:
            try:
                wanted = bytes.fromhex(key_id)
            except ValueError:
                return 400, {"message": "malformed keyId"}
            key = self._waiting.pop((remote, wanted), None)
            return (200, {"keyId": wanted.hex(), "key": key}) if key else (400, {"message": "key not found"})
        size = int(query.get("size", "256"))
        if size not in self.sizes:
            return 400, {"message": "size is out of range", "details": [{"size": size}]}
        made, key = os.urandom(16), os.urandom(size // 8).hex()
        self.partners[remote]._waiting[self.system_id, made] = key
        # In mixed case, as in the draft's example: what a keyId is does not hang on it.
        shown = "".join(c.upper() if place % 3 else c for place, c in enumerate(made.hex()))
        return 200, {"keyId": shown, "key": key}


class TellingObject(ssl.SSLObject):
    """asyncio drops a connection whose handshake fails, and with it the alert that tells the client why. Asking for
    more makes it send the alert first; whatever the client does then ends the handshake."""

    failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self.failure is not None:
            raise self.failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise
        except ssl.SSLError as error:
            self.failure = error
            raise ssl.SSLWantReadError from None


def server_context(mine: TlsFiles, *, mutual: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = TellingObject
    context.load_cert_chain(mine.certificate, mine.private_key)
    if mutual:
        context.load_verify_locations(mine.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@dataclass
class Pair:
    """Two key providers, and sources that ask them."""

    pki: Path
    alice: KeyProvider
    bob: KeyProvider
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    def hub(self, name: str, **options: Any) -> skip.Hub:
        """The driver at the site of that key provider, closed when the pair stops."""
        provider = self.alice if name == "Alice" else self.bob
        hub = skip.Hub("kp", driver_options(self.pki, provider.url, **options))
        self.stack.push_async_callback(hub.close)
        return hub

    def source(self, name: str, remote: str | None = None, **options: Any) -> skip.Source:
        other = remote or ("Bob" if name == "Alice" else "Alice")
        return self.hub(name, **options).for_peer(skip.PeerOptions(remote_system_id=other))


def driver_options(pki: Path, url: str, **options: Any) -> skip.Options:
    """With the certificate of sae-alice, unless ``options`` have a PSK or no certificate."""
    given: dict[str, Any] = {"url": url}
    if "psk_file" not in options:
        mine = files(pki, "sae-alice")
        given |= {"ca": mine.ca, "certificate": mine.certificate, "private_key": mine.private_key}
    return skip.Options.model_validate({**given, **options})


def make_pair(pki: Path, context: Callable[[str], ssl.SSLContext] | None = None) -> Pair:
    """Both, not started; context: the TLS context of each by name, else with certificates on both sides."""

    def of(name: str) -> Callable[[], ssl.SSLContext]:
        return lambda: context(name) if context else server_context(files(pki, CERTIFICATES[name]))

    alice = KeyProvider("Alice", of("Alice"), ["Bob", "Carol", "KP_*_LOC[12]"])
    bob = KeyProvider("Bob", of("Bob"), ["Alice"])
    alice.partners = {"Bob": bob, "Carol": bob}
    bob.partners = {"Alice": alice}
    return Pair(pki, alice, bob)


@contextlib.asynccontextmanager
async def key_providers(pki: Path, context: Callable[[str], ssl.SSLContext] | None = None) -> AsyncIterator[Pair]:
    """Both, serving."""
    pair = make_pair(pki, context)
    await pair.alice.start()
    await pair.bob.start()
    try:
        async with pair.stack:
            yield pair
    finally:
        await pair.alice.stop()
        await pair.bob.stop()
