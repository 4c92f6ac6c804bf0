"""Alarms of the network as server-sent events at each KME, for its SAEs: who listens hears of them at once.

ETSI GS QKD 014 has no notification; an SAE hears of an alarm when it asks for the status next. This is ours.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from qtunnel.events import Event
from qtunnel.kme.api import ApiError
from qtunnel.simulator.alarms import Json, happening, payload, report
from qtunnel.tls import common_name

if TYPE_CHECKING:
    from qtunnel.simulator.service import Service

PATH = "/api/v1/alarms"

KEEP_ALIVE = 15.0
"""Seconds after which a stream without news says that it lives: proxies end silent ones after a minute."""

MOST_READERS = 32
"""At once, of a node: each SAE with a console or two."""

PATIENCE = 30.0
"""Seconds that a reader may take for what waits for it."""


class AlarmStream:
    """Of one node (WHATWG HTML, section 9.2): first an ``alarm`` for each link that warns now, then what happens."""

    def __init__(self, service: Service, node: str) -> None:
        self._service, self._node = service, node
        self._readers = 0

    def add_to(self, app: web.Application) -> None:
        app.router.add_get(PATH, self._serve, allow_head=False)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        caller = common_name(transport.get_extra_info("peercert")) if transport is not None else None
        if caller is None or self._service.topology.homes.get(caller) != self._node:
            raise ApiError(401, f"{caller or 'who asks'} is no SAE of {self._service.topology.kme_id(self._node)}")
        if self._readers >= MOST_READERS:
            raise ApiError(503, f"{MOST_READERS} readers follow the alarms already")
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        self._readers += 1
        try:
            await answer.prepare(request)
            await self._tell(answer)
        except (OSError, TimeoutError):
            pass  # gone, or so slow that it is let go
        finally:
            self._readers -= 1
        return answer

    async def _tell(self, answer: web.StreamResponse) -> None:
        service = self._service
        service.advance()
        with service.news.subscribe() as news:
            now = [self._frame("alarm", name) for name, link in service.core.links.items() if link.alarm is not None]
            await _write(answer, b"".join(now) or b": no alarm\n\n")
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE):
                        event = await anext(news)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    await _write(answer, b":\n\n")
                    continue
                await _write(answer, self._told(event))
                if self._node in service.core.down:
                    return  # a node that is lost says nothing any more

    def _told(self, event: Event) -> bytes:
        name = {"link.alarm": "alarm", "link.cleared": "cleared"}.get(event.kind)
        place = str(event.fields["place"])
        if name is None:
            return _frame("happening", happening(event))
        return self._frame(name, place, happening(event))

    def _frame(self, name: str, link: str, why: Json | None = None) -> bytes:
        """Of a link: how it is now, and what happened to it where it just did."""
        its = self._service.core.links[link]
        told = {"name": link, "between": list(its.spec.ends), **report(its, self._service.topology.key.size)}
        return _frame(name, told | ({} if why is None else {"happening": why}))


def _frame(name: str, told: Json) -> bytes:
    """JSON has no line breaks of its own, so it is one ``data`` line."""
    return f"event: {name}\ndata: ".encode() + payload(told) + b"\n\n"


async def _write(answer: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        await answer.write(data)
