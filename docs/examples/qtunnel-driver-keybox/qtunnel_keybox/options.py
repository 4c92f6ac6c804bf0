"""What stands in qtunnel's configuration for a Keybox."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from qtunnel.config.types import ConfigPath, Duration, Section, at_least

MAX_TIMEOUT = 20.0
"""Seconds. The daemon waits 25 s for a call and ends it then; an error of our own says more."""
MAX_SOCKET_PATH = 107
"""Bytes that Linux has for it (unix(7))."""


def _timeout(value: float) -> float:
    if value > MAX_TIMEOUT:
        raise ValueError(f"is longer than {MAX_TIMEOUT:.0f}s, and the daemon does not wait for it; the usual is 5s")
    return value


def _socket(value: Path) -> Path:
    if len(bytes(value)) > MAX_SOCKET_PATH:
        raise ValueError(
            f"is longer than the {MAX_SOCKET_PATH} bytes that Linux allows; give the socket a shorter path"
        )
    return value


def _peer(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,32}", value, re.ASCII):
        raise ValueError("not a Keybox's name; take 1 to 32 letters, digits and '-', as its label has them")
    return value


class Options(Section):
    """Under ``key_sources.NAME``. socket: where the agent listens; timeout: of one call, in seconds."""

    socket: Annotated[ConfigPath, AfterValidator(_socket)] = Field(examples=["/run/keybox/agent.sock"])
    timeout: Annotated[Duration, at_least(0.1, "in which no agent answers"), AfterValidator(_timeout)] = 5.0


class PeerOptions(Section):
    """Under ``peers[].qkd.sources.NAME``. peer: name of the Keybox at the other end."""

    peer: Annotated[str, AfterValidator(_peer)] = Field(examples=["box-17"])


def doubts(options: Options) -> Iterable[str]:
    """What ``qtunnel check`` warns of: it can be used, but is perhaps not meant."""
    if not options.socket.is_socket():
        yield f"socket: nobody listens at {options.socket} now; is the agent running?"
