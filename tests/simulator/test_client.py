"""The command line's end of a network's socket: whose network it believes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qtunnel.control.server import take_socket
from qtunnel.errors import ControlError, NetworkError, NoNetworkError
from qtunnel.simulator import client

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
        take_socket(theirs / "metro.sock")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert client.socket_of("metro") == Path("/tmp/qtunnel-kme-1234/metro.sock")


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
