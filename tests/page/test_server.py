"""The port of the page: who gets what, and that no reader, nor many of them, hurts the daemon."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from qtunnel.control.messages import Status
from qtunnel.errors import HttpPortError
from qtunnel.page import live, server
from qtunnel.page.guard import HEADERS
from qtunnel.page.present import MOST_PEERS, present
from qtunnel.page.server import FILES
from tests.page.sample import KEY_ID, Site, peer, status
from tests.page.test_guard import TOKEN


def serving(test: Callable[[Site, aiohttp.ClientSession], Awaitable[None]], **more: Any) -> None:
    """Run a test against a server of the page."""

    async def run() -> None:
        its = Site(status, **more)
        await its.start()
        try:
            async with asyncio.timeout(60), aiohttp.ClientSession(f"http://127.0.0.1:{its.server.port}") as session:
                await test(its, session)
        finally:
            await its.stop()
            await its.stop()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while True:  # within the bound of ``serving``
        if condition():
            return
        await asyncio.sleep(0.01)


async def frames(answer: aiohttp.ClientResponse, number: int) -> list[tuple[str, Any]]:
    """The next server-sent events."""
    found: list[tuple[str, Any]] = []
    while len(found) < number:
        name, data, empty = [await answer.content.readline() for _ in range(3)]
        assert (name[:7], data[:6], empty) == (b"event: ", b"data: ", b"\n")
        found.append((name[7:-1].decode(), json.loads(data[6:])))
    return found


def test_everything_has_its_headers_and_nothing_can_be_changed() -> None:
    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        paths = ["/", *(f"/{name}" for name in FILES if name != "page.html"), "/live"]
        for path, method in [(path, "GET") for path in paths] + [
            ("/none", "GET"),
            ("/..%2fserver.py", "GET"),
            ("/", "POST"),
        ]:
            async with session.request(method, path) as answer:
                assert answer.status == (200 if path in paths and method == "GET" else 405 if path == "/" else 404)
                assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
            async with session.request(method, "/live") as answer:
                assert answer.status == 405

    serving(test)


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        for name in FILES:
            text = await (await session.get("/" if name == "page.html" else f"/{name}")).text()
            for word in ("http://", "https://", "//cdn", "<style", " style=", "innerHTML", "onclick", "eval("):
                assert word not in text.replace("http://www.w3.org/2000/svg", ""), (name, word)

    serving(test)


def test_names_of_others_lead_nowhere() -> None:
    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        for path in ("/", "/live", "/none"):
            async with session.get(path, headers={"Host": "evil.example"}) as answer:
                assert (answer.status, "page.hosts" in await answer.text()) == (421, True)
        async with session.get(
            "/live", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        ) as answer:
            assert answer.status == 403
        async with session.get("/", headers={"Host": "status.example.org"}) as answer:
            assert answer.status == 200

    serving(test, hosts=("status.example.org",))


def test_who_does_not_know_the_token_gets_nothing() -> None:
    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        for path in ("/", "/page.js", "/live", "/none"):
            for wrong in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Basic Og=="}):
                async with session.get(path, headers=wrong) as answer:
                    assert (answer.status, answer.headers["WWW-Authenticate"][:5]) == (401, "Basic")
                    assert TOKEN not in await answer.text()
        async with session.get("/live", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert (await frames(answer, 2))[1][1]["node"]["name"] == "alice"
        basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
        async with session.get("/", headers={"Authorization": f"Basic {basic}"}) as answer:
            assert answer.status == 200

    serving(test, token=TOKEN)


def test_what_is_live_is_what_the_status_says() -> None:
    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        async with session.get("/live") as answer:
            assert answer.content_type == "text/event-stream"
            (first, past), (second, now) = await frames(answer, 2)
            assert (first, second) == ("past", "now")
            assert (now["total"], now["unprotected"], now["protected"]) == (3, 1, False)
            assert [its["protection"] for its in now["peers"]] == ["qkd+pqc", "pqc-only", "blocked"]
            assert KEY_ID not in json.dumps([past, now])
            assert "fingerprint" not in now["node"]
            its.events.publish("source.down", None, source="metro", detail="it is gone")
            (kind, past), _ = await frames(answer, 2)
            assert (kind, past["events"][0]["fields"]["source"]) == ("past", "metro")
            assert [name for name, _ in await frames(answer, 2)] == ["now", "now"], "the past is sent when it changes"

    serving(test)


def test_an_interface_that_somebody_else_changed_protects_nobody_for_certain() -> None:
    node = status().node.model_copy(update={"state": "interface-altered"})
    found = present(status(node=node), 0.0)
    assert (found["known"], found["protected"]) == (False, False)


def test_of_a_hubs_peers_those_that_need_a_look_are_told_first() -> None:
    peers = [peer(f"p{number}") for number in range(200)]
    peers[150] = peer("late", protected=False, protection="expired")
    found = present(status(peers=peers), 0.0)
    assert len(found["peers"]) == MOST_PEERS
    assert "late" in [its["name"] for its in found["peers"]]
    assert (found["total"], found["unprotected"]) == (200, 1)
    assert found["others"] == {"number": 200 - MOST_PEERS, "unprotected": 0}


def test_nobody_is_asked_while_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY", 0.01)
    asked = [0]

    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        def found() -> Status:
            asked[0] += 1
            return status()

        its.status = found
        await asyncio.sleep(0.1)
        before = asked[0]
        async with session.get("/live") as answer:
            await frames(answer, 4)
        assert before <= 1, "a look at the sources"
        await until(lambda: not its.server._live._readers)
        await asyncio.sleep(0.05)
        after = asked[0]
        await asyncio.sleep(0.2)
        assert asked[0] == after

    serving(test)


def test_readers_that_do_not_read_are_let_go_and_hinder_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """31 of them, of each of which nothing waits but one frame; another one gets all frames meanwhile."""
    monkeypatch.setattr(live, "EVERY", 0.02)
    monkeypatch.setattr(server, "WRITE_LIMIT", 1.0)
    made = [0]

    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        many = status(peers=[peer(f"p{number}", last_error="x" * 300) for number in range(MOST_PEERS)])

        def found() -> Status:
            made[0] += 1
            return many

        its.status = found
        silent = []
        for _ in range(live.MOST_READERS - 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", its.server.port, limit=1024)
            writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            silent.append((reader, writer))
        await until(lambda: its.server._live._readers == live.MOST_READERS - 1)
        async with session.get("/live") as answer:
            async with session.get("/live") as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
            seen = 0
            while its.server._live._readers > 1:
                seen += len(await frames(answer, 1))
            assert seen > 5
            assert made[0] < seen + 20, "each frame is made once for all"
        async with session.get("/live") as answer:
            assert answer.status == 200
        for _, writer in silent:
            writer.close()

    serving(test)


def test_readers_are_told_when_the_daemon_ends() -> None:
    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        async with session.get("/live") as answer:
            await frames(answer, 2)
            await its.server.stop()
            rest = await answer.content.read()
            assert rest == b"" or rest.endswith(b"\n\n")

    serving(test)


def test_a_daemon_that_hangs_gives_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        its.hang = True
        async with session.get("/live") as answer:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(answer.content.readline(), 0.3)

    serving(test)


def test_a_status_that_fails_is_no_frame_and_no_end(caplog: pytest.LogCaptureFixture) -> None:
    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        good = its.status

        def bad() -> Status:
            its.status = good
            raise RuntimeError("a defect")

        its.status = bad
        async with session.get("/live") as answer:
            assert (await frames(answer, 2))[1][0] == "now"

    serving(test)


def test_a_port_that_is_taken_is_named() -> None:
    async def test(its: Site, session: aiohttp.ClientSession) -> None:
        other = Site(status, port=its.server.port)
        with pytest.raises(HttpPortError, match=rf"page.listen: 127.0.0.1 port {its.server.port}: .*take another"):
            await other.start()

    serving(test)
