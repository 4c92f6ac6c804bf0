"""The command line's end of a network's socket: whose network it believes."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qtunnel.control.socket_file import take_socket
from qtunnel.errors import AlreadyRunningError, ControlError, NetworkError, NoNetworkError
from qtunnel.simulator import client
from qtunnel.simulator.control import controlled
from qtunnel.simulator.service import Service
from qtunnel.simulator.topology_file import load_topology

NOBODY = 65534
LISTEN = """
import os, socket, sys
os.setuid(65534)
with socket.socket(fileno=int(sys.argv[1])) as listener:
    listener.listen()  # whose socket it is counts from here on
    print("listening", flush=True)
    with listener.accept()[0] as connection:
        print(connection.recv(100))
"""


@pytest.mark.root
def test_a_socket_of_somebody_elses_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "metro.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        number = listener.fileno()
        command = [sys.executable, "-I", "-S", "-c", LISTEN, str(number)]
        with subprocess.Popen(command, pass_fds=(number,), stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "listening\n"
            with pytest.raises(NoNetworkError, match=f"is user {NOBODY}'s"):
                client.ask(path, {"request": "map"})
            assert other.stdout.readline() == "b''\n", "it was told nothing"


@pytest.mark.root
def test_a_directory_that_somebody_else_made_before_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns it could put another socket in the place of ours; so nothing is made inside of it."""
    theirs = tmp_path / "qtunnel-kme-1234"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(ControlError, match="belongs to user"):
        take_socket(theirs / "metro.sock", "simulated network")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert client.socket_of("metro") == Path("/tmp/qtunnel-kme-1234/metro.sock")


def test_a_second_network_on_one_socket_is_refused_as_one(tmp_path: Path, metro: Path) -> None:
    path = tmp_path / "metro.sock"

    async def test() -> None:
        service = Service(load_topology(metro))
        async with controlled(service, path):
            with pytest.raises(AlreadyRunningError) as refused:
                await controlled(service, path).__aenter__()
            assert f"(pid {os.getpid()}), likely by another simulated network" in str(refused.value)
            answer = await asyncio.to_thread(client.ask, path, {"request": "map"})
            assert answer["network"] == "metro"

    asyncio.run(test())


def test_a_client_loads_no_server() -> None:
    """Of the daemon's control socket, whose place in the file system it shares."""
    code = f"import sys, {client.__name__}; print('qtunnel.control.server' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's networks have their sockets."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = tmp_path / "qtunnel-kme"
    made.mkdir()
    assert client.directory() == made
    return made


def test_the_only_network_is_meant_unless_one_is_named(place: Path) -> None:
    with pytest.raises(NoNetworkError, match=rf"no network runs: no socket in {place}; start one with"):
        client.only_socket()
    (place / "metro.sock").touch()
    assert client.only_socket() == client.socket_of("metro")
    (place / "ring.sock").touch()
    with pytest.raises(NoNetworkError, match=rf"choose one with --socket: {place}/metro.sock, {place}/ring.sock"):
        client.only_socket()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"ok": true, "result": 7}\n', None),
        (b'{"ok": false, "error": "there is no link xy"}\n', "there is no link xy"),
        (b"", "is no network, or it is stopping"),
        (b"[]\n", "is no network, or it is stopping"),
        (b'{"ok": true}\n', "is no network, or it is stopping"),
        (None, "did not answer within 0.2 s"),
    ],
)
def test_what_a_network_says_and_what_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, words: str | None
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.2 if answer is None else 30.0)
    path = tmp_path / "a.sock"
    done = threading.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(100)
                if answer is None:
                    done.wait(60)
                else:
                    connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        try:
            if words is None:
                assert client.ask(path, {"request": "map"}) == 7
            else:
                with pytest.raises(NetworkError, match=words):
                    client.ask(path, {"request": "map"})
        finally:
            done.set()
            server.join()
    with pytest.raises(NoNetworkError, match=f"no network answers at {path}; start one with"):
        client.ask(path, {"request": "map"})
    path.unlink()
    with pytest.raises(NoNetworkError, match=f"{path} does not exist; start one with"):
        client.ask(path, {"request": "map"})
    with pytest.raises(NoNetworkError, match=f"{tmp_path}/{'x' * 300}: "):
        client.ask(tmp_path / ("x" * 300), {"request": "map"})
