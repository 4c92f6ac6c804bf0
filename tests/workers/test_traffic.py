"""Engines with worker processes: nothing lost, nothing out of order, and what becomes of workers that end."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import Namespace, gone, stop, ticks, unique_name, wait_until
from tests.wireguard.gateways import QTUNNEL, Gateway, meet_in_records, socket_path, tcp

pytestmark = pytest.mark.root

SIZE = 20_000_000
PROCESSES = 3


@pytest.fixture
def gateways(hosts: tuple[Namespace, Namespace]) -> Iterator[tuple[Gateway, Gateway]]:
    """Each with workers, not configured yet."""
    left, right = (Gateway(host, index, options=("--processes", str(PROCESSES))) for index, host in enumerate(hosts))
    yield left, right
    for gateway in (left, right):
        if gateway.process.poll() is None:
            gateway.close()


def meet(left: Gateway, right: Gateway, suite: str = "") -> None:
    if suite:
        meet_in_records(left, right, suite)
        return
    right.meet(left)
    left.meet(right)
    left.ping(right)


def workers(gateway: Gateway) -> list[int]:
    pid = gateway.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("suite", ["", "aes-256-gcm", "chacha20-poly1305"])
def test_workers_carry_bulk_traffic(gateways: tuple[Gateway, Gateway], suite: str) -> None:
    left, right = gateways
    meet(left, right, suite)
    everyone = workers(left) + workers(right)
    assert len(everyone) == 2 * (PROCESSES - 1)
    for pid in everyone:
        status = Path(f"/proc/{pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
    before = sum(map(ticks, everyone))
    for version in (4, 6):
        tcp(left, right, version, SIZE)
        tcp(right, left, version, SIZE)
    assert sum(map(ticks, everyone)) > before
    retransmitted = left.host.run("nstat", "-asz", "TcpRetransSegs").stdout.split()[-2]
    assert int(retransmitted) < 20, "TCP saw packets out of order, or lost"
    for gateway in gateways:
        assert re.search("drops='(no-peer-for-destination=[123])?'", gateway.close())  # those of IPv6's own
    wait_until(lambda: all(map(gone, everyone)), "the end of the workers")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_traffic_goes_on_without_workers_that_end_or_hang(
    gateways: tuple[Gateway, Gateway], number: signal.Signals
) -> None:
    left, right = gateways
    meet(left, right)
    script = Path(__file__).parent.parent / "wireguard" / "tcp_transfer.py"
    server = right.host.start(sys.executable, str(script), "receive", right.inner(4), str(3 * SIZE))
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    client = left.host.start(sys.executable, str(script), "send", right.inner(4), str(3 * SIZE))
    victims = [workers(left)[0], workers(right)[0]]
    wait_until(lambda: all(ticks(pid) > 2 for pid in victims), "work")
    for pid in victims:
        os.kill(pid, number)
    assert server.communicate(timeout=60)[0] == "complete\n"
    stop(client)
    wait_until(lambda: all(map(gone, victims)), "the end of stuck workers")
    assert len(workers(left)) == len(workers(right)) == PROCESSES - 2
    for gateway in gateways:  # the descriptor that a lost worker had may be a client's now
        assert gateway.get("public_key")
    before = ticks(left.process.pid)
    time.sleep(1)
    assert ticks(left.process.pid) - before < os.sysconf("SC_CLK_TCK") // 2
    tcp(left, right, 4, SIZE // 4)
    for gateway in gateways:
        assert "1 left" in gateway.close()


def test_workers_end_with_an_engine_that_is_killed(gateways: tuple[Gateway, Gateway]) -> None:
    left, _ = gateways
    pids = workers(left)
    left.process.kill()
    left.process.wait(10)
    wait_until(lambda: all(map(gone, pids)), "the end of the workers")


def test_ctrl_c_is_for_the_engine(gateways: tuple[Gateway, Gateway]) -> None:
    """A terminal sends it to the whole group: the engine ends them in its own time."""
    left, right = gateways
    meet(left, right)
    for pid in workers(left):
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    tcp(left, right, 4, SIZE // 4)
    assert len(workers(left)) == PROCESSES - 1


def test_without_offload_there_are_no_workers(hosts: tuple[Namespace, Namespace]) -> None:
    gateway = Gateway(hosts[0], 0, options=("--processes", "2", "--offload", "off"))
    assert not workers(gateway)
    assert "no worker processes: without segmentation offload" in gateway.close()


@pytest.mark.parametrize("side", [0, 1])
def test_with_wireguard_go(hosts: tuple[Namespace, Namespace], side: int) -> None:
    options = ("--processes", "2")
    programs = ["qtunnel", "wireguard-go"] if side == 0 else ["wireguard-go", "qtunnel"]
    left, right = (
        Gateway(host, index, program=program, options=options)
        for index, (host, program) in enumerate(zip(hosts, programs, strict=True))
    )
    meet(left, right)
    tcp(left, right, 4, SIZE // 2)
    tcp(right, left, 6, SIZE // 2)
    left.close()
    right.close()


def test_in_the_background(hosts: tuple[Namespace, Namespace]) -> None:
    """The command returns, though its output is waited for, and all ends with the socket."""
    name = unique_name("qw")
    hosts[0].run(*QTUNNEL, "wg", "--processes", str(PROCESSES), name)
    found = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if name.encode() in path.read_bytes().split(b"\0")
    ]
    assert len(found) == PROCESSES
    socket_path(name).unlink()
    wait_until(lambda: all(map(gone, found)), "the end of all")


def test_it_ends_while_a_worker_is_stopped(gateways: tuple[Gateway, Gateway]) -> None:
    left, _ = gateways
    pids = workers(left)
    os.kill(pids[0], signal.SIGSTOP)
    left.process.terminate()
    assert left.process.wait(10) == 0
    wait_until(lambda: all(map(gone, pids)), "the end of the workers")
