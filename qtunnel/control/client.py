"""The command line's end of the control socket: blocking, one connection per request."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from qtunnel.control.messages import (
    MAX_RESPONSE,
    REKEY_TIMEOUT,
    RELOAD_TIMEOUT,
    VERSION,
    Message,
    Pong,
    RekeyOutcome,
    ReloadOutcome,
    Request,
    RequestName,
    SourceCleared,
    Status,
)
from qtunnel.errors import (
    ConfigError,
    ControlError,
    NoDaemonError,
    UnknownPeerError,
    UnknownSourceError,
    printable,
)

TIMEOUT = 10.0
"""Seconds for an answer that needs no work; a gateway under full load answers within one."""

Answer = TypeVar("Answer", bound=Message)


class ControlClient:
    """Asks the daemon at ``path``. Raises ``NoDaemonError`` where none answers, ``UnknownPeerError`` for a peer that
    it has not, ``ControlError`` for what it refuses."""

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        self.path = path
        self._timeout = timeout

    def ping(self) -> Pong:
        return self._ask(Request(request="ping"), Pong, self._timeout)

    def status(self, peer: str | None = None) -> Status:
        return self._ask(self._request("status", peer), Status, self._timeout)

    def rekey(self, peer: str, timeout: float = REKEY_TIMEOUT) -> RekeyOutcome:
        """Rekey now and wait for the outcome, at most ``timeout`` seconds."""
        return self._ask(self._request("rekey", peer, timeout_s=timeout), RekeyOutcome, timeout + self._timeout)

    def reload(self, timeout: float = RELOAD_TIMEOUT) -> ReloadOutcome:
        """Have the daemon read its file again; raises ``ConfigError`` where it refuses that, and nothing changed."""
        return self._ask(Request(request="reload"), ReloadOutcome, timeout)

    def clear_source(self, name: str, peer: str | None = None) -> SourceCleared:
        """End a key source's quarantine, towards one peer or all; raises ``UnknownSourceError``, ``UnknownPeerError``,
        ``ControlError`` where it is in none."""
        return self._ask(self._request("clear-source", peer, source=name), SourceCleared, self._timeout)

    def events(self, peer: str | None = None, *, history: bool = False) -> Iterator[dict[str, Any]]:
        """Events as they happen, ``{"time", "kind", "peer", "fields"}`` each; ends when the daemon does."""
        request = self._request("events", peer, history=history)
        with self._connect(self._timeout) as connection:
            _send(connection, request)
            connection.settimeout(None)
            with connection.makefile("rb") as lines:
                while line := lines.readline(MAX_RESPONSE):
                    document = self._decode(line)
                    if "event" not in document:
                        return
                    yield document["event"]

    def past(self, peer: str | None = None) -> list[dict[str, Any]]:
        """The events that the daemon still remembers, oldest first."""
        with self._connect(self._timeout) as connection:
            _send(connection, self._request("events", peer, history=True))
            connection.shutdown(socket.SHUT_WR)  # which ends the stream after what has been
            with connection.makefile("rb") as lines:
                told = [self._decode(line) for line in iter(lambda: lines.readline(MAX_RESPONSE), b"")]
        return [document["event"] for document in told if "event" in document]

    def _request(self, name: RequestName, peer: str | None, **options: Any) -> Request:
        try:
            return Request(request=name, peer=peer, **options)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ControlError(f"{name}: {first['loc'][0]}: {first['msg'].lower()}") from None

    def _ask(self, request: Request, answer: type[Answer], timeout: float) -> Answer:
        with self._connect(timeout) as connection:
            _send(connection, request)
            with connection.makefile("rb") as lines:
                line = lines.readline(MAX_RESPONSE + 1)
        if not line.endswith(b"\n"):
            raise NoDaemonError(f"the daemon at {self.path} hung up before it answered; it may be stopping")
        try:
            return answer.model_validate(self._decode(line)["result"])
        except (KeyError, ValidationError):
            raise self._foreign() from None

    def _decode(self, line: bytes) -> dict[str, Any]:
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            raise self._foreign() from None
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise self._foreign()
        error = document.get("error")
        if error is not None:
            if not isinstance(error, dict):
                raise self._foreign()
            message = printable(str(error.get("message")))
            match error.get("code"):
                case "unknown-peer":
                    raise UnknownPeerError(message)
                case "unknown-source":
                    raise UnknownSourceError(message)
                case "config":
                    raise ConfigError(message)
                case "stopping":
                    raise NoDaemonError(f"{self.path}: {message}")
            raise ControlError(message)
        return document

    def _foreign(self) -> ControlError:
        return ControlError(
            f"what answers at {self.path} does not speak control protocol {VERSION}; "
            "restart the daemon if qtunnel was upgraded"
        )

    @contextmanager
    def _connect(self, timeout: float) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(min(timeout, self._timeout))
            try:
                connection.connect(str(self.path))
            except FileNotFoundError:
                raise NoDaemonError(
                    f"no daemon: {self.path} does not exist; start one with: qtunnel run --config FILE"
                ) from None
            except ConnectionRefusedError:
                raise NoDaemonError(
                    f"no daemon answers at {self.path}, it ended without cleaning up; "
                    "start it again with: qtunnel run --config FILE"
                ) from None
            except PermissionError:
                raise NoDaemonError(f"no permission for {self.path}; run as root or as the daemon's user") from None
            except OSError as error:
                raise NoDaemonError(f"no daemon answers at {self.path}: {error.strerror or error}") from None
            connection.settimeout(timeout)
            try:
                yield connection
            except TimeoutError:
                raise ControlError(f"the daemon at {self.path} did not answer within {timeout:g} s") from None
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise NoDaemonError(f"the daemon at {self.path} is gone: {reason}") from None


def _send(connection: socket.socket, request: Request) -> None:
    with contextlib.suppress(BrokenPipeError):  # who refuses us may hang up first, and his reason waits to be read
        connection.sendall(request.model_dump_json().encode() + b"\n")
