"""WireGuard's userspace API from the client's side: one operation per connection, parsed strictly.

The cross-platform interface of https://www.wireguard.com/xplatform/: lines ``key=value``, an operation ends with an
empty line, an answer with ``errno=N`` and an empty line. Keys travel in hex; here they are only ever in bytearrays,
which are wiped as soon as they were sent or read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno as errno_names
import os
import re
import socket
import struct
from collections.abc import Callable, Iterable

from qtunnel.crypto import dh
from qtunnel.engines.base import KEY_SIZE, Endpoint
from qtunnel.engines.device import Device, DevicePeer, Line, mark_of_psk
from qtunnel.errors import EngineError, ShortageError
from qtunnel.secret import Secret

TIMEOUT = 5.0
"""Seconds for one operation. wireguard-go answers in under 1 ms; a busy engine on a loaded machine within a second."""

SHORTAGES = (errno_names.EMFILE, errno_names.ENFILE, errno_names.ENOBUFS, errno_names.ENOMEM)
"""What says nothing of the other end."""

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes. 130,560 allowed IPs make an answer of 3 MB; twenty times that is no answer but a fault."""

_HEX_KEY = 2 * KEY_SIZE
_READ_SIZE = 64 * 1024
_PRIVATE = b"private_key="
_CREDENTIALS = struct.Struct("iII")
_HEX = b"0123456789abcdef"
_NIBBLE = {digit: value for value, digit in enumerate(_HEX)}
_PSK = b"preshared_key="
_SECRET_KEYS = (b"private_key=", _PSK, b"previous_preshared_key=")
PSK_MARK = "psk_mark"
"""In place of a preshared key in what was read."""
_KEY = re.compile(rb"[a-z_]+")
_NUMBER = re.compile(r"[0-9]{1,20}")


def encode(lines: Iterable[Line]) -> bytearray:
    """A ``set`` operation; the caller wipes it after use."""
    operation = bytearray(b"set=1\n")
    for key, value in lines:
        operation += key.encode()
        operation += b"="
        if isinstance(value, Secret):
            for byte in value.reveal():  # never through bytes.hex(): an immutable copy could not be wiped
                operation.append(_HEX[byte >> 4])
                operation.append(_HEX[byte & 15])
        else:
            text = str(value)
            if "\n" in text:
                raise EngineError(f"a line break in the value of {key}")
            operation += text.encode()
        operation += b"\n"
    operation += b"\n"
    return operation


def wipe(buffer: bytearray) -> None:
    """Overwrite a buffer with zeros."""
    buffer[:] = bytes(len(buffer))


def describe_errno(number: int) -> str:
    """An errno of either sign in words, e.g. ``EADDRINUSE (address already in use)``."""
    number = abs(number)
    name = errno_names.errorcode.get(number)
    return f"{name} ({os.strerror(number).lower()})" if name else f"error {number}"


class UapiClient:
    """Talks to the engine that serves ``path``. Every failure is an ``EngineError`` that names the interface.

    brief: it is our own engine, which leaves keys and allowed IPs out of its answers when asked to. marks: of preshared
    keys are told; not of a brief one. server: the process that has to serve the path, ``None`` while there is none;
    before anything is sent each connection is looked at for it, since whoever may write to the directory can serve the
    path: another gateway, say, of the same interface name in another network namespace. Left out, anybody may.
    """

    def __init__(
        self, interface: str, path: str, timeout: float = TIMEOUT, *, brief: bool = False, marks: bool = False,
        server: Callable[[], int | None] | None = None,
    ) -> None:  # fmt: skip
        self.interface = interface
        self._server = server
        self.stranger: int | None = None
        """The process that was seen to serve the path in place of the one that has to."""
        self._unchanged = _Unchanged() if brief else None
        self._silent: int | None = None
        self._marks = marks
        self.path = path
        self.timeout = timeout

    async def answers(self) -> bool:
        """Whether somebody accepts a connection, as wg(8) probes it: connect and close."""
        try:
            async with asyncio.timeout(self.timeout):
                (await self._connect()).close()
        except (OSError, TimeoutError):
            return False
        return True

    async def set(self, lines: Iterable[Line], *, always: bool = False) -> None:
        """One ``set`` operation. Lines before a refused one may have been applied. After an operation without an answer
        it fails at once until a question has one: else what waits behind a hung engine took the limit once for each
        peer, and who asks whether it still answers would never have his turn. always: it is sent all the same."""
        operation = encode(lines)
        try:
            self._check_silence("set", always)
            answer = await self._exchange(operation, "set")
        finally:
            wipe(operation)
        try:
            values, number = _split(answer)
            if values:
                raise ValueError("lines besides errno")
        except ValueError as error:
            raise self._error("set", f"answered out of the grammar ({error})") from None
        if number:
            raise self._error("set", f"refused: {describe_errno(number)}")

    async def served_by(self) -> int | None:
        """The process that listens there, as the kernel tells it (SO_PEERCRED); ``None`` where nobody does."""
        try:
            async with asyncio.timeout(self.timeout):
                with contextlib.closing(await self._connect()) as connection:
                    return _server_of(connection)
        except (OSError, TimeoutError):
            return None

    async def public_key(self) -> bytes | None:
        """Of the private key that the device has, computed here; ``None`` where it has none."""
        answer = await self._exchange(bytearray(b"get=1\n\n"), "get")
        try:
            if not answer.startswith(_PRIVATE):  # it stands first, as wg(8) also expects
                return None
            digits = answer[len(_PRIVATE) : len(_PRIVATE) + 2 * KEY_SIZE]
            scalar = bytearray(_NIBBLE[digits[i]] << 4 | _NIBBLE[digits[i + 1]] for i in range(0, len(digits), 2))
            wipe(digits)
            with Secret(scalar) as private:
                wipe(scalar)
                return dh.public_key(private)
        except (KeyError, ValueError):
            raise self._error("get", "told a private key that is not hexadecimal") from None
        finally:
            wipe(answer)

    async def get(self, *, always: bool = True) -> Device:
        """The device and its peers, without secrets; of a ``brief`` one what happened alone. always: as in ``set``, and
        not where it is one step of a change."""
        self._check_silence("get", always)
        unchanged = self._unchanged
        answer = await self._exchange(bytearray(b"get=1\nbrief=true\n\n" if unchanged else b"get=1\n\n"), "get")
        try:
            values, number = _split(unchanged.shorten(answer) if unchanged else answer, marks=self._marks)
            device = _parse_device(values)
            if unchanged:
                unchanged.complete(device)
        except ValueError as error:
            raise self._error("get", f"answered out of the grammar ({error})") from None
        finally:
            wipe(answer)
        if number:
            raise self._error("get", f"refused: {describe_errno(number)}")
        return device

    def _error(self, operation: str, what: str) -> EngineError:
        return EngineError(f"engine of {self.interface}: UAPI {operation} at {self.path}: {what}")

    async def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _exchange(self, operation: bytearray, name: str) -> bytearray:
        try:
            async with asyncio.timeout(self.timeout):
                connection = await self._connect()
                with contextlib.closing(connection):
                    self._check(connection, name)
                    answer = await _converse(connection, operation)
            self._silent = None
            return answer
        except TimeoutError:
            self._silent = self._process()
            raise self._error(name, f"no answer in {self.timeout:g} s") from None
        except ValueError as error:
            raise self._error(name, str(error)) from None
        except OSError as error:
            failure = self._error(name, (error.strerror or str(error)).lower())
            if error.errno in SHORTAGES and name == "get" and self._unchanged is not None:
                failure = ShortageError(str(failure))
            raise failure from None

    def _check_silence(self, name: str, always: bool) -> None:
        if not always and self._silent is not None and self._silent == self._process():
            raise self._error(name, "nothing was sent: it did not answer what was sent before")

    def _process(self) -> int | None:
        """Which has to answer; 0 where it may be any."""
        return 0 if self._server is None else self._server()

    def _check(self, connection: socket.socket, name: str) -> None:
        """Refuses a connection to another process than the one that has to be there."""
        if self._server is None:
            return
        expected, found = self._server(), _server_of(connection)
        if expected is None:
            raise self._error(name, f"nothing was sent: process {found} serves it, and none of the engine's runs")
        if found != expected:
            self.stranger = found
            raise self._error(name, f"nothing was sent: {taken_by(found)}, and not the engine's process {expected}")


def taken_by(process: int) -> str:
    """Who serves a socket, and what to do about it. process: 0 where it is out of our sight (pid_namespaces(7))."""
    return (
        f"it is served by {f'process {process}' if process else 'a process of another container'}, perhaps another "
        "gateway's of the same interface name in another network namespace; choose another name under tunnel.interface"
    )


def _server_of(connection: socket.socket) -> int:
    """The process that listens at the other end (SO_PEERCRED, unix(7)): that of the call of listen(2)."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(told)[0]
    return pid


async def _converse(connection: socket.socket, operation: bytearray) -> bytearray:
    """Send the operation and read up to the empty line; raw sockets, as streams would keep copies of the keys."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, operation)
    answer = bytearray()
    chunk = bytearray(_READ_SIZE)
    try:
        while not answer.endswith(b"\n\n"):
            count = await loop.sock_recv_into(connection, chunk)
            if not count:
                raise ValueError("hung up in the middle of the answer" if answer else "hung up without an answer")
            answer += memoryview(chunk)[:count]
            if len(answer) > MAX_ANSWER:
                raise ValueError(f"the answer is longer than {MAX_ANSWER} bytes")
    except BaseException:
        wipe(answer)
        raise
    finally:
        wipe(chunk)
    return answer


def _split(answer: bytearray, *, marks: bool = False) -> tuple[list[tuple[str, str]], int]:
    """The lines of an answer, and its errno; secrets left out, or where asked for a mark in place of a preshared key:
    it takes 20 us a peer."""
    lines: list[tuple[str, str]] = []
    start = 0
    while True:
        end = answer.index(b"\n", start)
        if end == start:
            break
        equals = answer.find(b"=", start, end)
        if equals < 0 or not _KEY.fullmatch(answer, start, equals):
            raise ValueError("a line that is not key=value")
        if marks and answer.startswith(_PSK, start):
            lines.append((PSK_MARK, _mark(memoryview(answer)[start + len(_PSK) : end]).hex()))
        elif not answer.startswith(_SECRET_KEYS, start):
            lines.append((answer[start:equals].decode(), answer[equals + 1 : end].decode("ascii", "strict")))
        start = end + 1
    if start + 1 != len(answer):
        raise ValueError("something follows the empty line")
    if not lines or lines[-1][0] != "errno":
        raise ValueError("errno is missing")
    text = lines.pop()[1]
    return lines, -_number(text[1:]) if text.startswith("-") else _number(text)


def _mark(digits: memoryview) -> bytes:
    """The mark of a preshared key in hex, of which no copy is left."""
    if len(digits) != 2 * KEY_SIZE:
        raise ValueError("a preshared key that is not 64 hex digits")
    key = bytearray(KEY_SIZE)
    try:
        for i in range(KEY_SIZE):
            key[i] = _NIBBLE[digits[2 * i]] << 4 | _NIBBLE[digits[2 * i + 1]]
        return mark_of_psk(key)
    except KeyError:
        raise ValueError("a preshared key that is not 64 hex digits") from None
    finally:
        wipe(key)
        digits.release()


class _Unchanged:
    """Peers of which the last answer said the same, to the byte: they are not parsed again.

    That is most of a hub's peers most of the time, and parsing 1,000 takes 40 ms. Only for answers without secrets.
    """

    def __init__(self) -> None:
        self._told: dict[bytes, tuple[bytes, DevicePeer]] = {}
        self._blocks: list[bytes] = []

    def shorten(self, answer: bytearray) -> bytearray:
        """The answer without those peers."""
        peers, errno, end = bytes(answer).rpartition(b"\nerrno=")
        head, *self._blocks = peers.split(b"\npublic_key=")
        news = [block for block in self._blocks if self._told.get(block[:_HEX_KEY], (b"",))[0] != block]
        return bytearray(b"\npublic_key=".join([head, *news]) + errno + end)

    def complete(self, device: Device) -> None:
        """Put them back in, once the rest was found good; the same objects as before."""
        told, self._told = self._told, {}
        for block in self._blocks:
            key = block[:_HEX_KEY]
            before = told.get(key)
            if before is None or before[0] != block:
                before = block, device.peers[_public_key(key.decode())]
            else:
                device.peers[before[1].public_key] = before[1]
            self._told[key] = before


def _number(text: str, highest: int = 2**64 - 1) -> int:
    """A decimal number of the grammar: digits only."""
    if not _NUMBER.fullmatch(text) or int(text) > highest:
        raise ValueError(f"{text[:24]!r} is not a number up to {highest}")
    return int(text)


def _public_key(text: str) -> bytes:
    if len(text) != 2 * KEY_SIZE or any(ord(digit) not in _NIBBLE for digit in text):
        raise ValueError("a public key that is not 64 hex digits")
    return bytes.fromhex(text)


def parse_endpoint(text: str) -> Endpoint:
    """``a.b.c.d:port`` or ``[v6]:port``; a zone stays with the address."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host:
        raise ValueError(f"{text[:64]!r} is not an endpoint")
    return host, _number(port, 65535)


def _parse_device(lines: list[tuple[str, str]]) -> Device:
    device = Device()
    peer: DevicePeer | None = None
    seconds: dict[bytes, tuple[int, int]] = {}
    for key, value in lines:
        if key == "public_key":
            peer = DevicePeer(_public_key(value))
            device.peers[peer.public_key] = peer
        elif peer is None:
            if key == "listen_port":
                device.listen_port = _number(value, 65535)
            elif key == "fwmark":
                device.fwmark = _number(value, 2**32 - 1)
        else:
            _parse_peer_line(peer, seconds, key, value)
    for public_key, (whole, nanoseconds) in seconds.items():
        if whole or nanoseconds:
            device.peers[public_key].last_handshake = whole + nanoseconds / 1e9
    return device


def _parse_peer_line(peer: DevicePeer, seconds: dict[bytes, tuple[int, int]], key: str, value: str) -> None:
    whole, nanoseconds = seconds.get(peer.public_key, (0, 0))
    match key:
        case "endpoint":
            peer.endpoint = parse_endpoint(value)
        case "last_handshake_time_sec":
            seconds[peer.public_key] = _number(value), nanoseconds
        case "last_handshake_time_nsec":
            seconds[peer.public_key] = whole, _number(value, 10**9 - 1)
        case "rx_bytes":
            peer.rx_bytes = _number(value)
        case "tx_bytes":
            peer.tx_bytes = _number(value)
        case "packets":
            peer.packets = _number(value)
        case "persistent_keepalive_interval":
            peer.persistent_keepalive = _number(value, 65535)
        case "allowed_ip":
            peer.allowed_ips.append(value)
        case "psk_mark":
            peer.psk_mark = bytes.fromhex(value)
        case _:
            peer.values[key] = value
