"""Tells an MQTT broker of the links of a network that runs: a retained report of each, and what happens.

The network is the device of the driver ``mqtt``'s topics, its links are the peers; it gives no keys there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import aiomqtt

from qtunnel.events import Subscription
from qtunnel.fleet.broker import Broker, News, kept, present
from qtunnel.simulator.alarms import LASTING, Json, happening, payload, presence, report
from qtunnel.simulator.model import AlarmsSection
from qtunnel.telemetry.log import get as get_log

if TYPE_CHECKING:
    from qtunnel.simulator.service import Service

log = get_log("network")


class Announcer:
    """Reports of one network. Raises ``ConfigError`` or ``FilePermissionError`` for files that are not fit."""

    def __init__(self, service: Service, section: AlarmsSection) -> None:
        self._service, self._interval = service, section.interval
        self._base = f"{section.prefix}/{service.topology.network}"
        self._broker = Broker.at(
            section.broker, section.ca, section.certificate, section.private_key, section.username,
            section.password_file,
        )  # fmt: skip
        self._broker.context()  # so that a start says what is wrong with these files
        self._sent: dict[str, Json] = {}
        self._up: bool | None = None

    async def follow(self) -> None:
        """Until cancelled, which says that the network is not there any more."""
        await kept(self._attend, self._failed)

    def _failed(self, why: str) -> None:
        if self._up is not False:
            self._up = False
            log.warning("mqtt.down", reason=why)

    async def _attend(self) -> None:
        status, gone = f"{self._base}/status", payload(presence(online=False))
        with self._service.news.subscribe() as news:
            client_id = f"qtunnel-network-{self._service.topology.network}"
            async with present(self._broker, client_id, status, gone) as client:
                self._sent.clear()
                await self._report(client, news)

    async def _report(self, client: aiomqtt.Client, news: Subscription) -> None:
        due = 0.0
        with contextlib.suppress(StopAsyncIteration), News(client, news) as coming:
            while True:
                now = time.monotonic()
                await self._send(client, everything=now >= due)
                if now >= due:
                    due = now + self._interval
                if not self._up:
                    self._up = True
                    log.info("mqtt.up", broker=self._broker.name, topics=f"{self._base}/#")
                event = await coming.next(due)
                if event is not None:
                    await client.publish(f"{self._base}/event", payload(happening(event)), qos=1)

    async def _send(self, client: aiomqtt.Client, *, everything: bool) -> None:
        """Reports, those that changed or all; the network's own word last, when all of them are there."""
        self._service.advance()
        links = self._service.core.links
        size = self._service.topology.key.size
        told = {f"{self._base}/link/{name}": report(link, size) for name, link in links.items()}
        told[f"{self._base}/status"] = presence(online=True)
        for topic, one in told.items():
            lasting = {name: one[name] for name in (*LASTING, "online") if name in one}
            if everything or self._sent.get(topic) != lasting:
                await client.publish(topic, payload(one), qos=1, retain=True)
                self._sent[topic] = lasting


@contextlib.asynccontextmanager
async def announced(service: Service, section: AlarmsSection) -> AsyncIterator[None]:
    """The broker is told within the context; raises ``ConfigError`` or ``FilePermissionError``."""
    task = asyncio.create_task(Announcer(service, section).follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
