"""The command line's end of a network's socket: whose network it believes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qtunnel.control.server import take_socket
from qtunnel.errors import ControlError, NoNetworkError
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
