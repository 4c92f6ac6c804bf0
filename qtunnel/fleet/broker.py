"""A connection to the users' own MQTT broker: made with TLS and credentials from files, its failures in words.

The library is aiomqtt, which drives paho-mqtt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, Self, TypeVar

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from yarl import URL

from qtunnel.errors import BrokerError, ConfigError, FilePermissionError
from qtunnel.mqtt_reasons import reason_of
from qtunnel.secret import Secret
from qtunnel.tls import CaFile, TlsFiles, client_context, explain, read_password

KEEPALIVE = 30
"""Seconds after which a silent connection is asked; half as many later, without a word, the broker tells the will."""
TIMEOUT = 10.0
"""Seconds for a connection, and for the broker to confirm a message."""
LEAVING = 2.0
"""Seconds for a polite end."""
LAST_WORD = 1.0
"""Seconds for the word that we leave; without it the broker says so itself, a little later."""
UNHEARD = 5.0
"""Seconds after which a cancellation was not heard: a last word and a polite end take three."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between attempts to connect, each twice the one before, half of it by chance: a fleet whose broker was gone
does not come back in one moment."""
MAX_PACKET = 256 * 1024
"""Bytes of what a broker may send: a hundred times a report, and what was subscribed to of a large fleet comes one by
one. The library would take a packet of 256 MB, into the memory of a gateway's daemon."""

Item = TypeVar("Item")

_silent = logging.getLogger("qtunnel.fleet.library")
_silent.disabled = True  # what it has to say comes in our errors


@dataclass(frozen=True, slots=True)
class Broker:
    """Where it is and who we are there. ca: ``None`` for no TLS; certificate and key together, or a name and the file
    of its password, or both, or neither."""

    host: str
    port: int
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    username: str | None = None
    password_file: Path | None = None

    @classmethod
    def at(
        cls, url: str, ca: Path | None, certificate: Path | None, private_key: Path | None, username: str | None,
        password_file: Path | None,
    ) -> Broker:  # fmt: skip
        """url: ``mqtts://HOST:PORT`` or ``mqtt://ADDRESS:PORT``, as the configuration has checked it."""
        place = URL(url)
        assert place.host is not None
        assert place.port is not None
        return cls(place.host, place.port, ca, certificate, private_key, username, password_file)

    @property
    def name(self) -> str:
        return f"broker {self.host} port {self.port}"

    def context(self) -> ssl.SSLContext | None:
        """Raises ``ConfigError`` or ``FilePermissionError``."""
        if self.ca is None:
            return None
        files: TlsFiles | CaFile = CaFile(self.ca)
        if self.certificate is not None and self.private_key is not None:
            files = TlsFiles(self.ca, self.certificate, self.private_key)
        context = client_context(files)
        context.sslsocket_class = _BoundedSocket
        return context

    def password(self) -> Secret | None:
        """From its file, without the line break at its end; raises ``ConfigError`` or ``FilePermissionError``."""
        return None if self.password_file is None else read_password(self.password_file, text=True)


class _BoundedSocket(ssl.SSLSocket):
    """Ends the connection where the library asks for more than a packet may have, which it does for each at once."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        if buflen > MAX_PACKET:
            raise ConnectionAbortedError("a packet is too large")
        return super().recv(buflen, flags)


@contextlib.asynccontextmanager
async def connected(
    broker: Broker, client_id: str, will: aiomqtt.Will | None = None, *, waiting: int = 0
) -> AsyncIterator[aiomqtt.Client]:
    """A session of its own. Raises ``BrokerError`` for what goes wrong with the broker, inside the block as well.

    waiting: messages of the broker's that are kept until somebody takes them; more are thrown away. 0: nobody asks for
    any, and one that sends some all the same is left at once: to read them would take the time of handshakes.
    """
    password = broker.password()
    text = None
    if password is not None:
        with password:
            text = str(password.reveal(), "utf-8")
    properties = Properties(PacketTypes.CONNECT)
    properties.MaximumPacketSize = MAX_PACKET
    client = aiomqtt.Client(
        broker.host, broker.port, username=broker.username, password=text, identifier=client_id, logger=_silent,
        protocol=aiomqtt.ProtocolVersion.V5, timeout=TIMEOUT, keepalive=KEEPALIVE, clean_start=True, will=will,
        tls_context=broker.context(), max_queued_incoming_messages=max(1, waiting),
        properties=properties,
    )  # fmt: skip
    unasked = False

    def leave(*message: object) -> None:
        nonlocal unasked
        unasked = True
        found: Any = client._client.socket()
        if found is not None:
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)

    if not waiting:
        client._client.on_message = leave
    try:
        async with asyncio.timeout(TIMEOUT + LEAVING):
            await client.__aenter__()
        if client._client.socket() is None:  # lost in that moment, which the library forgets
            raise aiomqtt.MqttError("the connection was lost")
        yield client
    except (aiomqtt.MqttError, OSError, TimeoutError) as error:
        words = "it sends messages, and nobody has asked for any" if unasked else _words(error)
        raise BrokerError(f"{broker.name}: {words}") from None
    finally:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVING):
                await client.__aexit__(None, None, None)


@contextlib.asynccontextmanager
async def present(broker: Broker, client_id: str, topic: str, gone: bytes | str) -> AsyncIterator[aiomqtt.Client]:
    """``connected``, with ``gone`` kept at ``topic`` once we are not there any more, however that came about."""
    async with connected(broker, client_id, aiomqtt.Will(topic, gone, qos=1, retain=True)) as client:
        try:
            yield client
        finally:
            # Said here, as a polite end does not make the broker tell the will. A lost connection does.
            with contextlib.suppress(aiomqtt.MqttError, OSError, TimeoutError):
                async with asyncio.timeout(LAST_WORD):
                    await client.publish(topic, gone, qos=1, retain=True)


class News(Generic[Item]):
    """What comes next of an iterator, for as long as ``client`` is connected; a context, which ends the waiting."""

    def __init__(self, client: aiomqtt.Client, items: AsyncIterator[Item]) -> None:
        self._items = items
        self._lost: asyncio.Future[Any] = client._disconnected
        self._waiting: asyncio.Future[Item] | None = None

    async def next(self, until: float) -> Item | None:
        """``None`` where nothing has come before ``until``, in seconds of the monotonic clock. Raises
        ``aiomqtt.MqttError`` once the connection is lost, ``StopAsyncIteration`` where nothing comes any more."""
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(anext(self._items))
        left = max(0.0, until - time.monotonic())
        await asyncio.wait({self._waiting, self._lost}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if self._lost.done():
            raise aiomqtt.MqttError("the connection was lost")
        if not self._waiting.done():
            return None
        come, self._waiting = self._waiting, None
        return come.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting is not None:
            self._waiting.cancel()


async def kept(attend: Callable[[], Awaitable[None]], failed: Callable[[str], None]) -> NoReturn:
    """Do ``attend``, which is connected for as long as it can be, again and again, until cancelled. failed: is told in
    words why it ended."""
    pause = FIRST_PAUSE
    while True:
        began = time.monotonic()
        try:
            await _cancellable(attend)
        except (BrokerError, ConfigError, FilePermissionError) as error:
            failed(str(error))
        if time.monotonic() - began > LONGEST_PAUSE:
            pause = FIRST_PAUSE
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # for no secret
        pause = min(2 * pause, LONGEST_PAUSE)


async def _cancellable(attend: Callable[[], Awaitable[None]]) -> None:
    """Do it. Python 3.11's ``wait_for``, by which the library waits for the broker, loses a cancellation that comes in
    the same moment as the broker's word, so one that had no effect is repeated."""
    task = asyncio.ensure_future(attend())
    try:
        await asyncio.wait({task})
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=UNHEARD)
    await task


def _words(error: BaseException) -> str:
    for found in (error.__context__, error.__cause__, error):
        if found is None:
            continue
        said = explain(found)
        if said is not None:
            return said
        if isinstance(found, socket.gaierror):
            return "its host name is not found"
        if isinstance(found, TimeoutError):
            return "it does not answer in time"
        if isinstance(found, OSError) and found.strerror:
            return found.strerror.lower()
    if isinstance(error, aiomqtt.MqttCodeError):
        number = getattr(error.rc, "value", error.rc)
        if isinstance(number, int) and number > 0x80:
            return f"it refuses us: {reason_of(number)}"
    return "it does not answer in time" if "timed out" in str(error) else "the connection was lost"
