"""Driver ``etsi014``: a KME that speaks ETSI GS QKD 014 v1.1.1 (REST over mutual TLS).

Real servers differ from the standard; etsi014_answers.py holds what is tolerated. Calls that consume a key are sent
once: a lost answer is an error, and the caller decides whether to ask for another key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote

import aiohttp
from pydantic import AfterValidator, Field, model_validator
from yarl import URL

from qtunnel.config.types import Duration, Host, InputFile, SecretFile, Section, at_least
from qtunnel.config.urls import HttpsUrl
from qtunnel.drivers import etsi014_answers as answers
from qtunnel.drivers.registry import Driver
from qtunnel.errors import (
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef, SourceStatus
from qtunnel.secret import Secret
from qtunnel.tls import TlsFiles, client_context, explain, names_in_file

KEEPALIVE = 15.0
"""Seconds an idle connection is kept: shorter than servers keep theirs, so that a call never meets one just closed."""

CALLS_AT_ONCE = 16
"""Calls and connections at a time: a KME answers some hundred a second, and takes longer to set a connection up than to
deliver a key. A hub of 1,000 peers that all start at once asks for as many keys."""

TURN_LIMIT = 15.0
"""Seconds that a call waits for its turn; with ``timeout`` that is within the 25 s that the daemon gives a source."""

LISTEN_TIME = 1.0
"""Seconds to wait for the reason of a lost connection; it comes at once or never."""

MAX_BODY = 256 * 1024
"""Bytes of an answer besides the key itself; larger ones are refused unread."""


def _sae_id(value: str) -> str:
    if not value or len(value) > 255 or not value.isascii() or not value.isprintable() or "/" in value:
        raise ValueError("not an SAE ID; take 1 to 255 printable ASCII characters without '/'")
    return value


SaeId = Annotated[str, AfterValidator(_sae_id)]


class Options(Section):
    """What stands under ``key_sources.<name>``.

    check_hostname: the KME's certificate must be for the host of ``url``, or for ``server_hostname`` where given.
    kme_id: the KME that must answer. kme_id_check: where its ID is looked for: in the ``certificate`` (common name or
    DNS name, before anything is sent), in the ``status`` it reports (before every key that is asked for), or in
    ``both``. Without the check of the host name it must be looked for in the certificate: what a server reports of
    itself proves nothing.
    """

    url: HttpsUrl = Field(examples=["https://127.0.0.1:8443"])
    sae_id: SaeId = Field(examples=["sae-alice"])
    ca: InputFile = Field(examples=["pki/ca.pem"])
    certificate: InputFile = Field(examples=["pki/sae-alice.pem"])
    private_key: SecretFile = Field(examples=["pki/sae-alice.key"])
    check_hostname: bool = True
    server_hostname: Host | None = None
    kme_id: str | None = Field(default=None, min_length=1, max_length=255)
    kme_id_check: Literal["certificate", "status", "both"] | None = None
    timeout: Annotated[Duration, at_least(0.1, "no KME answers that fast")] = 5.0

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if self.kme_id_check is not None and self.kme_id is None:
            raise ValueError("kme_id_check needs kme_id: the ID that the KME must have")
        if self.server_hostname is not None and not self.check_hostname:
            raise ValueError("server_hostname says what to check, and check_hostname: false says not to; remove one")
        if not self.check_hostname and not self.checks_certificate_id:
            raise ValueError(
                "check_hostname: false needs kme_id, the common name of the KME's certificate, and no kme_id_check: "
                "status; otherwise every server with a certificate of the CA would be taken for the KME"
            )
        return self

    @property
    def tls_files(self) -> TlsFiles:
        return TlsFiles(self.ca, self.certificate, self.private_key)

    @property
    def checks_certificate_id(self) -> bool:
        return self.kme_id is not None and self.kme_id_check != "status"

    @property
    def checks_status_id(self) -> bool:
        return self.kme_id is not None and self.kme_id_check in ("status", "both")


class PeerOptions(Section):
    """What stands under ``peers[].qkd.sources.<name>``: the SAE at the other end."""

    peer_sae_id: SaeId = Field(examples=["sae-bob"])


class Hub:
    """One KME, shared by all peers whose keys come from it."""

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.options = options
        self._context = client_context(
            options.tls_files,
            check_hostname=options.check_hostname,
            peer_id=options.kme_id if options.checks_certificate_id else None,
        )
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        self._closed = False

    def for_peer(self, options: PeerOptions) -> Source:
        return Source(self, options.peer_sae_id)

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self, method: str, peer_sae_id: str, call: str, fields: Mapping[str, Any] | None, limit: int
    ) -> bytes:
        """The body of the 200 answer to one call; raises a ``KeySourceError``. limit: bytes of the body at most."""
        place = f"{self.name} ({self.options.url})"
        url = f"{self.options.url}/api/v1/keys/{quote(peer_sae_id, safe='')}/{call}"
        try:
            async with asyncio.timeout(TURN_LIMIT):
                await self._turns.acquire()
        except TimeoutError:
            raise KeySourceTimeoutError(
                place, call, f"not asked: {CALLS_AT_ONCE} other calls of ours took longer than {TURN_LIMIT:g} s"
            ) from None
        try:
            return await self._call(method, url, call, fields, limit)
        finally:
            self._turns.release()

    async def _call(self, method: str, url: str, call: str, fields: Mapping[str, Any] | None, limit: int) -> bytes:
        place = f"{self.name} ({self.options.url})"
        if self._closed:
            raise KeySourceUnreachableError(place, call, "the source is closed")
        try:
            async with self._open().request(
                method,
                URL(url, encoded=True),
                data=None if fields is None else json.dumps(fields).encode(),
                headers={"Accept": "application/json", "Accept-Encoding": "identity"}
                | ({"Content-Type": "application/json"} if fields is not None else {}),
                allow_redirects=False,
                server_hostname=self.options.server_hostname,
            ) as response:
                body = await _read(response, limit)
                if body is None:
                    raise KeySourceProtocolError(place, call, f"HTTP {response.status} with more than {limit} bytes")
                if response.status != 200:
                    raise answers.refusal(place, call, response.status, response.headers, body)
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise KeySourceProtocolError(place, call, "HTTP 200 with a compressed body that was not asked for")
                return body
        except KeySourceError:
            raise
        except Exception as error:
            failure = self._failure(place, call, error)
            if isinstance(failure, KeySourceUnreachableError) and _was_connected(error):
                failure = await self._refusal_behind(place, call) or failure
            if failure is None:
                raise
            raise failure from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._context, keepalive_timeout=KEEPALIVE)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=self.options.timeout),
            )
        return self._session

    def _failure(self, place: str, call: str, error: Exception) -> KeySourceError | None:
        """The named error for what went wrong on the way; ``None`` for what should not happen."""
        if isinstance(error, TimeoutError):
            return KeySourceTimeoutError(place, call, f"no answer within {self.options.timeout:g} s")
        if not isinstance(error, aiohttp.ClientError | OSError):
            return None
        tls = explain(error)
        if tls is not None:
            return KeySourceCertificateError(place, call, tls + self._remedy(tls))
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return KeySourceUnreachableError(place, call, "the host name is not found")
        if isinstance(error, aiohttp.ServerDisconnectedError):
            return KeySourceUnreachableError(place, call, "it closed the connection without an answer")
        if isinstance(error, aiohttp.ClientPayloadError):
            return KeySourceUnreachableError(place, call, "the connection was lost in the middle of the answer")
        if isinstance(error, aiohttp.ClientResponseError | ValueError):
            return KeySourceProtocolError(place, call, "the answer is not HTTP")
        return KeySourceUnreachableError(place, call, _reason(error))

    async def _refusal_behind(self, place: str, call: str) -> KeySourceCertificateError | None:
        """Whether a lost connection means that the KME refuses our certificate; asks for nothing.

        With TLS 1.3 the refusal comes after the client's handshake and races with the reset that our request causes, so
        it is often lost. A connection on which we only listen shows it.
        """
        url = URL(self.options.url)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(LISTEN_TIME, self.options.timeout)):
                writer = None
                try:
                    reader, writer = await asyncio.open_connection(
                        url.host, url.port, ssl=self._context, server_hostname=self.options.server_hostname or url.host
                    )
                    await reader.read(1)
                except OSError as error:
                    tls = explain(error)
                    if tls is not None:
                        return KeySourceCertificateError(place, call, tls + self._remedy(tls))
                finally:
                    if writer is not None:
                        writer.transport.abort()
        return None

    def _remedy(self, said: str) -> str:
        if "another host name" in said or "another IP address" in said:
            wanted = self.options.server_hostname
            return (
                f" (wanted: {wanted})" if wanted else ""
            ) + "; set server_hostname, or check_hostname: false together with kme_id"
        if "signed" in said and "refused" not in said:
            return f" ({self.options.ca})"
        if "refused our" in said or "client certificate" in said:
            return f" ({self.options.certificate})"
        return ""


class Source:
    """The keys that one KME shares with one peer's SAE. A ``qtunnel.keys.source.KeySource``."""

    def __init__(self, hub: Hub, peer_sae_id: str) -> None:
        self._hub = hub
        self._peer_sae_id = peer_sae_id
        self._place = f"{hub.name} ({hub.options.url})"

    @property
    def name(self) -> str:
        return self._hub.name

    @property
    def description(self) -> str:
        return f"etsi014:{self._hub.name}"

    async def status(self) -> SourceStatus:
        """GET status (clause 5.2)."""
        body = await self._hub.call("GET", self._peer_sae_id, "status", None, MAX_BODY)
        status = answers.status(self._place, body)
        if self._hub.options.checks_status_id:
            self._demand_kme(status)
        return answers.source_status(status)

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        """POST enc_keys (clause 5.3) for one key of ``size`` bytes."""
        await self._check_kme()
        fields = {"number": 1, "size": size * 8}
        body = await self._hub.call("POST", self._peer_sae_id, "enc_keys", fields, MAX_BODY + 2 * size)
        key_id, key = answers.one_key(self._place, "enc_keys", body, size)
        return KeyRef(self.name, key_id, size), key

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        """POST dec_keys (clause 5.4) for one key."""
        await self._check_kme()
        fields = {"key_IDs": [{"key_ID": ref.key_id}]}
        body = await self._hub.call("POST", self._peer_sae_id, "dec_keys", fields, MAX_BODY + 2 * ref.size)
        key_id, key = answers.one_key(self._place, "dec_keys", body, ref.size)
        if key_id.lower() != ref.key_id.lower():
            key.wipe()
            raise KeySourceProtocolError(
                self._place,
                "dec_keys",
                f"answered key_ID {answers.clean(key_id)} where {answers.clean(ref.key_id)} was asked",
            )
        return key

    async def _check_kme(self) -> None:
        # Before every key and not once: another KME may have taken its place since the last one.
        if self._hub.options.checks_status_id:
            await self.status()

    def _demand_kme(self, status: Mapping[str, Any]) -> None:
        said, wanted = status.get("source_kme_id"), self._hub.options.kme_id
        if said != wanted:
            found = answers.clean(str(said)) if said is not None else "no source_KME_ID"
            raise KeySourceCertificateError(self._place, "status", f"the KME says it is {found}, not {wanted} (kme_id)")


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The whole body; ``None`` where it has more than ``limit`` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            return None
    return bytes(body)


def _was_connected(error: Exception) -> bool:
    """Whether the connection was there before it was lost."""
    return isinstance(error, aiohttp.ClientConnectionError) and not isinstance(error, aiohttp.ClientConnectorError)


def _reason(error: Exception) -> str:
    """The operating system's words, without the address, which stands in front of them already."""
    inner: BaseException = getattr(error, "os_error", error)
    known = inner.errno if isinstance(inner, OSError) else None
    # Where several addresses of a name fail, their errors stand in one text.
    numbers = {known} if known else {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(inner))}
    return ", ".join(sorted(os.strerror(number).lower() for number in numbers)) or "the connection failed"


def _open(name: str, options: Options) -> Hub:
    return Hub(name, options)


def _doubts(options: Options) -> Iterator[str]:
    """KMEs take the SAE ID from the client certificate (ETSI GS QKD 014 clause 5.1); some map it by a table instead."""
    found = names_in_file(options.certificate)
    if options.sae_id not in found:
        listed = ", ".join(sorted(found)) or "nobody"
        yield f"{options.certificate} names {listed}, not sae_id {options.sae_id}; most KMEs will refuse it"


DRIVER = Driver("etsi014", Options, PeerOptions, _open, _doubts)
