"""The steward against whoever reaches its socket; its client against one that is gone, or of another release."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.engines import steward_client
from qtunnel.engines.bypass import mark_of
from qtunnel.engines.choice import open_engine
from qtunnel.engines.interface import InterfaceConfig
from qtunnel.engines.programs import PROGRAMS
from qtunnel.engines.steward import MARKING, MAX_BUFFER, Steward
from qtunnel.engines.steward_client import StewardClient, StewardInterface, StewardProcess
from qtunnel.engines.steward_words import VERSION, config_from_plain, config_to_plain
from qtunnel.errors import AlreadyRunningError, EngineError
from tests.support.kme import run, until
from tests.support.netns import gone

CONFIG = InterfaceConfig("qtsteward", (ip_interface("10.77.0.1/24"),), allowed_ips=(ip_network("10.8.0.0/16"),))


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[asyncio.Event]:
    """A steward at that path, until the event is set or the block ends."""
    ready, stop = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(Steward(path, lambda line: None).serve(ready.set, stop))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        await task
    try:
        yield stop
    finally:
        stop.set()
        await task


async def says(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """What the steward answers to these lines; none where it hangs up."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    answers = []
    for line in lines:
        writer.write(line + b"\n")
        answer = await reader.readline()
        if not answer:
            break
        answers.append(json.loads(answer))
    writer.close()
    return answers


@given(
    st.builds(
        InterfaceConfig,
        st.just("qt0"),
        st.lists(st.sampled_from([ip_interface("10.1.2.3/24"), ip_interface("fd77::1/64")])).map(tuple),
        st.integers(1280, 65535),
        st.lists(st.ip_addresses().map(ip_network)).map(tuple),
        st.booleans(),
        st.integers(1, 10_000),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**31 - 1),
    )
)
def test_an_interface_comes_across_as_it_is(config: InterfaceConfig) -> None:
    assert config_from_plain(json.loads(json.dumps(config_to_plain(config)))) == config


@pytest.mark.parametrize("plain", [None, {}, [], {**config_to_plain(CONFIG), "addresses": ["nonsense"]}])
def test_an_interface_that_is_none_is_refused(plain: object) -> None:
    with pytest.raises(EngineError):
        config_from_plain(plain)


def test_whoever_reaches_the_socket_gets_no_more_than_it_offers(tmp_path: Path) -> None:
    path, plain = tmp_path / "steward.sock", config_to_plain(CONFIG)

    async def asked() -> None:
        async with serving(path):
            assert path.stat().st_mode & 0o777 == 0o600
            assert (tmp_path / "steward.sock.sockets").stat().st_mode & 0o777 == 0o600
            for garbage in (b"garbage", b"[]", b"[" * 100_000, b"\xff\xfe"):
                assert await says(path, garbage) == [], "hung up"
            for what in (
                {"do": "no-such"},
                {"do": "engine.start", "program": "sh", "interface": "qt0", "processes": 1},
                {"do": "engine.start", "program": "kernel", "interface": "qt0", "processes": 1},
                {"do": "engine.start", "program": "qtunnel", "interface": ["qt0"], "processes": 1},
                {"do": "engine.start", "program": "qtunnel", "interface": "qt0", "processes": "1; reboot"},
                {"do": "interface.up", "index": 1},
                {"do": "engine.start", "program": "qtunnel", "interface": "../qt0", "processes": 1},
                {"do": "interface.new", "config": {"name": "lo"}},
                # the main routing table, guards of no gateway's, another interface's name, a queue of gigabytes
                {"do": "interface.new", "config": {**plain, "mark": 254}},
                {"do": "interface.new", "config": {**plain, "mark": mark_of(51821)}},
                {"do": "interface.new", "config": {**plain, "guard_metric": 1024}},
                {"do": "interface.new", "config": {**plain, "name": "lo"}},
                {"do": "interface.new", "config": {**plain, "txqueuelen": 1 << 31}},
            ):
                (answer,) = await says(path, json.dumps({"id": 7, **what}).encode())
                assert answer["id"] == 7
                assert answer["error"], what
            # what is there is changed, and does not become another one
            (_, answer) = await says(
                path,
                json.dumps({"id": 1, "do": "interface.new", "config": plain}).encode(),
                json.dumps({"id": 2, "do": "interface.change", "config": {**plain, "name": "eth0"}}).encode(),
            )
            assert "its name" in answer["error"]
            # an interface that is not of its own engine, as the host's own are, is not set up
            client = StewardClient(path)
            foreign = StewardInterface(replace(CONFIG, name="host0"), client)
            with pytest.raises(EngineError, match="host0 is not one of this steward's engine"):
                await foreign.up(1)
            assert await client.ask("engine.find", making={}) is None
            await client.close()

    run(asked)
    assert not path.exists()


def test_one_steward_at_a_path_and_a_stale_socket_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "steward.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))

    async def two() -> None:
        async with serving(path):
            with pytest.raises(AlreadyRunningError):
                async with serving(path):
                    pass
            assert (await says(path, b'{"id":1,"do":"hello"}'))[0]["is"]["version"] == VERSION

    run(two)


def test_a_client_finds_a_steward_that_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "steward.sock"

    async def back() -> None:
        client = StewardClient(path)
        async with serving(path) as stop:
            assert await client.ask("engine.find", making={}) is None
            waiting = asyncio.create_task(client.ask("engine.wait", None))
            stop.set()
            try:
                assert (await waiting)["ended"] == "was not started"
            except EngineError as error:  # where it was gone before it could say so
                assert "is gone" in str(error)  # noqa: PT017
        async with serving(path):
            assert await client.ask("engine.find", making={}) is None
        await client.close()

    run(back)


def test_without_a_steward_the_words_name_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steward_client, "CONNECT_BOUND", 0.1)

    async def asked() -> None:
        with pytest.raises(EngineError, match=r"steward at .* cannot be reached: no such file .* qtunnel-engine@"):
            await StewardClient(tmp_path / "nobody.sock").ask("engine.find")

    run(asked)


def test_a_steward_of_another_release_is_asked_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "steward.sock"

    async def old_and_new() -> None:
        monkeypatch.setattr("qtunnel.engines.steward.VERSION", VERSION - 1)

        async def old() -> None:
            stop = asyncio.Event()
            await Steward(path, lambda line: None).serve(lambda: None, stop)

        first = asyncio.create_task(old())
        await until(lambda: asyncio.sleep(0, path.exists()))
        client = StewardClient(path)
        asking = asyncio.create_task(client.ask("engine.find", making={}))
        await first  # it ended by itself
        monkeypatch.setattr("qtunnel.engines.steward.VERSION", VERSION)
        async with serving(path):  # as systemd does
            assert await asking is None
            await client.close()

    run(old_and_new)


def test_an_interface_that_was_there_before_is_no_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of that name fails, but only after a moment, in which the host's own interface would have its name."""
    path = tmp_path / "steward.sock"
    monkeypatch.setattr("qtunnel.engines.steward.check_tun_device", lambda: None)
    monkeypatch.setattr("qtunnel.engines.steward.GONE_BOUND", 0.1)
    monkeypatch.setattr("qtunnel.engines.steward.index_of", lambda name: 7 if name == "eth0" else None)
    program = replace(PROGRAMS["qtunnel"], executable="sleep", arguments=lambda _: ["60"])
    monkeypatch.setitem(PROGRAMS, "qtunnel", program)

    async def asked() -> None:
        async with serving(path):
            client = StewardClient(path)
            with pytest.raises(EngineError, match="name eth0 is taken"):
                await client.ask("engine.start", program="qtunnel", interface="eth0", processes=1, making={})
            assert await client.ask("engine.find", making={}) is None
            await client.close()

    run(asked)


def test_of_engines_that_are_started_at_once_none_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "steward.sock"
    monkeypatch.setattr("qtunnel.engines.steward.check_tun_device", lambda: None)
    program = replace(PROGRAMS["qtunnel"], executable="sleep", arguments=lambda _: ["60"])
    monkeypatch.setitem(PROGRAMS, "qtunnel", program)

    async def both() -> None:
        async with serving(path):
            client = StewardClient(path)
            begins: dict[str, Any] = {"program": "qtunnel", "interface": "qtsteward", "processes": 1, "making": {}}
            told = await asyncio.gather(*(client.ask("engine.start", **begins) for _ in range(3)))
            running = [its["pid"] for its in told if not gone(its["pid"])]
            assert running == [(await client.ask("engine.find", making={}))["pid"]]
            await client.close()

    run(both)


def over(read: int) -> bool:
    """Whether nobody holds the other end of a pipe any more."""
    try:
        return os.read(read, 1) == b""
    except BlockingIOError:
        return False


@pytest.mark.root
def test_sockets_are_marked_and_stay_the_daemons(tmp_path: Path) -> None:
    path = tmp_path / "steward.sock"

    async def marked() -> None:
        async with serving(path):
            client = StewardClient(path)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                await asyncio.to_thread(client.mark, sock, 0x80001234, 4 << 20)  # no int of C
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK, 4) == struct.pack("=I", 0x80001234)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 8 << 20
            read, write = os.pipe()
            os.set_blocking(read, False)
            pipe: Any = os.fdopen(write, "wb")
            with pipe, pytest.raises(OSError, match="ocket"):
                await asyncio.to_thread(client.mark, pipe, 1, 1)
            await until(lambda: asyncio.sleep(0, over(read)))  # the steward has closed its own of it
            os.close(read)

    run(marked)


def test_a_socket_in_a_message_that_is_none_is_let_go(tmp_path: Path) -> None:
    """Else a daemon could use up the steward's descriptors, and with them the means to end an engine."""
    path = tmp_path / "steward.sock"

    async def sent() -> None:
        async with serving(path):
            for told in (b"short", MARKING.pack(0, MAX_BUFFER + 1)):
                ours, theirs = socket.socketpair()
                with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                    connection.connect(f"{path}.sockets")
                    socket.send_fds(connection, [told], [theirs.fileno()])
                    theirs.close()
                    ours.settimeout(5)
                    assert await asyncio.to_thread(ours.recv, 1) == b"", "nobody has the other end any more"

    run(sent)


def test_the_kernels_engine_is_refused_with_the_remedy() -> None:
    with pytest.raises(EngineError, match=r"docs/operations\.md"):
        open_engine("kernel", "qt0", steward=StewardClient(Path("/nowhere")))


def test_an_engine_that_knows_no_end_of_a_key_ends_with_its_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sleep(1) stands for it; our own engine, which blocks by itself, stays for the next daemon."""
    path = tmp_path / "steward.sock"
    monkeypatch.setattr("qtunnel.engines.steward.check_tun_device", lambda: None)
    for name in ("qtunnel", "wireguard-go"):
        monkeypatch.setitem(PROGRAMS, name, replace(PROGRAMS[name], executable="sleep", arguments=lambda _: ["60"]))

    async def one(name: str) -> bool:
        """Whether it goes on."""
        async with serving(path):
            client = StewardClient(path)
            process = await StewardProcess.start(client, name, "qtsteward", 1, {"for": name})
            assert process.pid is not None
            process.leave()
            await client.close()
            if name != "qtunnel":
                await until(lambda: asyncio.sleep(0, gone(process._pid)))
                return False
            found = await StewardProcess.find(client, {"for": name})
            assert found is not None
            assert (found[0].pid, found[1]) == (process._pid, True)
            other = await StewardProcess.find(client, {"for": "another"})
            assert other is not None
            assert not other[1]
            assert not gone(process._pid)
            for its in (found[0], other[0]):
                its.leave()
            await client.close()
        return not gone(process._pid)

    assert run(lambda: one("wireguard-go")) is False
    assert run(lambda: one("qtunnel")) is False, "it went with its steward"
