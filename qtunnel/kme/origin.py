"""Where a KME's keys come from: what its server asks, and the simulated link to one partner."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qtunnel.kme.api import ApiError, DeliveredKey, Json, KeyRequest
from qtunnel.kme.config import KmeConfig
from qtunnel.kme.link import LinkClient, PartnerError
from qtunnel.kme.store import KeyStore, Supply
from qtunnel.secret import Secret
from qtunnel.telemetry.log import get as get_log

log = get_log("kme")


@dataclass(frozen=True, slots=True)
class Standing:
    """What a status tells of two SAEs: the KME of the other one, keys ready, and the standard's status_extension."""

    target_kme_id: str
    stored: int
    extension: Json


class Origin(Protocol):
    """Makes keys, and puts them into the stores of the KMEs whose SAEs may fetch them.

    extensions: names that may stand in a request's extension_mandatory.
    """

    @property
    def extensions(self) -> frozenset[str]: ...

    def standing(self, caller: str, other: str) -> Standing: ...

    async def make(self, request: KeyRequest, master: str, slaves: Sequence[str]) -> list[DeliveredKey]:
        """Fresh keys that wait for every slave already; raises ``ApiError`` and leaves none anywhere."""
        ...

    async def close(self) -> None: ...


class PairOrigin:
    """One simulated link, between this KME and its partner."""

    extensions: frozenset[str] = frozenset()

    def __init__(self, config: KmeConfig, store: KeyStore, clock: Callable[[], float]) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._home = {sae.sae_id: sae.kme for sae in config.saes}
        self._limits = config.key.limits
        rate = None if config.key.rate == "unlimited" else float(config.key.rate)
        self._supply = Supply(rate=rate, capacity=config.key.max_count * config.key.size, now=clock())
        self._link = LinkClient(config.partner, config.tls_files) if config.partner else None
        self._partner_problem: str | None = None

    @property
    def _partner_id(self) -> str:
        assert self._config.partner is not None
        return self._config.partner.kme_id

    def standing(self, caller: str, other: str) -> Standing:
        local = self._home[other] == "local"
        stored = min(self._supply.available(self._clock()) // self._limits.size, self._limits.max_count)
        extension: Json = {}
        if self._config.key.rate != "unlimited":
            extension["key_rate"] = self._config.key.rate
        if not local and self._partner_problem is not None:
            extension["partner_problem"] = self._partner_problem
        return Standing(self._config.kme_id if local else self._partner_id, stored, extension)

    async def make(self, request: KeyRequest, master: str, slaves: Sequence[str]) -> list[DeliveredKey]:
        """At the partner first."""
        number, size = request.number, request.size
        if not self._supply.draw(number * size, self._clock()):
            ready = self._supply.available(self._clock()) // size
            raise ApiError(503, "not enough keys: the link has not made them yet", asked=number, ready=ready)
        keys = [DeliveredKey(str(uuid.uuid4()), Secret.random(os.urandom, size // 8)) for _ in range(number)]
        here = [slave for slave in slaves if self._home[slave] == "local"]
        there = [slave for slave in slaves if self._home[slave] == "partner"]
        try:
            if here:
                self._store.put(keys, master=master, slaves=here, now=self._clock())
            if there:
                await self._push(keys, master, there)
        except BaseException:
            self._store.discard([key.key_id for key in keys])
            self._supply.give_back(number * size)
            raise
        return keys

    async def _push(self, keys: Sequence[DeliveredKey], master: str, slaves: Sequence[str]) -> None:
        assert self._link is not None  # the configuration refuses partner SAEs without a partner
        try:
            await self._link.push(keys, master=master, slaves=slaves)
        except PartnerError as error:
            if self._partner_problem != str(error):
                log.warning("partner.down", partner=self._partner_id, reason=str(error))
            self._partner_problem = str(error)
            raise ApiError(503, f"partner KME {self._partner_id}: {error}") from None
        if self._partner_problem is not None:
            log.info("partner.up", partner=self._partner_id)
            self._partner_problem = None

    async def close(self) -> None:
        if self._link is not None:
            await self._link.close()
