"""The mqtt driver against brokers that are none, refuse, or do not keep to MQTT 5."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers.mqtt_hub import Hub
from qtunnel.drivers.mqtt_options import Options, PeerOptions
from qtunnel.drivers.mqtt_socket import Watch, watched
from qtunnel.errors import (
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnreachableError,
)
from qtunnel.kme.pki import Authority
from qtunnel.tls import TlsFiles
from tests.drivers.test_mqtt import delivers
from tests.support.kme import files, run, until, write_pair
from tests.support.mosquitto import needs_mosquitto
from tests.support.mqtt_device import Reply, one_site

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

CONNACK = bytes([0x20, 3, 0, 0, 0])


def refusing(code: int) -> bytes:
    return bytes([0x20, 3, 0, code, 0])


def options(pki: Path, url: str, **other: Any) -> Options:
    mine = files(pki, "sae-alice")
    given = {"ca": mine.ca, "certificate": mine.certificate, "private_key": mine.private_key, "timeout": "20s"}
    return Options.model_validate({"url": url, "device": "kme-a", "client_id": "sae-alice"} | given | other)


async def failing(made: Options) -> KeySourceError:
    hub = Hub("metro", made)
    try:
        with pytest.raises(KeySourceError) as caught:
            await hub.for_peer(PeerOptions(peer="sae-bob")).get_key(32)
    finally:
        await hub.close()
    assert caught.value.lost == 0
    assert str(caught.value).startswith(f"metro ({made.url}, kme-a): key: ")
    return caught.value


def server_side(pki: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "kme-a.pem", pki / "kme-a.key")
    return context


@contextlib.asynccontextmanager
async def server(serve: Serve, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.transport.abort()

    listening = await asyncio.start_server(guarded, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


def saying(*answers: bytes, then: str = "listen") -> Serve:
    """Answers each thing that comes with the next of these; then listens, or closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.read(65536)
            writer.write(answer)
            await writer.drain()
        while then == "listen" and await reader.read(65536):
            pass
        if then == "close":  # right behind the last answer
            writer.close()
            await writer.wait_closed()

    return serve


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x03\x10\x00")  # of a handshake record of 4,096 bytes
    while True:
        writer.write(b"\x02")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "serve,kind,words",
    [
        (saying(then="close"), KeySourceUnreachableError, "closed the connection"),
        (saying(refusing(0x86)), KeySourceUnauthorizedError, "bad user name or password"),
        (saying(refusing(0x86), then="close"), KeySourceUnauthorizedError, "bad user name or password"),
        (saying(refusing(0x87)), KeySourceUnauthorizedError, "not authorized"),
        (saying(refusing(0x84)), KeySourceProtocolError, "does not speak MQTT 5"),
        (saying(refusing(0x88)), KeySourceUnreachableError, "not available"),
        (saying(CONNACK, bytes([0x90, 6, 0, 1, 0, 0x87, 0x87, 0x87])), KeySourceUnauthorizedError, "let us read"),
        (saying(CONNACK, bytes([0xE0, 2, 0x8E, 0])), KeySourceUnreachableError, "another client has come"),
        (saying(CONNACK, b"\x30\xff\xff\xff\x7f"), KeySourceProtocolError, "a packet of more than 65536 bytes"),
        (saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), KeySourceError, ""),
        (saying(b"\xff" * 4096), KeySourceError, ""),
        (saying(CONNACK, b"\x32\x08\x00\x50abcdef"), KeySourceError, ""),
        (saying(CONNACK, b"\x30\x09\x00\x01a\xff\xff\xff\xff\x7fa"), KeySourceError, ""),
    ],
)
def test_brokers_that_do_not_keep_to_it(pki: Path, serve: Serve, kind: type[KeySourceError], words: str) -> None:
    async def test() -> None:
        async with server(serve, server_side(pki)) as port:
            limit = "20s" if words else "2s"
            error = await failing(options(pki, f"mqtts://127.0.0.1:{port}", timeout=limit))
            assert isinstance(error, kind)
            assert words in error.detail

    run(test)


def test_what_speaks_no_tls(pki: Path) -> None:
    async def test() -> None:
        async with server(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), None) as port:
            error = await failing(options(pki, f"mqtts://127.0.0.1:{port}"))
            assert isinstance(error, KeySourceCertificateError)
            assert "does not speak TLS" in error.detail

    run(test)


def test_a_handshake_that_never_ends_holds_nobody(pki: Path) -> None:
    async def test() -> None:
        async with server(dripping, None) as port:
            hub = Hub("metro", options(pki, f"mqtts://127.0.0.1:{port}", timeout="1s"))

            async def given_up() -> bool:
                with pytest.raises(KeySourceTimeoutError) as caught:
                    await hub.for_peer(PeerOptions(peer="sae-bob")).get_key(32)
                return "does not end its TLS handshake" in caught.value.detail

            await until(given_up)
            await hub.close()

    run(test)  # its end waits for the library's thread


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["no TLS", "silence"])
def test_a_socket_whose_handshake_failed_is_closed_at_once(answer: bytes) -> None:
    """And not some time later: a broker that is wrong is asked again and again."""

    async def test() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(answer)
            context = ssl.create_default_context()
            context.sslsocket_class = watched(Watch(asyncio.get_running_loop()), 0.05, 65536)
            wrapped = context.wrap_socket(ours, server_hostname="localhost", do_handshake_on_connect=False)
            with pytest.raises(OSError):
                wrapped.do_handshake()
            assert wrapped.fileno() == -1

    run(test)


def test_a_name_that_nobody_has(pki: Path) -> None:
    async def test() -> None:
        error = await failing(options(pki, "mqtts://broker.invalid"))
        assert isinstance(error, KeySourceUnreachableError)
        assert error.detail == "the broker's host name is not found"

    run(test)


@needs_mosquitto
def test_a_broker_that_refuses_our_certificate(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            write_pair(tmp_path, "sae-alice", Authority.create(datetime.now(UTC)))
            wrong = TlsFiles(pki / "ca.pem", tmp_path / "sae-alice.pem", tmp_path / "sae-alice.key")
            given = {"certificate": wrong.certificate, "private_key": wrong.private_key}
            error = await failing(options(pki, site.broker.url, **given))
            assert isinstance(error, KeySourceCertificateError)
            assert "it refused our certificate" in error.detail

    run(test)


@needs_mosquitto
def test_an_answer_too_large_for_the_broker_to_hand_over(pki: Path, tmp_path: Path) -> None:
    async def huge(reply: Reply) -> None:
        reply.payload = b"x" * 100_000

    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source(timeout="2s")
            await delivers(alice)
            site.device.fault = huge
            with pytest.raises(KeySourceTimeoutError) as caught:
                await alice.get_key(32)
            assert caught.value.lost == 1
            await delivers(alice)

    run(test)


@needs_mosquitto
def test_packets_that_come_in_one_record_of_tls_are_all_read(pki: Path, tmp_path: Path) -> None:
    """Mosquitto makes a record of each; other brokers do not. Here a relay puts together what comes in one moment."""

    async def test() -> None:
        async with one_site(pki, tmp_path, tls=False) as site:

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there, back = await asyncio.open_connection("127.0.0.1", site.broker.port)

                async def up() -> None:
                    while data := await reader.read(65536):
                        back.write(data)

                going = asyncio.create_task(up())
                while data := await there.read(65536):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            while more := await there.read(65536):
                                data += more
                    writer.write(data)
                going.cancel()
                back.close()

            async with server(relay, server_side(pki)) as port:
                hub = Hub("metro", options(pki, f"mqtts://127.0.0.1:{port}"))
                alice = hub.for_peer(PeerOptions(peer="sae-bob"))
                for _ in range(3):
                    await alice.get_key(32)
                await hub.close()

    run(test)
