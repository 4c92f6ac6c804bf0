"""Requests to one device through its broker, and their answers (docs/sources/mqtt.md).

A request is sent once, under an id of its own: a message that the broker delivers twice is still one request to the
device. An answer that comes too late, or to nobody, is wiped and counts as a lost key.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from qtunnel.drivers import mqtt_wire as wire
from qtunnel.drivers.mqtt_connection import Arrived, Broker, Connection, Failure, Session
from qtunnel.drivers.mqtt_options import Options, PeerOptions
from qtunnel.drivers.mqtt_reports import Reports
from qtunnel.errors import (
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
)
from qtunnel.keys.source import KeyRef, SourceStatus
from qtunnel.secret import Secret

CALLS_AT_ONCE = 32
"""Requests under way at a time. A device answers in milliseconds, and a hub of 1,000 peers that all start at once
must not fill the broker's queue for us."""

TURN_LIMIT = 15.0
"""Seconds that a call waits for its turn; with ``timeout`` that is within the 25 s that the daemon gives a source."""

REMEMBERED = 4096
"""Requests that are over whose late or repeated answers are known as such: an hour of a busy hub."""

Outcome = wire.Answer | wire.Refusal | Failure


@dataclass(slots=True)
class Asked:
    """A request under way, for a key of ``size`` bytes."""

    size: int
    outcome: asyncio.Future[Outcome]


class Hub:
    """One device behind one broker, with one connection for all peers."""

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.options = options
        self.place = f"{name} ({options.url}, {options.device})"
        self.topics = wire.Topics(options.prefix, options.device, options.client_id, uuid.uuid4().hex)
        self.reports = Reports(self.place, self.topics)
        host, port = options.address()
        broker = Broker(
            host, port, options.client_id, options.context(), options.username, options.password(), options.timeout
        )
        # Retained reports are wanted; an answer must not be one, so none is asked for, and one that comes is refused.
        subscriptions = {self.topics.response: 2, self.topics.status: 0, self.topics.link("+"): 0}
        self._connection = Connection(broker, subscriptions, self._take, self._lost)
        self._asked: dict[str, Asked] = {}
        self._over: OrderedDict[str, None] = OrderedDict()
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        self._strays = 0

    def for_peer(self, options: PeerOptions) -> Source:
        self.reports.heed(options.peer)
        return Source(self, options.peer)

    async def close(self) -> None:
        await self._connection.close()

    async def status(self, peer: str) -> SourceStatus:
        """What the device reports; raises for keys that came to nobody, once, so that they are booked."""
        call = "status"
        if self._strays:
            lost, self._strays = self._strays, 0
            raise KeySourceProtocolError(
                self.place, call, f"{lost} answers came that nobody had asked for, and were thrown away", lost=lost
            )
        deadline = self._deadline()
        try:
            present, link = await self.reports.current(call, peer, await self._session(call, deadline), deadline)
        except KeySourceError as error:
            warned = self.reports.warned(peer)
            if warned is None:
                raise
            said, whole = warned
            return SourceStatus(False, f"ALARM {said}; then {error.detail}", alarm=str(said), for_all=whole)
        warned = self.reports.warned(peer)
        alarm, whole = present.alarm or link.alarm, present.alarm is not None
        if warned is not None:
            alarm, whole = alarm or warned[0], whole or warned[1]
        told = [f"{self.options.device} to {peer}, link {'up' if link.up else 'down'}"]
        if link.stored_keys is not None:
            told.append(f"{link.stored_keys} keys stored")
        if alarm is not None:
            told.append(f"ALARM {alarm}")
        return SourceStatus(
            healthy=alarm is None and (link.up if link.stored_keys is None else link.stored_keys > 0),
            detail=", ".join(told),
            stored_keys=link.stored_keys,
            max_keys=link.max_keys,
            key_size=link.key_size,
            qber=link.qber,
            key_rate=link.key_rate,
            alarm=None if alarm is None else str(alarm),
            for_all=whole,
        )

    async def ask(self, call: str, peer: str, size: int, key_id: str | None = None) -> wire.Answer:
        """The key that one request brings: a fresh one, or that of ``key_id``."""
        if not 0 < size <= wire.MAX_KEY:
            raise KeyRequestRejectedError(self.place, call, f"not asked: a key has 1 to {wire.MAX_KEY} bytes")
        try:
            async with asyncio.timeout(TURN_LIMIT):
                await self._turns.acquire()
        except TimeoutError:
            raise KeySourceTimeoutError(
                self.place, call, f"not asked: {CALLS_AT_ONCE} other calls of ours took longer than {TURN_LIMIT:g} s"
            ) from None
        try:
            deadline = self._deadline()
            session = await self._session(call, deadline)
            present, link = await self.reports.current(call, peer, session, deadline)
            alarm = present.alarm or link.alarm
            if alarm is not None:
                raise KeySourceUnavailableError(self.place, call, f"not asked: the device warns of {alarm}")
            outcome = await self._request(session, peer, size, key_id, deadline)
        finally:
            self._turns.release()
        if isinstance(outcome, Failure):
            raise outcome.error(self.place, call)
        if isinstance(outcome, wire.Refusal):
            raise outcome.kind(self.place, call, outcome.detail, lost=outcome.lost)
        return outcome

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.options.timeout

    async def _session(self, call: str, deadline: float) -> Session:
        try:
            async with asyncio.timeout_at(deadline):
                found = await self._connection.session()
        except TimeoutError:
            raise KeySourceTimeoutError(
                self.place, call, f"no connection to the broker within {self.options.timeout:g} s"
            ) from None
        if isinstance(found, Failure):
            raise found.error(self.place, call)
        return found

    async def _request(self, session: Session, peer: str, size: int, key_id: str | None, deadline: float) -> Outcome:
        request_id = str(uuid.uuid4())
        asked = self._asked[request_id] = Asked(size, asyncio.get_running_loop().create_future())
        sending = asyncio.create_task(
            session.request(
                self.topics.request,
                wire.request(request_id, peer, size, key_id),
                response_topic=self.topics.response,
                correlation=request_id.encode(),
                expiry=self.options.timeout,
            )
        )
        outcome: Outcome | None = None
        try:
            async with asyncio.timeout_at(deadline):
                # An answer may come before the broker's word that it has the request, and is worth more.
                first: set[asyncio.Future[Any]] = {sending, asked.outcome}
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                if not asked.outcome.done() and (unsent := sending.result()) is not None:
                    return unsent
                outcome = await asked.outcome
                return outcome
        except TimeoutError:
            if not sending.done():
                session.drop()  # a broker that does not confirm in time is gone
            return Failure(KeySourceTimeoutError, f"no answer within {self.options.timeout:g} s", lost=1)
        finally:
            sending.cancel()
            self._close_request(request_id)
            if outcome is None and asked.outcome.done() and not asked.outcome.cancelled():
                _wipe(asked.outcome.result())

    def _close_request(self, request_id: str) -> None:
        del self._asked[request_id]
        self._over[request_id] = None
        while len(self._over) > REMEMBERED:
            self._over.popitem(last=False)

    def _lost(self, failure: Failure) -> None:
        """The connection is gone, and with it the answers to everything that was asked."""
        self.reports.forget()
        for asked in self._asked.values():
            if not asked.outcome.done():
                asked.outcome.set_result(
                    Failure(failure.kind, f"the connection was lost before the answer came: {failure.detail}", lost=1)
                )

    def _take(self, arrived: Arrived) -> None:
        if arrived.topic != self.topics.response:
            return self.reports.take(arrived)
        asked = self._asked.get(arrived.correlation.decode("ascii", "replace"))
        if asked is None or asked.outcome.done():
            # Over: late, and booked when its time was up, or delivered twice. Else nobody knows of it.
            if asked is None and arrived.correlation.decode("ascii", "replace") not in self._over:
                self._strays += 1
            return None
        asked.outcome.set_result(_outcome(arrived, asked.size))
        return None


def _outcome(arrived: Arrived, size: int) -> Outcome:
    """What a message on the topic of answers is, to a request for ``size`` bytes."""
    if arrived.retained:
        return Failure(
            KeySourceProtocolError,
            "the answer was published as retained, so that the broker keeps the key for everybody; it was refused. "
            "Set the device right and remove the message from the broker",
            lost=1,
        )
    try:
        return wire.response(arrived.payload, arrived.correlation, size)
    except wire.WireError as error:
        detail = str(error)
    return Failure(KeySourceProtocolError, f"the answer is not of the protocol: {detail}", lost=1)


def _wipe(outcome: Outcome) -> None:
    if isinstance(outcome, wire.Answer):
        outcome.key.wipe()


class Source:
    """The keys that one device shares with one peer's. A ``qtunnel.keys.source.KeySource``."""

    def __init__(self, hub: Hub, peer: str) -> None:
        self._hub, self._peer = hub, peer

    @property
    def name(self) -> str:
        return self._hub.name

    @property
    def description(self) -> str:
        return f"mqtt:{self._hub.name}"

    async def status(self) -> SourceStatus:
        """What the device last reported of itself and of this link; asks it nothing."""
        return await self._hub.status(self._peer)

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        """Request ``key`` for a fresh key of ``size`` bytes."""
        answer = await self._hub.ask("key", self._peer, size)
        return KeyRef(self.name, answer.key_id, size), answer.key

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        """Request ``key-by-id``."""
        call, wanted = "key-by-id", ref.key_id.lower()
        if not wire.is_uuid(wanted):
            raise KeyRequestRejectedError(self._hub.place, call, "not asked: the peer's key_ID is not a UUID")
        answer = await self._hub.ask(call, self._peer, ref.size, wanted)
        if answer.key_id != wanted:
            answer.key.wipe()
            raise KeySourceProtocolError(
                self._hub.place, call, f"answered key_ID {answer.key_id} where {wanted} was asked", lost=1
            )
        return answer.key
