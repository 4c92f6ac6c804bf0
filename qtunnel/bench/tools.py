"""The programs that make and take the load, in the networks of the two ends; each run has a bound."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtunnel.bench import sending, stream
from qtunnel.bench.engine import INNER, UP_BOUND, Pair
from qtunnel.errors import BenchError, SandboxError
from qtunnel.sandbox import pinger
from qtunnel.sandbox.namespaces import Network
from qtunnel.sandbox.programs import call, iperf_received

STREAM_PORT = 5300
LEAD = 0.2
"""Seconds from starting a sender to its first packet: a Python without site-packages starts in 0.02 s."""

SLACK = 30.0
"""Seconds beyond its time that a tool gets to connect and to report, on a lossy link."""

PING_INTERVAL = 0.002
PING_SAMPLES = 1000
LOAD_BEFORE = 0.5
"""Seconds for which a transfer runs before echoes are sent beside it."""


@contextmanager
def spawned(network: Network, command: list[str], what: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program in that network with pipes to it, ended with the context."""
    with network.entered():
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    try:
        yield process
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what} did not end in time") from None
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _python(file: str | None, *arguments: object) -> list[str]:
    assert file is not None
    return [sys.executable, "-I", "-S", file, *map(str, arguments)]


def _report(process: subprocess.Popen[bytes], bound: float, what: str) -> Any:
    """The last line of its output, as JSON; raises ``BenchError`` with its own words where there is none."""
    output, errors = process.communicate(timeout=bound)
    try:
        return json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        words = errors.decode(errors="replace").strip() or "nothing"
        raise BenchError(f"{what} gave no report; it said: {words}") from None


# TCP


@dataclass(frozen=True, slots=True)
class Transfer:
    """A finished TCP transfer."""

    received: int
    gbps: float


@contextmanager
def tcp_server(pair: Pair) -> Iterator[None]:
    """An iperf3 server at bob for one test."""
    listen = ["iperf3", "--server", "--one-off", "--forceflush", "--bind", INNER["bob"]]
    with spawned(pair.link.networks["bob"], listen, "the iperf3 server") as server:
        assert server.stdout is not None
        while b"listening" not in (line := server.stdout.readline()):
            if not line:
                raise BenchError("the iperf3 server does not listen")
        yield


@contextmanager
def tcp_client(pair: Pair, flows: int, seconds: float, *, back: bool) -> Iterator[subprocess.Popen[bytes]]:
    """An iperf3 client at alice; back: bob sends."""
    command = [
        "iperf3", "--client", INNER["bob"], "--time", str(round(seconds)), "--parallel", str(flows),
        "--json", "--connect-timeout", "5000", *(["--reverse"] if back else []),
    ]  # fmt: skip
    with tcp_server(pair), spawned(pair.link.networks["alice"], command, "iperf3") as client:
        yield client


def tcp(pair: Pair, flows: int, seconds: float, *, back: bool) -> Transfer:
    """A transfer through the tunnel; raises ``BenchError`` where it stalls."""
    with tcp_client(pair, flows, seconds, back=back) as client:
        output, _ = client.communicate(timeout=seconds + SLACK)
    pair.check()
    try:
        return Transfer(*iperf_received(output))
    except SandboxError as error:
        raise BenchError(f"{pair.contender.program.name}: {error}") from None


# UDP


@dataclass(frozen=True, slots=True)
class Counted:
    """A finished numbered stream. in_time: received while it was sent."""

    sent: int
    received: int
    in_time: int
    duplicates: int


@contextmanager
def udp_stream(pair: Pair, size: int, seconds: float, rate: float = 0.0) -> Iterator[UdpRun]:
    """A numbered stream from alice to bob that runs for some seconds, in the background."""
    networks = pair.link.networks
    start = time.monotonic() + LEAD
    arguments = (INNER["bob"], STREAM_PORT, size, start, start + seconds)
    with spawned(networks["bob"], _python(stream.__file__, "receive", *arguments), "the receiver") as receiver:
        assert receiver.stdout is not None
        if receiver.stdout.readline() != b"ready\n":
            _report(receiver, SLACK, "the receiver")
        command = _python(stream.__file__, "send", *arguments, rate)
        with spawned(networks["alice"], command, "the sender") as sender:
            yield UdpRun(sender, receiver, seconds)
    pair.check()


@dataclass(frozen=True, slots=True)
class UdpRun:
    """A stream under way."""

    sender: subprocess.Popen[bytes]
    receiver: subprocess.Popen[bytes]
    seconds: float

    def finish(self) -> Counted:
        """Wait for its end."""
        sent = _report(self.sender, self.seconds + SLACK, "the sender")["sent"]
        counted = _report(self.receiver, SLACK, "the receiver")
        return Counted(sent, counted["received"], counted["in_time"], counted["duplicates"])


def udp(pair: Pair, size: int, seconds: float, rate: float = 0.0) -> Counted:
    """A numbered stream, to its end."""
    with udp_stream(pair, size, seconds, rate) as run:
        return run.finish()


# One end alone


@contextmanager
def dropped_at(pair: Pair, end: str) -> Iterator[None]:
    """That end's network drops what is longer than a handshake before anybody sees it."""
    network = pair.link.networks[end]
    if not shutil.which("nft"):
        raise BenchError("to measure 'send' needs nft; install (Debian): apt-get install nftables")
    rule = "{ type filter hook ingress device wan priority 0; }"
    with network.entered():
        call("nft", "add", "table", "netdev", "bench")
        call("nft", "add", "chain", "netdev", "bench", "ingress", rule)
        call("nft", "add", "rule", "netdev", "bench", "ingress", "ip", "length", ">", str(sending.PROBE), "drop")
    try:
        yield
    finally:
        with network.entered():
            call("nft", "delete", "table", "netdev", "bench")


@contextmanager
def super_packets(pair: Pair, seconds: float) -> Iterator[None]:
    """A load of UDP super-packets from alice to bob, in the background."""
    command = _python(sending.__file__, INNER["bob"], STREAM_PORT, seconds)
    with spawned(pair.link.networks["alice"], command, "the load") as process:
        yield
        process.wait(SLACK)
        if process.returncode:
            _report(process, SLACK, "the load")
    pair.check()


# Echoes


@dataclass(frozen=True, slots=True)
class Echoes:
    """Round-trip times in milliseconds."""

    sent: int
    answered: int
    p50: float
    p99: float


@contextmanager
def _pinging(pair: Pair, interval: float) -> Iterator[subprocess.Popen[bytes]]:
    command = _python(pinger.__file__, INNER["bob"], interval)
    with spawned(pair.link.networks["alice"], command, "the pinger") as process:
        yield process


def _next(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _report(process, SLACK, "the pinger")
    report: dict[str, Any] = json.loads(line)
    return report


def await_up(pair: Pair) -> None:
    """Until an echo comes back through the tunnel; raises ``BenchError`` where none does."""
    limit = time.monotonic() + UP_BOUND
    with _pinging(pair, 0.05) as process:
        while not _next(process)["answered"]:
            pair.check()
            if time.monotonic() > limit:
                raise BenchError(f"{pair.contender.program.name}: no echo through the tunnel within {UP_BOUND:g} s")


def echoes(pair: Pair, seconds: float) -> Echoes:
    """Echoes from alice to bob and back, up to ``PING_SAMPLES`` of them."""
    samples = min(PING_SAMPLES, seconds / PING_INTERVAL)
    with _pinging(pair, PING_INTERVAL) as process:
        while _next(process)["sent"] < samples:
            pass
        report = _report(process, SLACK, "the pinger")
    pair.check()
    if not report["answered"]:
        raise BenchError(f"{pair.contender.program.name}: of {report['sent']} echoes none was answered")
    return Echoes(report["sent"], report["answered"], report["p50_ms"], report["p99_ms"])


def echoes_under_load(pair: Pair, seconds: float) -> Echoes:
    """Echoes while one TCP flow from alice to bob takes all that it gets."""
    with tcp_client(pair, 1, LOAD_BEFORE + seconds + SLACK, back=False):  # ended when the echoes are back
        time.sleep(LOAD_BEFORE)
        return echoes(pair, seconds)


def directory() -> Path:
    """Where logs go, on the sandbox's own /run."""
    place = Path("/run/qtunnel-bench")
    place.mkdir(mode=0o700, exist_ok=True)
    return place
