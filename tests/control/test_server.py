"""The control socket with real sockets: who may speak, what is refused, who owns the path."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtunnel.control import server as server_module
from qtunnel.control.client import ControlClient
from qtunnel.control.messages import MAX_REQUEST, Request
from qtunnel.control.server import ControlServer
from qtunnel.errors import AlreadyRunningError, ControlError, NoDaemonError, UnknownPeerError
from tests.control.support import NODE, Canned, Serving, peer, serving


def talk(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Send each line and read its answer; ends early where the server hangs up."""
    answers = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        with connection.makefile("rb") as answer:
            for line in lines:
                connection.sendall(line)
                read = answer.readline()
                if not read:
                    break
                answers.append(json.loads(read))
    return answers


def code(answer: dict[str, Any]) -> str:
    assert answer["version"] == 1
    assert answer["ok"] is False
    assert "\n" not in answer["error"]["message"]
    return str(answer["error"]["code"])


def start(path: Path) -> None:
    async def main() -> None:
        made = ControlServer(path, Canned().handlers)
        await made.start()
        await made.stop()

    asyncio.run(main())


def test_ping_status_and_rekey(server: Serving) -> None:
    client = ControlClient(server.path)
    assert client.ping().pid == os.getpid()
    assert client.status().node == NODE
    assert client.status("bob").peers == [peer()]
    assert client.rekey("bob") == server.canned.outcome


def test_who_asks_for_a_change_is_told_as_an_event_and_who_only_looks_is_not(server: Serving) -> None:
    client = ControlClient(server.path)
    client.status()
    client.rekey("bob")
    (event,) = [event for event in server.canned.events.history() if event.kind == "control.asked"]
    assert event.peer == "bob"
    assert event.fields == {"request": "rekey", "uid": os.getuid(), "pid": os.getpid()}


def test_the_socket_is_the_owners_alone(server: Serving) -> None:
    found = server.path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_one_connection_may_ask_several_times(server: Serving) -> None:
    ping = b'{"version": 1, "request": "ping"}\n'
    assert [answer["ok"] for answer in talk(server.path, ping, ping)] == [True, True]


def test_an_unknown_peer_is_told_with_the_known_ones(server: Serving) -> None:
    client = ControlClient(server.path)
    for ask in (client.status, client.rekey):
        with pytest.raises(UnknownPeerError, match="no peer 'eve'; there are: bob"):
            ask("eve")


@pytest.mark.parametrize(
    "line, expected",
    [
        (b"\n", "bad-request"),
        (b"GET / HTTP/1.1\n", "bad-request"),
        (b"\xff\xfe\x00\n", "bad-request"),
        (b"[]\n", "bad-request"),
        (b"[" * 4000 + b"\n", "bad-request"),
        (b"{}\n", "version"),
        (b'{"version": 2, "request": "ping"}\n', "version"),
        (b'{"version": 1}\n', "bad-request"),
        (b'{"version": 1, "request": "reboot"}\n', "bad-request"),
        (b'{"version": 1, "request": "ping", "more": 1}\n', "bad-request"),
        (b'{"version": 1, "request": "status", "peer": 7}\n', "bad-request"),
        (b'{"version": 1, "request": "rekey"}\n', "bad-request"),
        (b'{"version": 1, "request": "rekey", "peer": "bob", "timeout_s": -1}\n', "bad-request"),
        (b'{"version": 1, "request": "rekey", "peer": "bob", "timeout_s": 1e999}\n', "bad-request"),
        (b'{"version": 1, "request": "rekey", "peer": "eve"}\n', "unknown-peer"),
    ],
)
def test_garbage_is_answered_and_the_connection_goes_on(server: Serving, line: bytes, expected: str) -> None:
    first, second = talk(server.path, line, b'{"version": 1, "request": "ping"}\n')
    assert code(first) == expected
    assert second["ok"] is True


@given(line=st.binary(max_size=200).filter(lambda data: b"\n" not in data))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_line_stops_the_server(server: Serving, line: bytes) -> None:
    talk(server.path, line + b"\n")
    assert ControlClient(server.path).ping().pid == os.getpid()


def test_a_line_that_is_too_long_ends_the_connection(server: Serving) -> None:
    try:
        answers = talk(server.path, b"x" * (4 * MAX_REQUEST), b"\n")
    except OSError:
        answers = []  # the server hung up while more was on its way
    assert [code(answer) for answer in answers] in ([], ["bad-request"])
    assert ControlClient(server.path).ping().pid == os.getpid()


def test_a_half_line_then_silence_does_not_hold_others_up(server: Serving) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(str(server.path))
        silent.sendall(b'{"version": 1,')
        assert ControlClient(server.path).ping().pid == os.getpid()


def test_an_idle_connection_is_closed(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "IDLE", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as idle:
        idle.settimeout(20)
        idle.connect(str(server.path))
        assert idle.recv(1) == b""


def test_connections_are_bounded(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    open_ones = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)]
    try:
        for connection in open_ones:
            connection.connect(str(server.path))
        with pytest.raises(ControlError, match="2 control connections are open"):
            ControlClient(server.path).ping()
    finally:
        for connection in open_ones:
            connection.close()


@pytest.mark.root
def test_another_user_is_refused(server: Serving) -> None:
    """Even where the file's permissions let the user in."""
    server.path.chmod(0o777)
    program = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "print(s.makefile().readline())\n"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(server.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    assert code(answer) == "forbidden"
    assert "65534" in answer["error"]["message"]


@pytest.mark.root
def test_another_user_cannot_even_connect(server: Serving) -> None:
    program = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(server.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "PermissionError" in done.stderr


def test_a_rekey_is_bounded(server: Serving) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    server.canned.on_rekey = never
    with pytest.raises(ControlError, match=r"no outcome within 0\.2 s"):
        ControlClient(server.path).rekey("bob", timeout=0.2)


def test_an_unexpected_error_stays_in_the_log(server: Serving, caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise RuntimeError("deep inside")

    server.canned.on_rekey = broken
    with pytest.raises(ControlError, match="internal error") as raised:
        ControlClient(server.path).rekey("bob")
    assert "deep inside" not in str(raised.value)
    assert "deep inside" in caplog.text


def test_a_refusal_of_the_daemon_is_told_in_its_words(server: Serving) -> None:
    async def refuse() -> None:
        raise ControlError("peer bob is being removed")

    server.canned.on_rekey = refuse
    with pytest.raises(ControlError, match="peer bob is being removed"):
        ControlClient(server.path).rekey("bob")


def test_events_are_followed_with_history_and_by_peer(server: Serving) -> None:
    events = server.canned.events
    server.call(lambda: events.publish("rekey.done", "bob", epoch=1, sources=("x25519", "metro")))
    server.call(lambda: events.publish("node.up"))
    followed = ControlClient(server.path).events("bob", history=True)
    assert next(followed) == {
        "time": 1.5,
        "kind": "rekey.done",
        "peer": "bob",
        "fields": {"epoch": 1, "sources": ["x25519", "metro"]},
    }
    server.call(lambda: events.publish("rekey.done", "carol"))
    server.call(lambda: events.publish("rekey.failed", "bob"))
    assert next(followed)["kind"] == "rekey.failed"
    server.call(events.close)
    assert list(followed) == []


def test_a_follower_that_hangs_up_is_forgotten(server: Serving) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as follower:
        follower.connect(str(server.path))
        follower.sendall(Request(request="events").model_dump_json().encode() + b"\n")
    for _ in range(1000):
        seen: list[int] = []
        server.call(lambda seen=seen: seen.append(len(server.canned.events._subscriptions)))  # type: ignore[misc]
        if seen == [0]:
            return
    pytest.fail("the subscription is still there")


def test_a_stopping_daemon_says_so(directory: Path) -> None:
    canned = Canned()
    with serving(directory / "s", canned) as started:
        followed = ControlClient(started.path).events(history=True)
        started.call(lambda: canned.events.publish("node.up"))
        assert next(followed)["kind"] == "node.up"
    with pytest.raises(NoDaemonError, match="stopping"):
        next(followed)
    assert not started.path.exists()


# The path


def test_a_second_daemon_on_one_path_is_refused(server: Serving) -> None:
    with pytest.raises(AlreadyRunningError) as raised:
        start(server.path)
    assert str(server.path) in str(raised.value)
    assert f"(pid {os.getpid()}), likely by another qtunnel daemon; stop that first" in str(raised.value)
    assert ControlClient(server.path).ping().pid == os.getpid()


def test_a_stale_socket_is_replaced(directory: Path) -> None:
    path = directory / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_over:
        left_over.bind(str(path))
    with serving(path):
        assert ControlClient(path).ping().pid == os.getpid()
    assert not path.exists()


def test_another_file_in_the_way_is_left_alone(directory: Path) -> None:
    path = directory / "s"
    path.write_text("mine")
    with pytest.raises(ControlError, match="another kind of file is in the way"):
        start(path)
    assert path.read_text() == "mine"


def test_a_missing_directory_is_made(directory: Path) -> None:
    start(directory / "run" / "qtunnel" / "s")
    assert stat.S_IMODE((directory / "run" / "qtunnel").stat().st_mode) & 0o022 == 0


def test_a_directory_open_to_others_is_refused(directory: Path) -> None:
    (directory / "open").mkdir()
    (directory / "open").chmod(0o777)
    with pytest.raises(ControlError, match=r"has mode 0777, so others could .*chmod go-w"):
        start(directory / "open" / "s")


@pytest.mark.root
def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    (directory / "theirs").mkdir()
    os.chown(directory / "theirs", 65534, 65534)
    with pytest.raises(ControlError, match=r"belongs to user 65534 .*\(chown, .*or name another path"):
        start(directory / "theirs" / "s")


def test_a_path_that_is_too_long_is_told(directory: Path) -> None:
    with pytest.raises(ControlError, match="longer than 107 bytes"):
        start(directory / ("x" * 120))


def test_a_directory_that_is_a_file_is_told(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(ControlError, match=r"directory .*file of the control socket: file exists"):
        start(directory / "file" / "s")


def test_the_next_daemons_socket_is_not_removed(directory: Path) -> None:
    path = directory / "s"
    with serving(path) as first:
        first.path.unlink()
        with serving(path):
            pass
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.bind(str(path))
    assert path.exists()


# The client


def test_no_socket_names_path_and_remedy(directory: Path) -> None:
    with pytest.raises(NoDaemonError, match=r"/none does not exist; start one with: qtunnel run --config FILE"):
        ControlClient(directory / "none").ping()


def test_a_stale_socket_names_path_and_remedy(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_over:
        left_over.bind(str(directory / "s"))
    with pytest.raises(NoDaemonError, match="no daemon answers"):
        ControlClient(directory / "s").ping()


@pytest.mark.parametrize(
    "answer, words",
    [
        (b"hello\n", "does not speak"),
        (b"[]\n", "does not speak"),
        (b'{"version": 9, "ok": true, "result": {}}\n', "does not speak"),
        (b'{"version": 1, "ok": true, "result": {}}\n', "does not speak"),
        (b'{"version": 1, "ok": true}\n', "does not speak"),
        (b'{"version": 1, "ok": false, "error": 5}\n', "does not speak"),
        (b'{"version": 1', "hung up"),
        (b"", "hung up"),
        (None, r"did not answer within 0\.3 s"),
    ],
)
def test_a_stranger_on_the_path_is_told(directory: Path, answer: bytes | None, words: str) -> None:
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('up', flush=True)\n"
        "c, _ = s.accept(); c.recv(4096)\n"
        f"answer = {answer!r}\n"
        "if answer is None: c.recv(1)\n"
        "else: c.sendall(answer)\n"
    )
    path = directory / "s"
    command = [sys.executable, "-I", "-S", "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "up\n"
        with pytest.raises(ControlError, match=words):
            ControlClient(path, timeout=0.3 if answer is None else 20).ping()
