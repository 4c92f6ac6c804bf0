"""Writes down all that a gateway tells others, as it comes over the network, until it is ended.

``python -m tests.support.listen http FILE URL``, ``... mqtt FILE PORT PKI NAME``. Who is not there is asked again.
"""

from __future__ import annotations

import contextlib
import ssl
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

AGAIN = 1.0
"""Seconds between two requests of the same page."""


def http(out: BinaryIO, url: str) -> None:
    """Headers and bodies, whole or as far as they came."""
    while True:
        with contextlib.suppress(OSError, HTTPException):
            request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text, */*"})
            with urllib.request.urlopen(request, timeout=20) as answer:
                out.write(f"{url} {answer.status}\n{answer.headers}".encode())
                while part := answer.read1():
                    out.write(part)
        time.sleep(AGAIN)


def mqtt(out: BinaryIO, port: int, pki: Path, name: str) -> None:
    """Topics, properties and payloads of everything, what is retained included."""

    def connected(client: paho.Client, *_: Any) -> None:
        client.subscribe("#", qos=1)

    def heard(client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        out.write(f"{message.topic} {message.properties}\n".encode() + message.payload + b"\n")

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.tls_set(str(pki / "ca.pem"), str(pki / f"{name}.pem"), str(pki / f"{name}.key"), cert_reqs=ssl.CERT_REQUIRED)
    client.on_connect, client.on_message = connected, heard
    client.reconnect_delay_set(1, 1)
    client.connect_async("127.0.0.1", port)
    client.loop_forever(retry_first_connection=True)


def main() -> None:
    kind, file, *rest = sys.argv[1:]
    with open(file, "wb", buffering=0) as out:
        if kind == "mqtt":
            mqtt(out, int(rest[0]), Path(rest[1]), rest[2])
        else:
            http(out, rest[0])


if __name__ == "__main__":
    main()
