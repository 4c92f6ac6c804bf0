"""The other end of a running network's socket: blocking, a connection for each request."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from qtunnel.control.socket_file import peer_credentials
from qtunnel.errors import NetworkError, NoNetworkError

TIMEOUT = 20.0
"""Seconds for an answer; a busy machine takes one."""

START_HINT = "start one with: qtunnel kme run TOPOLOGY"


def directory() -> Path:
    """Where the sockets of networks are: one that a user can make. In /tmp anybody can have made it before, so it is
    the directory itself whose owner is looked at, and not one inside of it."""
    if os.geteuid() == 0:
        return Path("/run/qtunnel-kme")
    own = os.environ.get("XDG_RUNTIME_DIR")
    return Path(own) / "qtunnel-kme" if own else Path(f"/tmp/qtunnel-kme-{os.geteuid()}")  # noqa: S108


def socket_of(network: str) -> Path:
    return directory() / f"{network}.sock"


def only_socket() -> Path:
    """That of the only network that runs here; raises ``NoNetworkError``."""
    found = sorted(directory().glob("*.sock"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise NoNetworkError(f"no network runs: no socket in {directory()}; {START_HINT}")
    listed = ", ".join(str(path) for path in found)
    raise NoNetworkError(f"several networks: choose one with --socket: {listed}")


def ask(path: Path, request: dict[str, Any]) -> Any:
    """The result of a request; raises ``NoNetworkError`` where nobody answers, ``NetworkError`` for a refusal."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(str(path))
            _, owner = peer_credentials(connection)
            if owner not in (0, os.geteuid()):
                raise NoNetworkError(f"what answers at {path} is user {owner}'s, and none of yours; {START_HINT}")
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline()
    except FileNotFoundError:
        raise NoNetworkError(f"no network: {path} does not exist; {START_HINT}") from None
    except ConnectionRefusedError:
        raise NoNetworkError(f"no network answers at {path}; {START_HINT}") from None
    except TimeoutError:
        raise NoNetworkError(f"the network at {path} did not answer within {TIMEOUT:g} s") from None
    except OSError as error:
        raise NoNetworkError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return answer["result"]
        raise NetworkError(str(answer["error"]))
    except (ValueError, KeyError, TypeError):
        raise NoNetworkError(f"what answers at {path} is no network, or it is stopping") from None
