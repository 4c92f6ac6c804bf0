"""Two simulated QKD devices, one per site, each behind a real Mosquitto on loopback with TLS from the tests' PKI.

The devices are as docs/sources/mqtt.md describes them. ``Device.fault`` has the next answer go wrong.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from qtunnel.drivers.mqtt_hub import Hub, Source
from qtunnel.drivers.mqtt_options import Options, PeerOptions
from qtunnel.tls import client_context
from tests.support.kme import SAES, files
from tests.support.mosquitto import PREFIX, Broker, ports

SITES = {"sae-alice": "kme-a", "sae-bob": "kme-b"}
"""Each gateway and its device. They have the names of the PKI's certificates, by which the broker knows them."""


@dataclass
class Keys:
    """What the two devices share: the quantum link, in one place. made: all keys, by key_ID."""

    made: dict[str, bytes] = field(default_factory=dict)
    waiting: dict[tuple[str, str], str] = field(default_factory=dict)
    """(who may fetch it, key_ID) and who it is shared with."""

    def fresh(self, owner: str, peer: str, size: int) -> str:
        key_id = str(uuid.uuid4())
        self.made[key_id] = os.urandom(size)
        self.waiting[peer, key_id] = owner
        return key_id

    def fetch(self, owner: str, peer: str, key_id: str) -> bytes | None:
        if self.waiting.get((owner, key_id)) != peer:
            return None
        del self.waiting[owner, key_id]
        return self.made[key_id]


@dataclass
class Reply:
    """An answer about to be sent; a fault changes it, or sends it by itself."""

    topic: str
    correlation: bytes
    fields: dict[str, Any]
    payload: bytes | None = None
    retain: bool = False
    times: int = 1


Fault = Callable[[Reply], Awaitable[None]]


class SilenceError(Exception):
    """Raised by a fault: there is no answer."""


@dataclass
class Device:
    """One site's device, at its broker until it is stopped; it comes back by itself as long as it is not.

    link: what it reports of every link; present: of itself. asked: every request that reached it, answered: those that
    it did not know yet. peers: gateways on links that it reports of.
    """

    name: str
    pki: Path
    broker: Broker
    keys: Keys
    link: dict[str, Any] = field(default_factory=lambda: {"v": 1, "link": "up", "stored_keys": 100})
    present: dict[str, Any] = field(default_factory=lambda: {"v": 1, "online": True})
    refusal: str | None = None
    fault: Fault | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    answered: dict[str, Reply] = field(default_factory=dict)
    expiry: int | None = None
    login: tuple[str, str] | None = None
    peers: tuple[str, ...] = tuple(SAES)
    _task: asyncio.Task[None] | None = None
    _client: aiomqtt.Client | None = None
    _there: asyncio.Event = field(default_factory=asyncio.Event)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """And wait until it has reported."""
        self._there.clear()
        self._task = asyncio.create_task(self._keep())
        await self._there.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def die(self) -> None:
        """Lose the connection without a goodbye, so that the broker speaks its last will, and not come back."""
        assert self._task is not None
        if self._client is not None and (found := socket_of(self._client)) is not None:
            found.shutdown(socket.SHUT_RDWR)
        self._task.cancel()

    def topic(self, *levels: str) -> str:
        return "/".join((PREFIX, self.name, *levels))

    async def report(self) -> None:
        """Publish what is in ``present`` and ``link``, as retained messages."""
        await self._publish(self.topic("status"), json.dumps(self.present).encode(), retain=True)
        for peer in self.peers:
            await self._publish(self.topic("link", peer), json.dumps(self.link).encode(), retain=True)

    async def send(self, reply: Reply) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = reply.correlation
        payload = json.dumps(reply.fields).encode() if reply.payload is None else reply.payload
        for _ in range(reply.times):
            await self._publish(reply.topic, payload, retain=reply.retain, properties=properties)

    async def _publish(self, topic: str, payload: bytes, *, retain: bool, properties: Properties | None = None) -> None:
        if self._client is None:
            raise aiomqtt.MqttError("not connected")
        if self.expiry is not None and retain:
            properties = Properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = self.expiry
        await self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError, OSError):
                await self._attend()
            self._client = None
            await asyncio.sleep(0.05)

    async def _attend(self) -> None:
        will = aiomqtt.Will(self.topic("status"), json.dumps({"v": 1, "online": False}), qos=1, retain=True)
        async with aiomqtt.Client(
            self.broker.host,
            self.broker.port,
            identifier=f"device-{self.name}",
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=client_context(files(self.pki, self.name)) if self.broker.tls else None,
            username=self.login[0] if self.login else None,
            password=self.login[1] if self.login else None,
            will=will,
            timeout=5,
            max_queued_outgoing_messages=0,
        ) as client:
            self._client = client
            client.pending_calls_threshold = 1000
            await client.subscribe(self.topic("request", "+"), qos=1)
            await self.report()
            self._there.set()
            async for message in client.messages:
                task = asyncio.create_task(self._serve(message))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)

    async def _serve(self, message: aiomqtt.Message) -> None:
        owner = message.topic.value.rsplit("/", 1)[1]
        topic = getattr(message.properties, "ResponseTopic", "")
        correlation = getattr(message.properties, "CorrelationData", b"")
        assert isinstance(message.payload, bytes)
        asked = json.loads(message.payload)
        self.asked.append(asked)
        # Only below the asker's own level, whatever the request says.
        if not topic.startswith(self.topic("response", owner) + "/") or correlation != asked["request_id"].encode():
            return
        request_id = asked["request_id"]
        reply = self.answered.get(request_id)
        if reply is None:
            reply = self.answered[request_id] = Reply(topic, correlation, self._answer(owner, asked))
            fault, self.fault = self.fault, None
            if fault is not None:
                try:
                    await fault(reply)
                except SilenceError:
                    return
        with contextlib.suppress(aiomqtt.MqttError):
            await self.send(reply)

    def _answer(self, owner: str, asked: dict[str, Any]) -> dict[str, Any]:
        said = {"v": 1, "request_id": asked["request_id"]}
        if self.refusal is not None:
            return said | {"error": {"code": self.refusal, "message": "as the test wants it"}}
        peer, size = asked["peer"], asked["size"] // 8
        key_id = asked["key_ID"] if asked["type"] == "key-by-id" else self.keys.fresh(owner, peer, size)
        key = self.keys.made[key_id] if asked["type"] == "key" else self.keys.fetch(owner, peer, key_id)
        if key is None:
            return said | {"error": {"code": "unknown-key", "message": "none of that key_ID waits here"}}
        return said | {"key_ID": key_id, "key": base64.b64encode(key).decode(), "size": size * 8}


def socket_of(client: aiomqtt.Client) -> Any:
    return client._client.socket()


@dataclass
class Site:
    """A gateway's broker and device."""

    owner: str
    peer: str
    pki: Path
    broker: Broker
    device: Device
    stack: contextlib.AsyncExitStack

    def options(self, **options: Any) -> Options:
        mine = files(self.pki, self.owner)
        given: dict[str, Any] = {"url": self.broker.url, "device": self.device.name, "client_id": self.owner}
        given["timeout"] = "20s"  # a busy machine takes seconds for a TLS handshake
        if self.broker.tls:
            given["ca"] = mine.ca
        if self.broker.tls and self.broker.login is None:
            given |= {"certificate": mine.certificate, "private_key": mine.private_key}
        return Options.model_validate(given | options)

    def hub(self, name: str = "metro", **options: Any) -> Hub:
        """Closed when the sites are."""
        hub = Hub(name, self.options(**options))
        self.stack.push_async_callback(hub.close)
        return hub

    def source(self, **options: Any) -> Source:
        return self.hub(**options).for_peer(PeerOptions(peer=self.peer))


@contextlib.asynccontextmanager
async def sites(pki: Path, directory: Path) -> AsyncIterator[tuple[Site, Site]]:
    """Both sites, with brokers and devices that run."""
    keys = Keys()
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for owner, peer, port in zip(SITES, reversed(SITES), ports(2), strict=True):
            made.append(await _site(stack, pki, directory, owner, peer, port, keys))
        yield made[0], made[1]


@contextlib.asynccontextmanager
async def one_site(
    pki: Path, directory: Path, *, tls: bool = True, login: tuple[Path, dict[str, str]] | None = None
) -> AsyncIterator[Site]:
    """Alice's alone. login: Mosquitto's file of passwords, and the passwords by name."""
    async with contextlib.AsyncExitStack() as stack:
        yield await _site(stack, pki, directory, "sae-alice", "sae-bob", next(ports(1)), Keys(), tls, login)


async def _site(
    stack: contextlib.AsyncExitStack,
    pki: Path,
    directory: Path,
    owner: str,
    peer: str,
    port: int,
    keys: Keys,
    tls: bool = True,
    login: tuple[Path, dict[str, str]] | None = None,
) -> Site:
    name = SITES[owner]
    own = directory / name
    own.mkdir()
    broker = Broker(own, pki, name, port, tls, login[0] if login else None)
    stack.callback(broker.stop)
    await broker.start()
    device = Device(name, pki, broker, keys, login=(name, login[1][name]) if login else None)
    await device.start()
    stack.push_async_callback(device.stop)
    return Site(owner, peer, pki, broker, device, stack)
