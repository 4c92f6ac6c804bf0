"""Driver ``skip``: a key provider that speaks SKIP, the Secure Key Integration Protocol (draft-cisco-skip-02).

REST over TLS, everything GET, sizes in bits, keys and keyIds in hexadecimal. Each gateway asks the key provider (KP) of
its own site; KPs know each other by system IDs. Calls that consume a key are sent once: a lost answer is an error that
says so, and the caller decides whether to ask for another key.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

from qtunnel.drivers import skip_answers as answers
from qtunnel.drivers.answers import clean
from qtunnel.drivers.https import MAX_BODY, HttpsServer, Request
from qtunnel.drivers.registry import Driver
from qtunnel.drivers.skip_answers import CAPABILITIES, ENTROPY, KEY, KEY_BY_ID, Capabilities
from qtunnel.drivers.skip_options import Options as Options
from qtunnel.drivers.skip_options import PeerOptions as PeerOptions
from qtunnel.drivers.skip_options import doubts
from qtunnel.drivers.skip_tls import Tls, remedy
from qtunnel.errors import (
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceUnavailableError,
)
from qtunnel.keys.source import KeyRef, SourceStatus
from qtunnel.secret import Secret

CONNECT_SHARE = 0.8
"""Of ``timeout``, for the connection: one that fails costs no key, and is told apart from a lost answer that may."""


class Hub:
    """One KP, shared by all peers whose keys come from it."""

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.options = options
        self.place = f"{name} ({options.url})"
        self.tls = Tls(options)
        self._server = HttpsServer(
            self.place,
            options.url,
            self.tls.current,
            timeout=options.timeout,
            connect_timeout=options.timeout * CONNECT_SHARE,
            server_hostname=options.server_hostname,
            remedy=remedy(options),
        )
        self._known: Capabilities | None = None
        self._look: asyncio.Task[Capabilities] | None = None

    def for_peer(self, options: PeerOptions) -> Source:
        return Source(self, options.remote_system_id)

    async def close(self) -> None:
        if self._look is not None:
            self._look.cancel()
        await self._server.close()
        self.tls.close()

    async def capabilities(self, *, anew: bool = False) -> Capabilities:
        """GET /capabilities (section 4.1), from the cache unless ``anew``, or after an error.

        One question at a time, however many peers wait for its answer.
        """
        if self._known is not None and not anew:
            return self._known
        if self._look is None:
            self._look = asyncio.create_task(self._ask_capabilities())
            self._look.add_done_callback(self._looked)
        return await asyncio.shield(self._look)

    def _looked(self, task: asyncio.Task[Capabilities]) -> None:
        self._look = None
        self._known = None if task.cancelled() or task.exception() is not None else task.result()

    async def _ask_capabilities(self) -> Capabilities:
        found = answers.capabilities(self.place, await self._call(CAPABILITIES, "/capabilities"))
        wanted = self.options.local_system_id
        if wanted is not None and found.local_system_id != wanted:
            what = f"the key provider says it is {clean(found.local_system_id)}, not {wanted} (local_system_id)"
            raise KeySourceCertificateError(self.place, CAPABILITIES, what)
        return found

    async def key(self, call: str, path: str, size: int) -> tuple[str, Secret]:
        """The keyId and the key of ``size`` bytes of one call that consumes it (section 4.2)."""
        with self._forgetting():
            body = await self._call(call, path, keys=1, limit=MAX_BODY + 2 * size)
            with _wiped(body):
                return answers.key(self.place, call, body, size)

    async def entropy(self, size: int) -> Secret:
        """GET /entropy (section 4.3): ``size`` random bytes of the KP, for whoever wants to add them to others.

        Nothing in qtunnel lives on them: its own randomness is the kernel's.
        """
        if not (await self.capabilities()).entropy:
            what = "the key provider gives no entropy (entropy in its capabilities)"
            raise KeySourceUnavailableError(self.place, ENTROPY, what)
        with self._forgetting():
            body = await self._call(ENTROPY, f"/entropy?minentropy={size * 8}", limit=MAX_BODY + 2 * size)
            with _wiped(body):
                return answers.entropy(self.place, body, size)

    def forget(self) -> None:
        """Look at the capabilities again before the next call."""
        self._known = None

    @contextlib.contextmanager
    def _forgetting(self) -> Iterator[None]:
        try:
            yield
        except KeySourceError:
            self.forget()
            raise

    async def _call(self, call: str, path: str, *, keys: int = 0, limit: int = MAX_BODY) -> bytearray:
        request = Request("GET", path, call, None, keys, limit)
        return await self._server.call(request, partial(answers.refusal, self.place, call, keys=keys))


class Source:
    """The keys that this site's KP shares with that of one peer. A ``qtunnel.keys.source.KeySource``."""

    def __init__(self, hub: Hub, remote_system_id: str) -> None:
        self._hub = hub
        self._remote = remote_system_id
        self._query = f"remoteSystemID={quote(remote_system_id, safe='')}"

    @property
    def name(self) -> str:
        return self._hub.name

    @property
    def description(self) -> str:
        return f"skip:{self._hub.name}"

    async def status(self) -> SourceStatus:
        """What the capabilities say (section 4.1), asked anew. SKIP tells neither stores nor rates."""
        found = await self._hub.capabilities(anew=True)
        problem = self._problem(found)
        told = f"{clean(found.local_system_id)} to {clean(self._remote)}"
        if found.algorithm:
            told += f", keys by {found.algorithm}"
        more = [part for part in (problem[1] if problem else None, self._hub.tls.problem) if part]
        return SourceStatus(healthy=problem is None, detail="; ".join([told, *more]))

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        """GET /key (section 4.2), a fresh key of ``size`` bytes."""
        await self._check(KEY)
        key_id, key = await self._hub.key(KEY, f"/key?{self._query}&size={size * 8}", size)
        return KeyRef(self.name, key_id, size), key

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        """GET /key/{keyId} (section 4.2), the key that the peer has from its own KP."""
        place, call = self._hub.place, KEY_BY_ID
        if not answers.is_key_id(ref.key_id):
            what = f"not asked: {clean(ref.key_id)} is no keyId, which is hexadecimal; has the peer another driver?"
            raise KeyRequestRejectedError(place, call, what)
        await self._check(call)
        key_id, key = await self._hub.key(call, f"/key/{ref.key_id}?{self._query}", ref.size)
        if key_id.lower() != ref.key_id.lower():
            key.wipe()
            self._hub.forget()
            what = f"answered keyId {clean(key_id)} where {clean(ref.key_id)} was asked"
            raise KeySourceProtocolError(place, call, what, lost=1)
        return key

    async def _check(self, call: str) -> None:
        """Ask for no key that the KP says it does not have."""
        problem = self._problem(await self._hub.capabilities())
        if problem is not None:
            self._hub.forget()
            raise problem[0](self._hub.place, call, f"not asked: {problem[1]}")

    def _problem(self, found: Capabilities) -> tuple[type[KeySourceError], str] | None:
        """Why there are no keys towards the peer, in words, and the error for it."""
        remote = clean(self._remote)
        if not found.key:
            return KeySourceUnavailableError, "the key provider gives no keys (key in its capabilities)"
        if found.local_system_id == self._remote:
            what = f"remote_system_id {remote} is the key provider of this site itself; write that of the peer's"
            return KeyRequestRejectedError, what
        if not found.reaches(self._remote):
            what = f"the key provider has no keys with {remote}, only with {found.listed}; see remote_system_id"
            return KeyRequestRejectedError, what
        return None


@contextlib.contextmanager
def _wiped(body: bytearray) -> Iterator[None]:
    try:
        yield
    finally:
        body[:] = bytes(len(body))


def _open(name: str, options: Options) -> Hub:
    return Hub(name, options)


DRIVER = Driver("skip", Options, PeerOptions, _open, doubts, warns=False)
