"""A real Mosquitto on loopback, and what can come between it and a client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qtunnel.tls import TlsFiles
from tests.support.kme import files, free_ports

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None, reason="needs Mosquitto, a broker for MQTT (Debian: apt-get install mosquitto)"
)

PREFIX = "qkd/v1"
ACL = """
user {device}
topic read {prefix}/{device}/request/#
topic write {prefix}/{device}/response/#
topic write {prefix}/{device}/status
topic write {prefix}/{device}/link/#
pattern write {prefix}/{device}/request/%u
pattern read {prefix}/{device}/response/%u/#
pattern read {prefix}/{device}/status
pattern read {prefix}/{device}/link/+
"""


@dataclass
class Broker:
    """One Mosquitto. rules: who may do what; login: a file of passwords, not client certificates; tls: or without."""

    directory: Path
    pki: Path
    device: str
    port: int
    tls: bool = True
    login: Path | None = None
    rules: str = ACL
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"

    async def start(self, own: TlsFiles | None = None) -> None:
        """own: another certificate than that of the site's KME, which is for this host."""
        assert MOSQUITTO is not None
        own = own or files(self.pki, self.device)
        (self.directory / "acl").write_text(self.rules.format(prefix=PREFIX, device=self.device))
        lines = [
            "user root" if os.geteuid() == 0 else "",
            f"listener {self.port} {self.host}",
            f"acl_file {self.directory}/acl",
            "persistence false",
            "set_tcp_nodelay true",
            f"log_dest file {self.directory}/log",
        ]
        if self.tls:
            # Trusts the tests' CA also where its own certificate is another's.
            lines += [f"cafile {self.pki}/ca.pem", f"certfile {own.certificate}", f"keyfile {own.private_key}"]
        if self.login is not None:
            lines += [f"password_file {self.login}", "allow_anonymous false"]
        elif self.tls:
            lines += ["require_certificate true", "use_identity_as_username true", "allow_anonymous false"]
        else:
            lines = [line for line in lines if not line.startswith("acl_file")] + ["allow_anonymous true"]
        config = self.directory / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        for name in ("acl", "mosquitto.conf"):
            (self.directory / name).chmod(0o600)
        command = [MOSQUITTO, "-c", str(config)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: ASYNC220
        for _ in range(1000):
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
                return
            if self.process.poll() is not None:
                raise AssertionError(f"mosquitto: {self.process.communicate()[1].decode()} {config.read_text()}")
            await asyncio.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def stop(self) -> None:
        """At once and without a word to anybody."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def ports(count: int) -> Iterator[int]:
    with free_ports(count) as found:
        yield from found


class Proxy:
    """Between a client and a broker, byte by byte. pace: what it does to the broker's bytes from now on."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.pace: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]] | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        up, down = asyncio.create_task(self._pump(reader, back)), asyncio.create_task(self._slowly(there, writer))
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        for one in (up, down):
            one.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        for end in (writer, back):
            end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def _slowly(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.pace is not None:
                await self.pace(data, writer)
            else:
                writer.write(data)
            await writer.drain()

    async def cut(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """A pace: half of what comes next, and the end."""
        self.pace = None
        writer.write(data[: len(data) // 2])
        await writer.drain()
        raise ConnectionResetError

    async def drip(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """A pace: a byte now and then, for as long as it is set."""
        for number in range(len(data)):
            if self.pace is None:
                writer.write(data[number:])
                return
            writer.write(data[number : number + 1])
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def proxied(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
