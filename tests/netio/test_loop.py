"""The engine's loop where reads fail, or the code itself does: that costs one packet, or one client, and no more."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qtunnel.netio.loop import FAILED_READS, Loop, clock
from qtunnel.netio.uapi_socket import bind_socket
from qtunnel.wireguard.configuration import SetOperation
from qtunnel.wireguard.state import Drop

PACKET = bytes(10) + bytes([0x45]) + bytes(39)
"""Behind its vnet header; to nobody's address."""


class Pipe:
    """In the place of a TUN: what is sent into ``end`` is read packet by packet."""

    segments = udp_segments = False

    def __init__(self) -> None:
        self._sock, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        self.fd = self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
        self.end.close()


@pytest.fixture
def tun() -> Pipe:
    return Pipe()


@pytest.fixture
def loop(tun: Any, tmp_path: Path) -> Iterator[Loop]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    made = Loop(tun, bind_socket(tmp_path, "qt0"), None, offload=False)
    yield made
    made.close()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def running(loop: Loop) -> Iterator[Loop]:
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert ask(loop, b"get=1\n\n")  # it is past its start, where a defect ends it
    yield loop
    loop.stop("the test is over")
    loop._wakeup_writer.send(b"\0")
    thread.join(timeout=20)
    assert not thread.is_alive()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What the loop has said by now that is more than information."""
    monkeypatch.setattr(logging.getLogger("qtunnel"), "propagate", True)
    caplog.set_level(logging.WARNING, "qtunnel.netio.loop")
    return lambda: caplog.messages


@pytest.fixture
def failing(tun: Pipe, monkeypatch: pytest.MonkeyPatch) -> list[OSError]:
    """Errors that the next reads of the TUN end with, each of which takes a packet away, as in the kernel."""
    errors: list[OSError] = []
    readv = os.readv

    def read(descriptor: int, buffers: Any) -> int:
        length = readv(descriptor, buffers)
        if descriptor == tun.fd and errors:
            raise errors.pop(0)
        return length

    monkeypatch.setattr(os, "readv", read)
    return errors


def waiting(loop: Loop) -> list[int]:
    return [descriptor for descriptor, _ in loop._epoll.poll(0)]


def test_a_packet_that_cannot_be_read_is_counted_and_the_next_ones_are_read(
    loop: Loop, tun: Pipe, failing: list[OSError], told: Callable[[], list[str]]
) -> None:
    failing += [OSError(errno.EINVAL, "Invalid argument"), OSError(errno.EINVAL, "Invalid argument")]
    for _ in range(4):
        tun.end.send(PACKET)
    loop._read_tun()
    assert loop._running
    assert loop._lost() == {"tun-read-EINVAL": 2, "no-peer-for-destination": 2}
    (line,) = told()
    assert "tun-read-EINVAL" in line


def test_a_tun_that_cannot_be_read_at_all_rests(
    loop: Loop, tun: Pipe, failing: list[OSError], told: Callable[[], list[str]]
) -> None:
    """Else the loop would do nothing else, with a whole core."""
    loop._link_changed()
    failing += [OSError(errno.EINVAL, "Invalid argument")] * FAILED_READS
    for _ in range(FAILED_READS + 1):
        tun.end.send(PACKET)
    assert tun.fd in waiting(loop)
    loop._read_tun()
    assert tun.fd not in waiting(loop)
    assert loop._next_look < clock() + 1
    assert loop._lost() == {"tun-read-EINVAL": FAILED_READS}
    loop._link_changed()
    assert tun.fd in waiting(loop)
    loop._read_tun()
    assert loop._lost() == {"tun-read-EINVAL": FAILED_READS, "no-peer-for-destination": 1}
    assert len(told()) == 1


@pytest.mark.parametrize("before", [0, 1])
def test_a_tun_that_went_away_ends_the_loop(loop: Loop, tun: Pipe, failing: list[OSError], before: int) -> None:
    failing += [OSError(errno.EINVAL, "")] * before + [OSError(errno.EBADFD, os.strerror(errno.EBADFD))]
    for _ in range(2):
        tun.end.send(PACKET)
    loop._read_tun()
    assert not loop._running
    assert "went away" in loop._reason


def test_another_error_of_the_network_does_not_take_the_tun_for_gone(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    monkeypatch.setattr(loop._inbound, "read", refuse)
    monkeypatch.setattr(loop._inbound, "go_on", refuse)
    with socket.socket() as sock:
        loop._read_udp(sock)
    loop._go_on()
    assert loop._running
    assert loop._device.drops[Drop.DEFECT] == 2


def ask(loop: Loop, request: bytes) -> bytes:
    """The answer of the engine, or nothing where it hangs up."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(loop._uapi.path))
        client.sendall(request)
        return client.recv(65536)


def broken(*_: object) -> Any:
    raise TypeError("what a defect raises")


def test_a_defect_in_what_a_client_asks_for_hangs_up_on_that_client(
    running: Loop, monkeypatch: pytest.MonkeyPatch, told: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(SetOperation, "_set_device", broken)
    assert ask(running, b"set=1\nlisten_port=7\n\n") == b""
    assert ask(running, b"get=1\n\n").endswith(b"errno=0\n\n")
    assert running._device.drops[Drop.DEFECT] == 1
    (line,) = told()
    assert "a defect of qtunnel: TypeError at test_loop.py:" in line
    assert "what a defect raises" not in line


@pytest.mark.parametrize("place", ["timers", "link", "readers", "datagrams"])
def test_a_defect_elsewhere_keeps_nothing_else_from_its_turn(
    running: Loop, tun: Pipe, place: str, monkeypatch: pytest.MonkeyPatch, told: Callable[[], list[str]]
) -> None:
    """Also where it is there in every turn."""
    device, tick, ticked = running._device, running._device.tick, threading.Semaphore(0)

    def count(now: float) -> None:
        tick(now)
        ticked.release()

    monkeypatch.setattr(device, "tick", broken if place == "timers" else count)
    if place == "link":
        monkeypatch.setattr(running._link, "look", broken)
        running._next_look = 0.0
    elif place == "readers":
        running._handlers[tun.fd] = broken
        tun.end.send(PACKET)
    elif place == "datagrams":
        monkeypatch.setattr(running._outbound, "post", broken)
        device.outbox.append((("10.0.0.1", 1), b"one"))
    for _ in range(3):
        assert ask(running, b"get=1\n\n").endswith(b"errno=0\n\n")
        assert place == "timers" or ticked.acquire(timeout=20)
    assert device.drops[Drop.DEFECT] > 0
    assert len(told()) == 1
    if place == "datagrams":
        assert device.outbox == []
        assert device.drops[Drop.DEFECT] == 1
