"""Driver ``etsi014``: a KME that speaks ETSI GS QKD 014 v1.1.1 (REST over mutual TLS), or several of one site.

Real servers differ from the standard; etsi014_answers.py holds what is tolerated. Calls that consume a key are sent
once: a lost answer is an error that says how many keys it may have cost, and the caller decides whether to ask for
other keys.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from qtunnel.drivers import etsi014_answers as answers
from qtunnel.drivers.answers import clean
from qtunnel.drivers.certificates import Certificates
from qtunnel.drivers.etsi014_options import Options as Options
from qtunnel.drivers.etsi014_options import PeerOptions as PeerOptions
from qtunnel.drivers.etsi014_options import doubts
from qtunnel.drivers.etsi014_pieces import Pieces
from qtunnel.drivers.failover import Asked, Preference
from qtunnel.drivers.https import MAX_BODY, HttpsServer, Request
from qtunnel.drivers.registry import Driver
from qtunnel.drivers.tls_remedy import remedy
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef, SourceStatus
from qtunnel.secret import Secret
from qtunnel.tls import client_context

Clock = Callable[[], float]
Result = TypeVar("Result")

GONE = (KeySourceUnreachableError, KeySourceTimeoutError, KeySourceCertificateError, KeySourceUnavailableError)
"""After these a KME is not preferred for a while, and where nothing was consumed another one is asked."""

REFUSED = (KeyNotFoundError, KeyRequestRejectedError)
"""A key_ID that one KME does not have may be at another of the site."""

CONNECT_SHARE = 0.8
"""Of ``timeout``, for the connection: one that fails costs no key, and is told apart from a lost answer that may."""

CONNECT_SHARE_OF_MANY = 0.5
"""The same where there is another KME to go to in the rest of the time."""


@dataclass(slots=True)
class Kme:
    """One KME of the source. problem: why it was passed over last; limits: by peer SAE, as its status told."""

    number: int
    server: HttpsServer
    certificates: Certificates
    kme_id: str | None
    problem: str = ""
    limits: dict[str, answers.Limits] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return self.server.place


class Hub:
    """The KMEs of one source, shared by all peers whose keys come from them."""

    def __init__(self, name: str, options: Options, clock: Clock = time.monotonic) -> None:
        self.name = name
        self.options = options
        self.clock = clock
        self.preference = Preference(len(options.url))
        self.asked = Asked()
        self.kmes = [self._kme(number, url) for number, url in enumerate(options.url)]

    def _kme(self, number: int, url: str) -> Kme:
        options, kme_id = self.options, self.options.kme_id_at(number)
        certificates = Certificates(
            options.tls_files,
            partial(
                client_context,
                options.tls_files,
                check_hostname=options.check_hostname,
                peer_id=kme_id if options.checks_certificate_id else None,
                min_version=options.tls_version,
            ),
        )
        server = HttpsServer(
            f"{self.name} ({url})",
            url,
            certificates.current,
            timeout=options.timeout,
            connect_timeout=options.timeout * (CONNECT_SHARE if len(options.url) == 1 else CONNECT_SHARE_OF_MANY),
            server_hostname=options.server_hostname,
            remedy=partial(
                remedy,
                server_hostname=options.server_hostname,
                ca=options.ca,
                own=options.pkcs12 or options.certificate,
            ),
        )
        return Kme(number, server, certificates, kme_id)

    def for_peer(self, options: PeerOptions) -> Source:
        return Source(self, options)

    async def close(self) -> None:
        for kme in self.kmes:
            await kme.server.close()

    async def first_that_can(
        self, call: str, ask: Callable[[Kme], Awaitable[Result]], only: int | None = None
    ) -> tuple[Kme, Result]:
        """What ``ask`` gets of the first KME, in the order of preference, that is there; only: no other than this.

        The next one is asked only where this one certainly consumed nothing.
        """
        began, failures = self.clock(), list[KeySourceError]()
        for number in self.preference.order(began):
            kme = self.kmes[number]
            if only not in (None, number) or (failures and self.clock() - began > self.options.timeout):
                continue
            try:
                result = await ask(kme)
            except KeySourceError as error:
                failures.append(error)
                if isinstance(error, GONE):
                    self.preference.failed(number, self.clock())
                    kme.problem = error.detail
                if error.lost or not isinstance(error, GONE + (REFUSED if call == "dec_keys" else ())):
                    raise
            else:
                self.preference.works(number)
                kme.problem = ""
                return kme, result
        raise _together(failures)

    def using(self, kme: Kme) -> str:
        """For the status: which of several KMEs answered, and why not one before it."""
        if len(self.kmes) == 1:
            return ""
        passed = [f"{other.server.url}: {other.problem}" for other in self.kmes[: kme.number] if other.problem]
        return f"asks {kme.server.url}" + (f" ({', '.join(passed)})" if passed else "")


class Source:
    """The keys that the KMEs share with one peer's SAE. A ``qtunnel.keys.source.BatchKeySource``."""

    def __init__(self, hub: Hub, peer: PeerOptions) -> None:
        self._hub = hub
        self._peer = peer
        self._pieces = Pieces(hub.options.key_size)

    @property
    def name(self) -> str:
        return self._hub.name

    @property
    def description(self) -> str:
        return f"etsi014:{self._hub.name}"

    async def status(self) -> SourceStatus:
        """GET status (clause 5.2)."""
        kme, fields = await self._hub.first_that_can("status", self._status)
        told = answers.source_status(kme.place, fields)
        more = [part for part in (self._hub.using(kme), kme.certificates.problem) if part]
        return replace(told, detail="; ".join([told.detail, *more]))

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        """Get key (clause 5.3), one of ``size`` bytes."""
        _, keys = await self._hub.first_that_can("enc_keys", lambda kme: self._take(kme, size, 1))
        return keys[0]

    async def get_keys(self, size: int, number: int) -> list[tuple[KeyRef, Secret]]:
        """Get key (clause 5.3), from 1 to ``number`` of ``size`` bytes: as many as the KME gives at once."""
        if number < 1:
            raise ValueError("at least one key")
        _, keys = await self._hub.first_that_can("enc_keys", lambda kme: self._take(kme, size, number))
        return keys

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        """Get key with key IDs (clause 5.4), for one key."""
        return (await self._fetch_first([ref]))[0]

    async def get_keys_by_ids(self, refs: Sequence[KeyRef]) -> list[Secret]:
        """Get key with key IDs (clause 5.4), the keys of the first of ``refs``, as many as the KME gives at once."""
        if not refs:
            raise ValueError("at least one key")
        return await self._fetch_first(refs)

    async def _fetch_first(self, refs: Sequence[KeyRef]) -> list[Secret]:
        where = [self._hub.asked.at(self._pieces.key_ids(ref)[0]) for ref in refs]
        alike = next((i for i, ref in enumerate(refs) if (where[i], ref.size) != (where[0], refs[0].size)), len(refs))
        _, keys = await self._hub.first_that_can("dec_keys", lambda kme: self._fetch(kme, refs[:alike]), only=where[0])
        return keys

    async def _status(self, kme: Kme) -> dict[str, Any]:
        path, refusal = self._path("status"), partial(answers.refusal, kme.place, "status")
        fields = answers.status(kme.place, await kme.server.call(Request("GET", path, "status"), refusal))
        if self._hub.options.checks_status_id:
            said = fields.get("source_kme_id")
            if said != kme.kme_id:
                found = clean(str(said)) if said is not None else "no source_KME_ID"
                what = f"the KME says it is {found}, not {kme.kme_id} (kme_id)"
                raise KeySourceCertificateError(kme.place, "status", what)
        kme.limits[self._peer.peer_sae_id] = answers.limits(fields)
        return fields

    async def _limits(self, kme: Kme, keys: int) -> answers.Limits:
        """What may be asked for in one call, for ``keys`` keys.

        Its status is asked where it has to show who it is, before every key and not once, as another KME may have taken
        its place since; and for more keys than the one that every KME gives, where it was not told yet.
        """
        known = kme.limits.get(self._peer.peer_sae_id)
        if self._hub.options.checks_status_id or (keys > 1 and known is None):
            await self._status(kme)
            known = kme.limits[self._peer.peer_sae_id]
        return known or answers.Limits()

    async def _take(self, kme: Kme, size: int, number: int) -> list[tuple[KeyRef, Secret]]:
        each = self._pieces.checked_count(kme.place, "enc_keys", size)
        limits = await self._limits(kme, number * each)
        problem = limits.problem(self._pieces.bits(size)) if number * each > 1 else None
        if problem is not None:
            raise KeyRequestRejectedError(kme.place, "enc_keys", problem)
        wanted = each * max(1, min(number, limits.max_per_request // each))
        got: list[tuple[str, Secret]] = []
        try:
            while len(got) < wanted and (not got or len(got) % each):
                # More than one round only for pieces of a key of which the KME gives fewer at once than it takes.
                left = wanted - len(got)
                got += await self._enc_keys(kme, min(left, limits.max_per_request), self._pieces.bits(size))
            return [(KeyRef(self.name, key_id, size), key) for key_id, key in self._pieces.joined(kme.place, got, size)]
        except KeySourceError as error:
            if isinstance(error, KeyRequestRejectedError):
                kme.limits.pop(self._peer.peer_sae_id, None)  # perhaps they have changed
            raise _with_lost(error, len(got)) from None
        finally:
            for _, key in got:
                key.wipe()

    async def _fetch(self, kme: Kme, refs: Sequence[KeyRef]) -> list[Secret]:
        size = refs[0].size
        each = self._pieces.checked_count(kme.place, "dec_keys", size)
        limits = await self._limits(kme, len(refs) * each)
        first = refs[: max(1, limits.max_per_request // each)]
        key_ids = [key_id for ref in first for key_id in self._pieces.key_ids(ref)]
        if len(key_ids) != len(first) * each:
            what = f"the reference does not name {each} keys of key_size; is that the same at both ends?"
            raise KeyRequestRejectedError(kme.place, "dec_keys", what)
        got: list[tuple[str, Secret]] = []
        try:
            for start in range(0, len(key_ids), limits.max_per_request):
                some = key_ids[start : start + limits.max_per_request]
                got += zip(some, await self._dec_keys(kme, some, self._pieces.bits(size)), strict=True)
            return [key for _, key in self._pieces.joined(kme.place, got, size)]
        except KeySourceError as error:
            if isinstance(error, KeyRequestRejectedError):
                kme.limits.pop(self._peer.peer_sae_id, None)  # perhaps they have changed
            raise _with_lost(error, len(got)) from None
        finally:
            for _, key in got:
                key.wipe()

    async def _enc_keys(self, kme: Kme, number: int, bits: int) -> list[tuple[str, Secret]]:
        options = self._hub.options
        fields: dict[str, Any] = {"number": number, "size": bits}
        more = {
            "additional_slave_SAE_IDs": list(self._peer.additional_slave_sae_ids),
            "extension_mandatory": options.extension_mandatory,
            "extension_optional": options.extension_optional,
        }
        # Some KMEs refuse these fields even where they are empty.
        fields |= {name: value for name, value in more.items() if value}
        query = fields if options.method == "get" and not any(more.values()) else None
        body = await self._call(kme, "enc_keys", fields, query, number, bits)
        try:
            return answers.keys_of(kme.place, "enc_keys", body, bits // 8, number)
        finally:
            body[:] = bytes(len(body))

    async def _dec_keys(self, kme: Kme, key_ids: Sequence[str], bits: int) -> list[Secret]:
        fields = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
        query = {"key_ID": key_ids[0]} if self._hub.options.method == "get" and len(key_ids) == 1 else None
        consumed = True
        try:
            body = await self._call(kme, "dec_keys", fields, query, len(key_ids), bits)
            try:
                return answers.keys_by_id(kme.place, "dec_keys", body, bits // 8, key_ids)
            finally:
                body[:] = bytes(len(body))
        except KeySourceError as error:
            consumed = error.lost > 0
            raise
        finally:
            if consumed:  # also where it is cancelled, with the request perhaps under way
                self._hub.asked.note(key_ids, kme.number)

    async def _call(
        self, kme: Kme, call: str, fields: Mapping[str, Any], query: Mapping[str, Any] | None, keys: int, bits: int
    ) -> bytearray:
        """By GET where there is a ``query``, else by POST."""
        limit = MAX_BODY + keys * bits // 4
        if query is None:
            body = json.dumps(fields).encode()
            request = Request("POST", self._path(call), call, body, keys, limit)
        else:
            path = f"{self._path(call)}?{urlencode(query, quote_via=quote)}"
            request = Request("GET", path, call, None, keys, limit)
        mandatory = call == "enc_keys" and bool(self._hub.options.extension_mandatory)
        return await kme.server.call(request, partial(answers.refusal, kme.place, call, keys=keys, mandatory=mandatory))

    def _path(self, call: str) -> str:
        slash = "/" if self._hub.options.trailing_slash else ""
        return f"/api/v1/keys/{quote(self._peer.peer_sae_id, safe='')}/{call}{slash}"


def _with_lost(error: KeySourceError, keys: int) -> KeySourceError:
    """The same error where ``keys`` more were had before it and are of no use now."""
    if not keys:
        return error
    return type(error)(error.source, error.call, error.detail, lost=error.lost + keys)


def _together(failures: Sequence[KeySourceError]) -> KeySourceError:
    """One error for those of several KMEs; that one of them may answer later counts."""
    first = next((error for error in failures if error.retryable), failures[0])
    others = [f"{error.source}: {error.detail}" for error in failures if error is not first]
    return type(first)(first.source, first.call, "; ".join([first.detail, *others]))


DRIVER = Driver("etsi014", Options, PeerOptions, Hub, doubts)
