"""What the daemon serves by HTTP, where the configuration has it: metrics, the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from qtunnel.config import Config
from qtunnel.config.token import read_token
from qtunnel.control.messages import KeySourceStatus, Status
from qtunnel.daemon.journal import LEVELS
from qtunnel.events import EventStream
from qtunnel.metrics.server import MetricsServer
from qtunnel.page.server import Facts, PageServer

Servers = list[MetricsServer | PageServer]


def servers(
    config: Config, status: Callable[[], Awaitable[Status]], sources: Callable[[], Iterable[KeySourceStatus]],
    events: EventStream,
) -> Servers:  # fmt: skip
    """Those of the configuration. status: of all peers; sources: as in it. Raises ``ConfigError`` or
    ``FilePermissionError`` for a token that is not fit."""
    found: Servers = []
    if config.metrics is not None:
        address, port = config.metrics.listen
        found.append(MetricsServer(str(address), port, status, events))
    if config.page is not None:
        address, port = config.page.listen
        token = None if config.page.token_file is None else read_token(config.page.token_file)
        facts = Facts(status, sources, events, lambda kind: LEVELS.get(kind, "info"))
        found.append(PageServer(str(address), port, facts, config.page.hosts, token))
    return found


async def start(found: Servers, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Raises ``HttpPortError`` where one cannot listen."""
    for server in found:
        await server.start()
        spawn(server.follow())


async def stop(found: Servers) -> None:
    """Idempotent."""
    for server in found:
        await server.stop()
