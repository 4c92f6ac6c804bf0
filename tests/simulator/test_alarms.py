"""Who hears of an alarm: by MQTT through a real Mosquitto, and as server-sent events at the KMEs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import aiomqtt
import pytest

from qtunnel.drivers import mqtt_wire
from qtunnel.drivers.mqtt_hub import Hub
from qtunnel.drivers.mqtt_options import Options, PeerOptions
from qtunnel.errors import ConfigError
from qtunnel.fleet import broker as fleet_broker
from qtunnel.keys.health import Limits, alarm_of
from qtunnel.simulator import announce
from qtunnel.simulator.alarm_stream import PATH
from qtunnel.simulator.service import Service, running
from qtunnel.simulator.topology_file import load_topology
from qtunnel.tls import client_context
from tests.support.kme import files, free_ports, run, until
from tests.support.mosquitto import Broker, needs_mosquitto

RULES = """
user kme-bob
topic write qkd/v1/metro/#
user sae-alice
topic read qkd/v1/metro/#
"""
"""kme-bob is the network's name at the broker; sae-alice listens."""

TOLD = {"v", "link", "stored_keys", "max_keys", "key_size", "qber", "key_rate", "alarm"}


def reporting(metro: Path, pki: Path, port: int) -> Path:
    section = (
        f"mqtt:\n  broker: mqtts://127.0.0.1:{port}\n  ca: {pki}/ca.pem\n"
        f"  certificate: {pki}/kme-bob.pem\n  private_key: {pki}/kme-bob.key\n  interval: 1h\n"
    )
    metro.write_text(metro.read_text() + section)
    return metro


@contextlib.asynccontextmanager
async def console(pki: Path, port: int) -> AsyncIterator[tuple[dict[str, Any], list[Any]]]:
    """Somebody who listens: what is retained, by topic, and what happened."""
    retained: dict[str, Any] = {}
    events: list[Any] = []

    async def listen(client: aiomqtt.Client) -> None:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            topic = message.topic.value.removeprefix("qkd/v1/metro/")
            if topic == "event":
                assert not message.retain
                events.append(json.loads(message.payload))
            else:
                retained[topic] = json.loads(message.payload)

    async with aiomqtt.Client(
        "127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5, tls_context=client_context(files(pki, "sae-alice"))
    ) as client:
        await client.subscribe("qkd/v1/metro/#", qos=1)
        task = asyncio.create_task(listen(client))
        try:
            yield retained, events
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@needs_mosquitto
def test_a_broker_has_the_alarm_of_each_link_and_the_driver_reads_it(
    metro: Path, network_pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_broker, "FIRST_PAUSE", 0.05)
    clients: list[aiomqtt.Client] = []

    @contextlib.asynccontextmanager
    async def recorded(*arguments: Any) -> AsyncIterator[aiomqtt.Client]:
        async with fleet_broker.present(*arguments) as client:
            clients.append(client)
            yield client

    monkeypatch.setattr(announce, "present", recorded)
    with free_ports(1) as (port,):
        pass
    topology = load_topology(reporting(metro, network_pki, port))
    broker = Broker(tmp_path, network_pki, "kme-alice", port, rules=RULES)
    alice = files(network_pki, "sae-alice")
    given = {"ca": alice.ca, "certificate": alice.certificate, "private_key": alice.private_key, "timeout": "20s"}
    options = Options.model_validate({"url": broker.url, "device": "metro", "client_id": "sae-alice", **given})

    async def test() -> None:
        await broker.start()
        driver = Hub("metro", options)
        its = driver.for_peer(PeerOptions(peer="alice-hub"))

        async def warned() -> bool:
            return (await its.status()).alarm is not None

        try:
            async with console(network_pki, port) as (retained, events):
                async with running(topology) as service:
                    await until(holds(lambda: len(retained) == 5))
                    assert retained["status"] == {"v": 1, "online": True, "alarm": None}
                    for name in topology.links:
                        assert set(retained[f"link/{name}"]) == TOLD
                        mqtt_wire.link_report(json.dumps(retained[f"link/{name}"]).encode())
                    found = await its.status()
                    assert (found.healthy, found.alarm, found.key_size) == (True, None, 32)
                    assert found.stored_keys

                    service.command("alice-hub", "eavesdrop", "intercept-resend")
                    await until(warned)
                    found = await its.status()
                    assert found.alarm == "eavesdropping: QBER above the threshold of 11.0%"
                    assert alarm_of(found, Limits()) is not None  # what the daemon's quarantine goes by
                    await until(holds(lambda: [one["what"] for one in events] == ["link.eavesdropped", "link.alarm"]))
                    service.command("hub-bob", "eavesdrop", "blind")
                    await until(holds(lambda: retained["link/hub-bob"]["alarm"] is not None))
                    assert retained["link/hub-bob"]["alarm"]["code"] == "blinding"
                    async with console(network_pki, port) as (later, _):  # who comes after it hears it as well
                        await until(holds(lambda: len(later) == 5))
                        assert later["link/alice-hub"]["alarm"]["code"] == "eavesdropping"
                        assert later["link/alice-hub"]["link"] == "down"
                        assert later["link/alice-spare"]["alarm"] is None

                    # a connection that breaks: the last will, and then everything again
                    dead = clients[-1]._client.socket()
                    assert isinstance(dead, socket.socket)
                    retained.clear()
                    dead.shutdown(socket.SHUT_RDWR)
                    await until(holds(lambda: len(retained) == 5))
                    assert len(clients) == 2
                    for link in ("alice-hub", "hub-bob"):
                        service.command(link, "restore")
                    await until(holds(lambda: not any(one["alarm"] for one in retained.values())))
                    assert retained["link/alice-hub"]["link"] == "up"
                await until(holds(lambda: retained["status"] == {"v": 1, "online": False, "alarm": None}))
        finally:
            await driver.close()
            broker.stop()

    run(test)


def holds(condition: Any) -> Any:
    async def asked() -> bool:
        return bool(condition())

    return asked


def test_a_broker_elsewhere_needs_tls(metro: Path) -> None:
    metro.write_text(metro.read_text() + "mqtt: {broker: 'mqtt://192.0.2.1:1883'}\n")
    with pytest.raises(ConfigError, match=r"mqtt\.broker: is without TLS, and not an address of this machine"):
        load_topology(metro)


class Reader:
    """A stream of server-sent events that is read."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._lines = answer.content

    async def next(self) -> tuple[str, Any]:
        """The next event with its data, or what a comment says; ("", None) at the end."""
        name = ""
        while line := (await self._lines.readline()).decode().rstrip("\n"):
            kind, _, text = line.partition(": ")
            if kind == "event":
                name = text
            elif kind == "data":
                await self._lines.readline()
                return name, json.loads(text)
            else:
                await self._lines.readline()
                return kind, text
        return "", None


@contextlib.asynccontextmanager
async def reading(service: Service, pki: Path, sae: str, node: str) -> AsyncIterator[aiohttp.ClientResponse]:
    url = f"https://{service.topology.nodes[node].listen}{PATH}"
    connector = aiohttp.TCPConnector(ssl=client_context(files(pki, sae)))
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        yield answer


def test_an_sae_hears_of_alarms_at_its_kme(metro: Path, network_pki: Path) -> None:
    topology = load_topology(metro)

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            network = await stack.enter_async_context(contextlib.AsyncExitStack())
            service = await network.enter_async_context(running(topology))

            async def reader(sae: str, node: str) -> Reader:
                answer = await stack.enter_async_context(reading(service, network_pki, sae, node))
                assert (answer.status, answer.content_type) == (200, "text/event-stream")
                return Reader(answer)

            early = await reader("sae-alice", "alice")
            assert await early.next() == ("", "no alarm")
            service.command("hub-bob", "eavesdrop", "intercept-resend")
            name, told = await early.next()
            assert (name, told["what"], told["place"]) == ("happening", "link.eavesdropped", "hub-bob")
            name, told = await early.next()
            assert (name, told["name"], told["between"]) == ("alarm", "hub-bob", ["hub", "bob"])
            assert told["alarm"] == {"code": "eavesdropping", "message": "QBER above the threshold of 11.0%"}
            assert told["qber"] > 0.11
            assert told["happening"]["detail"].startswith("QBER above the threshold of 11.0%; ")
            late = await reader("sae-bob", "bob")  # hears what goes on already
            name, told = await late.next()
            assert (name, told["name"], told["alarm"]["code"]) == ("alarm", "hub-bob", "eavesdropping")
            service.command("hub-bob", "restore")
            for one in (early, late):
                assert (await one.next())[1]["what"] == "link.restored"
                name, told = await one.next()
                assert (name, told["name"], told["alarm"]) == ("cleared", "hub-bob", None)

            async with reading(service, network_pki, "sae-bob", "alice") as answer:
                assert answer.status == 401
                assert await answer.json() == {"message": "sae-bob is no SAE of kme-alice"}
            service.command("alice", "cut")
            assert (await early.next())[1]["what"] == "node.lost"
            assert await early.next() == ("", None)
            async with reading(service, network_pki, "sae-alice", "alice") as answer:
                assert answer.status == 503
            assert (await late.next())[1]["what"] == "node.lost"
            await network.aclose()
            assert await late.next() == ("", None)

    run(test)
