"""A resolver that tests write the answers of, and the endpoints of a daemon that asks it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from qtunnel.config import load_config
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.memory import StateDirectory
from qtunnel.daemon.settings import load_public
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from tests.config.conftest import MINIMAL

NAMED = MINIMAL.replace("public: bob.public", "public: bob.public\n    endpoint: gw.example")


class Names:
    """Stands for the resolver, which a test cannot make fail. host: what any name leads to, several separated by a
    space; None for nothing.

    asked: the names, in order. begun: a look-up is under way; go: it is answered, and until then it waits.
    """

    def __init__(self) -> None:
        self.host: str | None = None
        self.asked: list[str] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        self.begun.set()
        self.go.wait(20)
        if self.host is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(None, None, None, "", (each, port)) for each in self.host.split()]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    found = Names()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    return found


async def started(
    path: Path, told: list[tuple[str, object]], versions: Collection[int] = (4,)
) -> tuple[Endpoints, Tunnel]:
    """The endpoints of a daemon that starts, after their first look-ups; the tunnel is not up yet, as then.

    versions: of IP, that it has sockets for.
    """
    config, events = load_config(path, environ={}), EventStream()
    public = load_public(config)
    tunnel = Tunnel(config, Identity.load(config.node.identity), public, events, lambda peer: None)
    found = Endpoints(config, tunnel, events, lambda peer: False, lambda: versions)
    state = StateDirectory(path.parent / "state", lambda *_: None)
    with events.subscribe() as heard:
        await found.first(state, public)
        state.close()
        events.close()
        told += [(event.kind, event.fields.get("detail")) async for event in heard]
    return found, tunnel


async def slow(endpoints: Endpoints, names: Names) -> asyncio.Task[None]:
    """A look-up that is under way, of whatever is in doubt."""
    names.go.clear()
    names.begun.clear()
    task = asyncio.create_task(endpoints._look_up())
    assert await asyncio.to_thread(names.begun.wait, 20)
    return task
