"""Tells a broker how a gateway is, for as long as that runs; comes back to a broker that was gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiomqtt

from qtunnel.control.messages import Status
from qtunnel.events import EventStream, Subscription
from qtunnel.fleet.broker import Broker, News, kept, present
from qtunnel.fleet.topics import (
    OFFLINE,
    ONLINE,
    discovery,
    event_message,
    lasting,
    payload,
    reports,
    state_topic,
)

GATHER = 0.5
"""Seconds after an event until the status is read: a rekey makes several, and the engine is looked at once a second."""
SHARE = 20
"""A look at the status is followed by none for so many times as long: that of a hub takes a part of a second, and
events come all the time."""
UNTOLD = ("mqtt.", "message.", "rekey.started")
"""Events that go to no broker: of the connection itself, and what anybody on the Internet can cause."""


class Publisher:
    """One gateway's reports. node: its name, in the topics and as the client ID ``qtunnel-NODE``. status: as the
    control socket has it. interval: seconds between reports that do not change. discover: send discovery messages too.
    """

    def __init__(
        self, broker: Broker, prefix: str, node: str, status: Callable[[], Awaitable[Status]], events: EventStream,
        *, interval: float, discover: bool,
    ) -> None:  # fmt: skip
        self._broker, self._prefix, self._node = broker, prefix, node
        self._status, self._events = status, events
        self._interval, self._discover = interval, discover
        self._sent: dict[str, Any] = {}
        self._up: bool | None = None

    async def follow(self) -> None:
        """Until cancelled, which says ``offline``."""
        await kept(self._attend, self._failed)

    def _failed(self, why: str) -> None:
        if self._up is not False:
            self._up = False
            self._events.publish("mqtt.down", None, detail=why)

    async def _attend(self) -> None:
        state = state_topic(self._prefix, self._node)
        with self._events.subscribe() as events:
            async with present(self._broker, f"qtunnel-{self._node}", state, OFFLINE) as client:
                self._sent.clear()
                await client.publish(state, ONLINE, qos=1, retain=True)
                self._up = True
                self._events.publish("mqtt.up", None, detail=f"{self._broker.name} gets reports")
                await self._report(client, events)

    async def _report(self, client: aiomqtt.Client, events: Subscription) -> None:
        due = look_at = earliest = 0.0
        with contextlib.suppress(StopAsyncIteration), News(client, events) as news:
            while True:
                now = time.monotonic()
                if now >= look_at:
                    await self._send(client, everything=now >= due)
                    if now >= due:
                        due = now + self._interval
                    done = time.monotonic()
                    look_at, earliest = due, done + max(GATHER, SHARE * (done - now))
                event = await news.next(look_at)
                if event is not None:
                    look_at = min(look_at, max(earliest, time.monotonic() + GATHER))
                    if not event.kind.startswith(UNTOLD):
                        await client.publish(*event_message(event, self._prefix, self._node), qos=0)

    async def _send(self, client: aiomqtt.Client, *, everything: bool) -> None:
        """What changed, or everything; nothing is left of what is not there any more."""
        status = await self._status()
        found: dict[str, Any] = dict(reports(status, self._prefix, time.time()))
        configs = discovery(status, self._prefix) if self._discover else {}
        for topic, report in found.items():
            if everything or self._sent.get(topic) != lasting(report):
                await client.publish(topic, payload(report), qos=1, retain=True)
                self._sent[topic] = lasting(report)
        for topic, report in configs.items():
            if self._sent.get(topic) != report:
                await client.publish(topic, payload(report), qos=1, retain=True)
                self._sent[topic] = report
        for topic in self._sent.keys() - found.keys() - configs.keys():
            await client.publish(topic, b"", qos=1, retain=True)
            del self._sent[topic]
