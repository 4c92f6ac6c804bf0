"""What a device has published of itself: its presence, and how its links are. Forgotten with the connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from qtunnel.drivers import mqtt_wire as wire
from qtunnel.drivers.mqtt_connection import Arrived, Session
from qtunnel.errors import (
    KeySourceError,
    KeySourceStatusError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)


@dataclass(frozen=True, slots=True)
class Heard:
    """The last report on one topic, or in words what is wrong with it. over: when it is, by the loop's clock."""

    report: wire.Presence | wire.LinkReport | str
    over: float | None


class Reports:
    """Of one device. place: the source, for errors."""

    def __init__(self, place: str, topics: wire.Topics) -> None:
        self._place, self._topics = place, topics
        self._peers: set[str] = set()
        self._heard: dict[str, Heard] = {}
        self._warned: dict[str, wire.Alarm] = {}
        self._news = asyncio.Event()

    def heed(self, peer: str) -> None:
        """Keep the reports on the link to this peer; those on others are not ours."""
        self._peers.add(peer)

    def forget(self) -> None:
        self._heard.clear()
        self._tell()

    def take(self, arrived: Arrived) -> None:
        """A message that is no answer."""
        topic = arrived.topic
        if topic != self._topics.status and self._topics.peer_of(topic) not in self._peers:
            return
        if not arrived.payload:  # how a retained message is removed
            self._heard.pop(topic, None)
            return
        report: wire.Presence | wire.LinkReport | str
        try:
            read = wire.presence if topic == self._topics.status else wire.link_report
            report = read(arrived.payload)
        except wire.WireError as error:
            report = str(error)
        if not isinstance(report, str) and report.alarm is not None:
            self._warned[topic] = report.alarm
        over = None if arrived.expiry is None else asyncio.get_running_loop().time() + arrived.expiry
        self._heard[topic] = Heard(report, over)
        self._tell()

    def warned(self, peer: str) -> tuple[wire.Alarm, bool] | None:
        """An alarm that came since this was asked last, of the device or of this link, and whether it is the device's.
        Also one that has ended, or was the device's last word: between two looks at the status nobody would hear of
        it."""
        device, link = (self._warned.pop(topic, None) for topic in (self._topics.status, self._topics.link(peer)))
        found = device or link
        return None if found is None else (found, device is not None)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def current(
        self, call: str, peer: str, session: Session, deadline: float
    ) -> tuple[wire.Presence, wire.LinkReport]:
        """The last reports, waited for until the deadline by the loop's clock where the connection is new."""
        while True:
            news, link = self._news, self._topics.link(peer)
            if session.failure is not None:
                raise session.failure.error(self._place, call)
            present, said = self._report(call, self._topics.status), self._report(call, link)
            if isinstance(present, wire.Presence) and not present.online:
                raise KeySourceUnreachableError(
                    self._place, call, "the device is not connected to the broker, as its status or its last will says"
                )
            if isinstance(present, wire.Presence) and isinstance(said, wire.LinkReport):
                return present, said
            try:
                async with asyncio.timeout_at(deadline):
                    await news.wait()
            except TimeoutError:
                raise self._silence(call, link if present is not None else self._topics.status) from None

    def _report(self, call: str, topic: str) -> wire.Presence | wire.LinkReport | None:
        heard = self._heard.get(topic)
        if heard is None:
            return None
        if isinstance(heard.report, str):
            raise KeySourceStatusError(self._place, call, f"the report at {topic} cannot be used: {heard.report}")
        if heard.over is not None and asyncio.get_running_loop().time() > heard.over:
            raise KeySourceUnavailableError(
                self._place, call, f"the last report at {topic} is over and no other came; does the device hang?"
            )
        return heard.report

    def _silence(self, call: str, topic: str) -> KeySourceError:
        if topic == self._topics.status:
            return KeySourceTimeoutError(
                self._place,
                call,
                f"no device has ever reported at {topic}; are prefix and device right, and may we read it?",
            )
        return KeySourceUnavailableError(
            self._place, call, f"the device has no report at {topic}; does it know this peer, and may we read it?"
        )
