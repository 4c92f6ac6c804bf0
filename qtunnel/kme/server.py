"""The KME's two HTTPS servers, one for local SAEs (ETSI GS QKD 014 v1.1.1 clause 5) and one for the partner KME."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Middleware

from qtunnel.config.types import SocketAddress
from qtunnel.errors import KmeError
from qtunnel.kme import api
from qtunnel.kme.api import ApiError, DeliveredKey
from qtunnel.kme.config import KmeConfig
from qtunnel.kme.link import PATH as LINK_PATH
from qtunnel.kme.link import decode_push
from qtunnel.kme.listener import Listener
from qtunnel.kme.origin import Origin, PairOrigin
from qtunnel.kme.store import KeyStore
from qtunnel.telemetry.log import get as get_log
from qtunnel.tls import common_name, server_context

log = get_log("kme")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SIMULATED = "simulated keys: no quantum hardware makes them; not for production"

BODY_OVERHEAD = 64 * 1024
"""Bytes a request may have besides what grows with its number of keys."""

SWEEP_INTERVAL = 5.0
"""Seconds between looks for expired keys: keys are refused exactly at their end, this only frees memory."""

SHUTDOWN_TIMEOUT = 2.0
"""Seconds that requests under way get at a stop; more than the slowest answer over a working link takes."""


class Kme:
    """One KME: what it knows, and how it answers."""

    def __init__(
        self,
        config: KmeConfig,
        clock: Callable[[], float] = time.monotonic,
        origin: Callable[[KeyStore], Origin] | None = None,
    ) -> None:
        """origin: where keys come from, given the store that local SAEs fetch from; the link to the partner if none."""
        self.config = config
        self.limits = config.key.limits
        self._clock = clock
        self._home = {sae.sae_id: sae.kme for sae in config.saes}
        self._store = KeyStore(max_count=config.key.max_count, ttl=config.key.ttl)
        self._origin = origin(self._store) if origin else PairOrigin(config, self._store, clock)

    def sae_app(self, before: Sequence[Middleware] = ()) -> web.Application:
        """The application for local SAEs. before: middlewares that see the requests first and the answers last."""
        app = web.Application(
            middlewares=[*before, _errors], client_max_size=BODY_OVERHEAD + 256 * self.limits.max_per_request
        )
        # A HEAD would consume a key as its GET does, so it is not offered.
        app.router.add_get("/api/v1/keys/{sae_id}/status", self._status, allow_head=False)
        app.router.add_get("/api/v1/keys/{sae_id}/enc_keys", self._get_key, allow_head=False)
        app.router.add_post("/api/v1/keys/{sae_id}/enc_keys", self._get_key)
        app.router.add_get("/api/v1/keys/{sae_id}/dec_keys", self._get_key_by_id, allow_head=False)
        app.router.add_post("/api/v1/keys/{sae_id}/dec_keys", self._get_key_by_id)
        return app

    def partner_app(self) -> web.Application:
        """The application for the partner KME."""
        key_size = 256 + self.limits.max_size // 4  # base64 takes size / 6
        app = web.Application(
            middlewares=[_errors], client_max_size=BODY_OVERHEAD + key_size * self.limits.max_per_request
        )
        app.router.add_post(LINK_PATH, self._take_push)
        return app

    def sweep(self) -> None:
        """Wipe expired keys."""
        expired = self._store.sweep(self._clock())
        if expired:
            log.info("key.expired", count=len(expired))

    async def close(self) -> None:
        """Wipe every key and end the link."""
        self._store.clear()
        await self._origin.close()

    async def _status(self, request: web.Request) -> web.Response:
        caller, other = self._parties(request)
        standing = self._origin.standing(caller, other)
        return _answer(
            {
                "source_KME_ID": self.config.kme_id,
                "target_KME_ID": standing.target_kme_id,
                "master_SAE_ID": caller,
                "slave_SAE_ID": other,
                "key_size": self.limits.size,
                "stored_key_count": standing.stored,
                "max_key_count": self.limits.max_count,
                "max_key_per_request": self.limits.max_per_request,
                "max_key_size": self.limits.max_size,
                "min_key_size": self.limits.min_size,
                "max_SAE_ID_count": self.limits.max_sae_ids,
                "status_extension": {"simulated": True, "notice": SIMULATED, **standing.extension},
            }
        )

    async def _get_key(self, request: web.Request) -> web.Response:
        master, slave = self._parties(request)
        if request.method == "GET":
            fields = api.parse_query(request.query.items())
        else:
            _refuse_query(request)
            fields = api.parse_json(await request.read())
        asked = api.parse_key_request(fields, self.limits, self._origin.extensions)
        slaves = [slave, *asked.additional_slaves]
        self._check_slaves(master, slaves)
        keys = await self._origin.make(asked, master, slaves)
        log.info("key.delivered", call="enc_keys", to=master, slaves=slaves, key_ids=_ids(keys), bits=asked.size)
        return _keys_answer(keys)

    async def _get_key_by_id(self, request: web.Request) -> web.Response:
        slave, master = self._parties(request)
        if request.method == "GET":
            if set(request.query) - {"key_ID"}:
                raise ApiError(400, "unknown parameter; GET takes key_ID, POST takes key_IDs")
            key_ids = api.check_key_ids(request.query.getall("key_ID", []), self.limits)
        else:
            _refuse_query(request)
            key_ids = api.parse_key_ids(api.parse_json(await request.read()), self.limits)
        keys = self._store.take(key_ids, master=master, slave=slave, now=self._clock())
        log.info("key.delivered", call="dec_keys", to=slave, master=master, key_ids=_ids(keys))
        return _keys_answer(keys)

    async def _take_push(self, request: web.Request) -> web.Response:
        caller = _caller(request)
        if caller != self._partner_id:
            raise ApiError(401, f"{caller} is not the partner KME of {self.config.kme_id}")
        keys, master, slaves = decode_push(api.parse_json(await request.read()))
        if self._home.get(master) != "partner":
            raise ApiError(400, f"{master} is no SAE of the partner in the configuration of {self.config.kme_id}")
        for slave in slaves:
            if self._home.get(slave) != "local":
                raise ApiError(400, f"{slave} is no local SAE in the configuration of {self.config.kme_id}")
        self._store.put(keys, master=master, slaves=slaves, now=self._clock())
        log.info("key.received", master=master, slaves=slaves, key_ids=_ids(keys))
        return _answer({"stored": len(keys)})

    @property
    def _partner_id(self) -> str:
        assert self.config.partner is not None
        return self.config.partner.kme_id

    def _parties(self, request: web.Request) -> tuple[str, str]:
        """The SAE that asks, by its certificate, and the one in the path; raises ``ApiError`` 401 or 400."""
        caller, other = _caller(request), request.match_info["sae_id"]
        if self._home.get(caller) != "local":
            raise ApiError(401, f"{caller} is no SAE of {self.config.kme_id}")
        if other not in self._home:
            raise ApiError(400, f"SAE {other[:64]!r} is not known to {self.config.kme_id}")
        if other == caller:
            raise ApiError(400, "the SAE ID in the path is the caller's own; it shall be the other SAE's")
        return caller, other

    def _check_slaves(self, master: str, slaves: Sequence[str]) -> None:
        for slave in slaves:
            if slave not in self._home:
                raise ApiError(400, f"SAE {slave[:64]!r} is not known to {self.config.kme_id}")
        if master in slaves or len(set(slaves)) != len(slaves):
            raise ApiError(400, "additional_slave_SAE_IDs names an SAE twice or the master SAE")


@contextlib.asynccontextmanager
async def running(config: KmeConfig) -> AsyncIterator[Kme]:
    """A KME that serves within the context; raises ``ConfigError`` or ``KmeError`` where it cannot."""
    context = server_context(config.tls_files, lambda why: log.warning("client.refused", reason=why))
    kme = Kme(config)
    sites = [(config.listen, kme.sae_app())]
    if config.partner is not None:
        sites.append((config.partner.listen, kme.partner_app()))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(kme.close)
        for address, app in sites:
            await stack.enter_async_context(site(address, app, context))
        sweeper = asyncio.create_task(_sweep(kme))
        stack.callback(sweeper.cancel)
        log.warning("kme.simulated", kme=config.kme_id, notice=SIMULATED)
        link = {"partner": config.partner.kme_id, "link": config.partner.listen} if config.partner else {}
        log.info("kme.ready", kme=config.kme_id, listen=str(config.listen), **{k: str(v) for k, v in link.items()})
        yield kme
        log.info("kme.stopping", kme=config.kme_id)


@contextlib.asynccontextmanager
async def site(
    address: SocketAddress, app: web.Application, context: ssl.SSLContext, listener: socket.socket | None = None
) -> AsyncIterator[None]:
    """Serve at the address, or on a listening socket that is there already; raises ``KmeError``."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT)
    await runner.setup()
    try:
        await web.SockSite(runner, listener or listen(address), ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()


def listen(address: SocketAddress) -> socket.socket:
    """A listening socket; raises ``KmeError`` with the remedy."""
    family = socket.AF_INET6 if address.address.version == 6 else socket.AF_INET
    try:
        return Listener(socket.create_server((str(address.address), address.port), family=family, backlog=128))
    except OSError as error:
        remedy = {
            errno.EADDRINUSE: "another program has this port; stop it, or change listen",
            errno.EADDRNOTAVAIL: "no interface of this machine has this address; change listen",
            errno.EACCES: "ports below 1024 need a privilege; change listen",
        }.get(error.errno or 0, os.strerror(error.errno or 0))
        raise KmeError(f"cannot listen on {address}: {remedy}") from None


async def _sweep(kme: Kme) -> None:
    while True:
        await asyncio.sleep(SWEEP_INTERVAL)
        kme.sweep()


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure in the standard's error format (clause 6.5)."""
    try:
        return await handler(request)
    except ApiError as error:
        log.warning("request.refused", path=request.path, status=error.status, reason=error.message)
        return _answer(error.body(), error.status)
    except web.HTTPRequestEntityTooLarge:
        return _answer({"message": "the body is too large"}, 400)
    except web.HTTPException as error:
        return _answer({"message": error.reason}, error.status)
    except Exception as error:
        # Its text might quote what it failed on, so only its kind is told.
        log.error("request.failed", path=request.path, error=type(error).__name__)
        return _answer({"message": "the KME failed"}, 503)


def _caller(request: web.Request) -> str:
    transport = request.transport
    name = common_name(transport.get_extra_info("peercert")) if transport is not None else None
    if name is None:
        raise ApiError(401, "the client certificate names nobody (one common name is expected)")
    return name


def _refuse_query(request: web.Request) -> None:
    if request.query_string:
        raise ApiError(400, "POST takes its parameters in the body, not in the address")


def _ids(keys: Sequence[DeliveredKey]) -> list[str]:
    return [key.key_id for key in keys]


def _answer(body: api.Json, status: int = 200) -> web.Response:
    return _json(json.dumps(body).encode(), status)


def _keys_answer(keys: Sequence[DeliveredKey]) -> web.Response:
    return _json(api.key_container(keys), 200)


def _json(body: bytes, status: int) -> web.Response:
    return web.Response(
        body=body, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
