"""The one connection of a source to its MQTT 5 broker: made, watched and made again by itself.

Each connection is a session of its own (clean start, no expiry): what the broker could not deliver to us, it forgets,
so no key waits there for us. The library is aiomqtt, which drives paho-mqtt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from qtunnel.drivers.mqtt_socket import TooLargeError, Watch, watched
from qtunnel.errors import (
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnreachableError,
)
from qtunnel.mqtt_reasons import reason_of
from qtunnel.secret import Secret
from qtunnel.tls import explain

KEEPALIVE = 15
"""Seconds after which a silent connection is asked, and given up when as many have passed again."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between attempts to connect; each pause is twice the one before, and a random half of it is left out, so that
the gateways of a site do not all come back to a broker in the same moment."""

STEADY = 10.0
"""Seconds that a connection has to last for the pauses to begin anew: two clients of one ID end each other's."""

MAX_PACKET = 64 * 1024
"""Bytes of an MQTT packet; the broker drops larger ones, as MQTT 5 has it (clause 3.1.2.11.4)."""

AT_ONCE = 256
"""Messages that the broker may send before we have confirmed the first."""

WAITING = 8192
"""Messages that may wait here to be looked at; more are thrown away. A connection begins with a report on every link of
the device, for a hub a thousand, and the library confirms them before they are looked at."""

LEAVING = 1.0
"""Seconds for a polite end; the broker learns of a rude one as well."""

_UNAUTHORIZED = {0x85, 0x86, 0x87, 0x8A, 0x8C}

_silent = logging.getLogger("qtunnel.drivers.mqtt.library")
_silent.disabled = True  # what it has to say comes in our errors


@dataclass(frozen=True, slots=True)
class Broker:
    """Where it is and who we are there. context: ``None`` without TLS; timeout: seconds for each step."""

    host: str
    port: int
    client_id: str
    context: ssl.SSLContext | None
    username: str | None
    password: Secret | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no connection, or no more. lost: keys that it may have cost."""

    kind: type[KeySourceError]
    detail: str
    lost: int = 0

    def error(self, place: str, call: str) -> KeySourceError:
        return self.kind(place, call, self.detail, lost=self.lost)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message. retained: kept by the broker for everybody; expiry: seconds until it is over, where it has such."""

    topic: str
    payload: bytes
    retained: bool
    correlation: bytes
    expiry: float | None


class Session:
    """A connection that is made. failure: why it ended."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self.failure: Failure | None = None

    async def request(
        self, topic: str, payload: bytes, *, response_topic: str, correlation: bytes, expiry: float
    ) -> Failure | None:
        """Send a request and wait until the broker confirms it (QoS 1); why it is not sent, if it is not.

        expiry: seconds after which the broker must not deliver it any more.
        """
        properties = Properties(PacketTypes.PUBLISH)
        properties.PayloadFormatIndicator = 1
        properties.ContentType = "application/json"
        properties.ResponseTopic = response_topic
        properties.CorrelationData = correlation
        properties.MessageExpiryInterval = max(1, math.floor(expiry))
        try:
            await self._client.publish(topic, payload, qos=1, retain=False, properties=properties, timeout=math.inf)
        except aiomqtt.MqttError:  # raised before anything is sent; a loss later comes by ``lost``
            return self.failure or Failure(KeySourceUnreachableError, "the connection to the broker was lost")
        except ValueError:  # of a topic or a size, which would be our defect; nothing was sent
            return Failure(KeySourceProtocolError, "the library refuses the request")
        return None

    def drop(self) -> None:
        """End it at once, for another one to be made."""
        _sever(self._client)


class Connection:
    """Keeps one session. subscriptions: topics, and how their retained messages are handled (MQTT 5 clause 3.8.3.1);
    take: gets every message; lost: hears that a session has ended."""

    def __init__(
        self,
        broker: Broker,
        subscriptions: Mapping[str, int],
        take: Callable[[Arrived], None],
        lost: Callable[[Failure], None],
    ) -> None:
        self._broker, self._subscriptions, self._take, self._lost = broker, subscriptions, take, lost
        self._task: asyncio.Task[None] | None = None
        self._now: Session | Failure | None = None
        self._known = asyncio.Event()
        self._closed = False

    async def session(self) -> Session | Failure:
        """The session, or at once why there is none. The first call makes the connection, and waits for it."""
        if self._closed:
            return Failure(KeySourceUnreachableError, "the source is closed")
        if self._task is None:
            self._task = asyncio.create_task(self._keep())
        await self._known.wait()
        assert self._now is not None
        return self._now

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._ended(Failure(KeySourceUnreachableError, "the source is closed"))

    def _ended(self, failure: Failure) -> None:
        if isinstance(self._now, Session):
            self._now.failure = failure
            self._lost(failure)
        self._now = failure
        self._known.set()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while True:
            began = loop.time()
            try:
                failure = await self._attend()
            except Exception as error:
                failure = Failure(KeySourceProtocolError, f"the MQTT library failed ({type(error).__name__})")
            self._ended(failure)
            if loop.time() - began > STEADY:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # for no secret
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _attend(self) -> Failure:
        """Connect and take messages for as long as it lasts; why it ended."""
        broker, watch = self._broker, Watch(asyncio.get_running_loop())
        client = self._client(watch)
        ended: Exception | None = None
        try:
            failure = await self._enter(client, watch) or await self._subscribe(client)
            if failure is not None:
                return failure
            self._now = Session(client)
            self._known.set()
            async for message in client.messages:
                self._take(_arrived(message))
        except Exception as error:  # the library raises of all kinds for what a broker may send
            ended = error
        finally:
            reason = await _leave(client)
        # The end of the messages does not say why there are no more; leaving does.
        return _explained(reason if isinstance(reason, Exception) else ended or ConnectionResetError(), watch, broker)

    def _client(self, watch: Watch) -> aiomqtt.Client:
        broker = self._broker
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0
        properties.ReceiveMaximum = AT_ONCE
        properties.MaximumPacketSize = MAX_PACKET
        if broker.context is not None:
            broker.context.sslsocket_class = watched(watch, broker.timeout, MAX_PACKET)
        client = aiomqtt.Client(
            broker.host,
            broker.port,
            username=broker.username,
            password=None if broker.password is None else str(broker.password.reveal(), "utf-8"),
            logger=_silent,
            identifier=broker.client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            timeout=broker.timeout,
            keepalive=KEEPALIVE,
            clean_start=True,
            max_queued_incoming_messages=WAITING,
            properties=properties,
            # Packets are small and wait for each other: nothing is won by holding them back for more (RFC 896).
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            tls_context=broker.context,
        )
        client.pending_calls_threshold = AT_ONCE
        client._client.connect_timeout = broker.timeout
        return client

    async def _enter(self, client: aiomqtt.Client, watch: Watch) -> Failure | None:
        """Connect; the library would wait for an answer also where the broker has closed the connection."""
        entering = asyncio.create_task(_entered(client))
        broken = asyncio.create_task(watch.broken.wait())
        try:
            await asyncio.wait(
                {entering, broken}, timeout=3 * self._broker.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not entering.done() and client._connected.done():
                await asyncio.wait({entering})  # the broker has answered, and closed behind its answer
            if not entering.done() and broken.done():
                entering.cancel()
                return _explained(ConnectionResetError(), watch, self._broker)
            if not entering.done():
                return Failure(KeySourceTimeoutError, "no connection to the broker in time")
            error = entering.result()
            return None if error is None else _explained(error, watch, self._broker)
        finally:
            broken.cancel()
            # A thread of the library's may be in the middle of connecting; what it brings is closed then.
            if not entering.done():
                entering.add_done_callback(lambda _: _sever(client))

    async def _subscribe(self, client: aiomqtt.Client) -> Failure | None:
        wanted = [
            (topic, SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=handling))
            for topic, handling in self._subscriptions.items()
        ]
        subscribing = asyncio.create_task(client.subscribe(wanted))
        ends: set[asyncio.Future[Any]] = {subscribing, client._disconnected}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not subscribing.done():  # the library would wait on
                raise ConnectionResetError
        finally:
            subscribing.cancel()
        codes: Iterable[Any] = subscribing.result()
        for (topic, _), code in zip(wanted, codes, strict=True):
            number = code if isinstance(code, int) else int(code.value)
            if number >= 0x80:
                return Failure(
                    KeySourceUnauthorizedError,
                    f"the broker does not let us read {topic} ({reason_of(number)})",
                )
        return None


async def _entered(client: aiomqtt.Client) -> Exception | None:
    """What went wrong with connecting. Returned, as nobody may be there any more to catch it."""
    try:
        await client.__aenter__()
    except Exception as error:
        return error
    return None


async def _leave(client: aiomqtt.Client) -> BaseException | None:
    """End the connection; why it had ended already, if it had."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(LEAVING):
            await client.__aexit__(None, None, None)
    _sever(client)
    ended = client._disconnected
    return ended.exception() if ended.done() and not ended.cancelled() else None


def _sever(client: aiomqtt.Client) -> None:
    """Close the socket, whatever state the library is in: it leaves that of a failed attempt open, and being read."""
    paho = client._client
    found: Any = paho.socket()
    if found is None:
        return
    number = found.fileno()
    with contextlib.suppress(Exception):
        found.shutdown(socket.SHUT_RDWR)
    # The library's own future of a connection that was given up is cancelled, and says so from within its callback.
    with contextlib.suppress(Exception, asyncio.CancelledError):
        paho.loop_read()  # sees the end, tells the library and closes
    if paho.socket() is not None:
        with contextlib.suppress(Exception):
            asyncio.get_running_loop().remove_reader(number)
            asyncio.get_running_loop().remove_writer(number)
            found.close()


def _arrived(message: aiomqtt.Message) -> Arrived:
    properties, payload = message.properties, message.payload
    return Arrived(
        topic=message.topic.value,
        payload=payload if isinstance(payload, bytes) else b"",
        retained=message.retain,
        correlation=getattr(properties, "CorrelationData", b""),
        expiry=getattr(properties, "MessageExpiryInterval", None),
    )


def _explained(error: Exception, watch: Watch, broker: Broker) -> Failure:
    """The failure that an error of the library means."""
    # The library wraps errors of connecting and keeps only their text; the error itself is the context of its own.
    for found in (watch.failure, error.__context__, error):
        if found is None or isinstance(found, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            continue
        said = explain(found)
        if said is not None:
            return Failure(KeySourceCertificateError, f"{said}{_remedy(said, broker)}")
        if isinstance(found, socket.gaierror):
            return Failure(KeySourceUnreachableError, "the broker's host name is not found")
        if isinstance(found, TimeoutError) and found is watch.failure:
            return Failure(KeySourceTimeoutError, f"the broker does not end its TLS handshake in {broker.timeout:g} s")
        if isinstance(found, TimeoutError):
            return Failure(KeySourceUnreachableError, f"no connection to the broker within {broker.timeout:g} s")
    if isinstance(watch.failure, TooLargeError):
        return Failure(KeySourceProtocolError, f"the broker sent a packet of more than {MAX_PACKET} bytes")
    if isinstance(error, aiomqtt.MqttCodeError):
        return _refused(error)
    if isinstance(error, aiomqtt.MqttError) and "timed out" in str(error):
        return Failure(KeySourceTimeoutError, f"the broker does not answer within {broker.timeout:g} s")
    for found in (error.__context__, error):
        if isinstance(found, OSError) and found.strerror:
            return Failure(KeySourceUnreachableError, f"no connection to the broker: {found.strerror.lower()}")
    if isinstance(error, aiomqtt.MqttError | OSError):
        return Failure(KeySourceUnreachableError, "the broker closed the connection")
    return Failure(KeySourceProtocolError, f"what the broker sends is not MQTT 5 ({type(error).__name__})")


def _refused(error: aiomqtt.MqttCodeError) -> Failure:
    number = getattr(error.rc, "value", error.rc)
    if not isinstance(number, int) or number <= 0x80:  # 0x80 is also how the library calls a lost connection
        return Failure(KeySourceUnreachableError, "the connection to the broker was lost")
    kind: type[KeySourceError] = KeySourceUnauthorizedError if number in _UNAUTHORIZED else KeySourceUnreachableError
    if number == 0x84:
        kind = KeySourceProtocolError
    return Failure(kind, f"the broker refuses us: {reason_of(number)}")


def _remedy(said: str, broker: Broker) -> str:
    return f" (wanted: {broker.host})" if "another host name" in said or "another IP address" in said else ""
