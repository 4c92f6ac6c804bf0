"""A gateway's key sources before a real KME whose status says, or does not say, what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from qtunnel.daemon import clock as clock_module
from qtunnel.daemon import source_book, source_status, sources
from tests.daemon.test_sources import Bench, bench, config_of
from tests.drivers.front import Exchange, Front, front
from tests.support.kme import driver_options, kme_pair, make_pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("pki"))


class Clock:
    """What the book takes for the present, besides the time that really passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = clock_module.monotonic
        for module in (source_book, source_status, sources):
            monkeypatch.setattr(module, "monotonic", lambda: real() + self.ahead)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def told(its: Bench, kind: str) -> list[tuple[str | None, str]]:
    """Peer and words of the events of that kind."""
    return [(event.peer, str(event.fields.get("detail"))) for event in its.events.history() if event.kind == kind]


def keys(server: Any) -> int:
    """Calls for keys that a server has seen."""
    return sum("c_keys" in line for line in server.lines)


class Said:
    """What the KME behind a front says further in its status, by the SAE that it is about."""

    def __init__(self) -> None:
        self.more: dict[str, dict[str, Any]] = {}
        self.hangs: set[str] = set()
        self.refuses: set[str] = set()
        self.over = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        sae = exchange.path.split("/keys/")[1].split("/")[0]
        if sae in self.hangs:
            await self.over.wait()
        if sae in self.refuses:
            await exchange.reply({"message": "no such call"}, 404)
            return
        extension = {**exchange.document["status_extension"], **self.more.get(sae, {})}
        await exchange.reply({**exchange.document, "status_extension": extension})


@contextlib.asynccontextmanager
async def hub(pki: Path) -> AsyncIterator[tuple[Bench, Front, Said]]:
    """Alice with bob and carol, and her real KME behind a front."""
    async with kme_pair(pki) as pair, front(pki, f"https://{pair.a.listen}") as server:
        options = driver_options(pki, "sae-alice", server.url)
        async with bench(config_of("bob", "carol", metro=options)) as its:
            server.status_fault = said = Said()
            yield its, server, said
            said.over.set()


async def works(its: Bench, peer: str) -> bool:
    return bool((await its.new("metro", peer=peer)).keys)
