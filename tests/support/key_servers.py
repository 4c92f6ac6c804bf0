"""Key servers of both sites that hold the two ends' keys in one memory, as a process of their own.

``python -m tests.support.key_servers DIRECTORY ADDRESS SAE...`` serves at ADDRESS, over TLS with certificates of
DIRECTORY/pki, until its input ends or a SIGTERM comes; it says ``ready`` first. There are KMEs of ETSI GS QKD 004, SKIP
key providers, and QKD devices behind Mosquitto that have links to each SAE.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from tests.support import etsi004, skip
from tests.support.kme import files
from tests.support.mosquitto import Broker
from tests.support.mqtt_device import Device, Keys

ETSI004 = {"alice": 25575, "bob": 25576}
SKIP = {"alice": 9443, "bob": 9444}
MQTT = {"alice": 8883, "bob": 8884}
"""Each site's port."""
KMES = {"alice": "kme-a", "bob": "kme-b"}
"""Whose certificates a site's servers have, and its device's name."""
SYSTEM_IDS = {"alice": "Alice", "bob": "Bob"}


async def serve_etsi004(stack: contextlib.AsyncExitStack, pki: Path, address: str) -> None:
    link = etsi004.Link()
    for site, port in ETSI004.items():
        kme = etsi004.Kme(link, site[0], files(pki, KMES[site]), address, port)
        await kme.start()
        stack.push_async_callback(kme.stop)


async def serve_skip(stack: contextlib.AsyncExitStack, pki: Path, address: str) -> None:
    pair = skip.make_pair(pki)
    for provider, port in zip((pair.alice, pair.bob), SKIP.values(), strict=True):
        provider.host, provider.port = address, port
        await provider.start()
        stack.push_async_callback(provider.stop)


async def serve_mqtt(
    stack: contextlib.AsyncExitStack, pki: Path, address: str, directory: Path, peers: tuple[str, ...]
) -> None:
    keys = Keys()
    for site, port in MQTT.items():
        name = KMES[site]
        own = directory / f"broker-{name}"
        own.mkdir()
        broker = Broker(own, pki, name, port, host=address)
        stack.callback(broker.stop)
        await broker.start()
        device = Device(name, pki, broker, keys, peers=peers)
        await device.start()
        stack.push_async_callback(device.stop)


async def main() -> None:
    directory, address, peers = Path(sys.argv[1]), sys.argv[2], tuple(sys.argv[3:])
    pki = directory / "pki"
    loop, reader, end = asyncio.get_running_loop(), asyncio.StreamReader(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)  # brokers are processes, and would be left behind
    async with contextlib.AsyncExitStack() as stack:
        await serve_etsi004(stack, pki, address)
        await serve_skip(stack, pki, address)
        await serve_mqtt(stack, pki, address, directory, peers)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print("ready", flush=True)
        waits = [asyncio.create_task(reader.read()), asyncio.create_task(end.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


if __name__ == "__main__":
    asyncio.run(main())
