"""sd_notify against sockets of the tests' own."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path

import pytest

from qtunnel.sd_notify import Notifier


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_states_arrive_at_the_socket(tmp_path: Path, kind: str) -> None:
    name = f"qtunnel-test-{uuid.uuid4().hex}"
    address = str(tmp_path / "notify") if kind == "path" else f"@{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address if kind == "path" else f"\0{name}")
        receiver.settimeout(10)
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
        assert notifier.ready("2 peers protected")
        assert notifier.status("two\nlines\x1b")
        assert notifier.watchdog()
        assert notifier.stopping()
        assert [receiver.recv(1000) for _ in range(4)] == [
            b"READY=1\nSTATUS=2 peers protected",
            b"STATUS=two lines ",
            b"WATCHDOG=1",
            b"STOPPING=1",
        ]


def test_a_reload_says_when_it_began(tmp_path: Path) -> None:
    """sd_notify(3): RELOADING=1 goes with MONOTONIC_USEC, by the clock of CLOCK_MONOTONIC."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(10)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        assert Notifier(str(tmp_path / "notify")).reloading()
        state, moment = receiver.recv(1000).decode().splitlines()
        assert state == "RELOADING=1"
        name, _, microseconds = moment.partition("=")
        assert name == "MONOTONIC_USEC"
        assert before // 1000 <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_systemd_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environ)
    assert not notifier.ready()


def test_a_manager_that_is_gone_or_does_not_read_stops_nobody(tmp_path: Path) -> None:
    assert not Notifier(str(tmp_path / "gone")).ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "full"))
        notifier = Notifier(str(tmp_path / "full"))
        assert not all(notifier.watchdog() for _ in range(10_000))


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "junk"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(environ: dict[str, str], interval: float | None) -> None:
    assert Notifier.from_environment(environ).watchdog_interval == interval
