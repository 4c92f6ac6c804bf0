"""A hub with many peers: how long until all are up, and what its daemon costs while they rekey.

The hub is a real ``qtunnel run`` with the engine and the KME it has in earnest; the peers are rekeying cores in
processes of their own, with sockets, KME calls and a WireGuard, but without a TUN.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qtunnel import __version__
from qtunnel.bench import hub_site, processes, tools
from qtunnel.bench.hub_site import HUB_ADDRESS, INTERFACE, PORT
from qtunnel.bench.machine import machine
from qtunnel.bench.options import HubOptions
from qtunnel.bench.program import POLL, START_BOUND, TAIL, Program
from qtunnel.control.client import ControlClient
from qtunnel.errors import BenchError
from qtunnel.sandbox.namespaces import Network
from qtunnel.sandbox.programs import qtunnel_command

PEERS_PER_PROCESS = 250
UP_BOUND = 120.0
"""Seconds for all peers to be up, or for the last ones of a round."""

SETTLE, SETTLE_PER_PEER = 5.0, 1 / 64
"""Seconds after all are up that count for nothing: the daemon goes on looking at the routes that it has made, 64 a
second."""

PROGRAMS = {"daemon": "hub.yaml", "engine": INTERFACE, "kme": "kme.yaml"}
"""By what stands in their command lines."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a stretch of time cost and brought.

    cpu: percent of one core, by program. seconds: of each rekey, as its peer saw it.
    """

    elapsed: float
    cpu: dict[str, float]
    done: int
    failed: Counter[str]
    seconds: list[float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ranked = sorted(self.seconds) or [0.0]
        return {
            "seconds": round(self.elapsed, 2),
            "cpu_percent": {name: round(share, 2) for name, share in self.cpu.items()},
            "rekeys": self.done,
            "failed": dict(self.failed),
            "rekey_p50_ms": round(ranked[len(ranked) // 2] * 1000, 1),
            "rekey_p99_ms": round(ranked[len(ranked) * 99 // 100] * 1000, 1),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run.

    check: seconds of ``qtunnel check``; ready, up: seconds from the daemon's start to its being ready and to the last
    peer's first epoch. memory: bytes, (now, peak) by program. status: seconds that a status takes.
    """

    options: HubOptions
    began: datetime
    check: float
    ready: float
    up: float
    start: Stretch
    idle: Stretch
    round: Stretch
    memory: dict[str, tuple[int, int]]
    status: float
    key_calls: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bench": "hub",
            "began": self.began.isoformat(timespec="seconds"),
            "ours": f"qtunnel {__version__}",
            "peers": self.options.peers,
            "qkd": self.options.qkd,
            "check_s": round(self.check, 2),
            "ready_s": round(self.ready, 2),
            "up_s": round(self.up, 2),
            "start": self.start.as_dict(),
            "idle": self.idle.as_dict(),
            "round": self.round.as_dict(),
            "memory_mb": {name: round(now / 1e6, 1) for name, (now, _) in self.memory.items()},
            "peak_memory_mb": {name: round(peak / 1e6, 1) for name, (_, peak) in self.memory.items()},
            "status_s": round(self.status, 2),
            "key_calls_of_hub": self.key_calls,
            **machine(),
        }


def hub(options: HubOptions, say: Say) -> Outcome:
    """Run it in the sandbox; raises ``BenchError`` where a program ends or a peer does not come up."""
    began = datetime.now(UTC)
    directory = tools.directory()
    hub_site.write_files(directory, options)
    networks = hub_site.make_networks()
    say(f"a hub and {options.peers} peers are made")
    check = _timed(lambda: _run(networks["hub"], directory, "check", "hub.yaml"))
    with contextlib.ExitStack() as stack:
        if options.qkd:
            kme = stack.enter_context(Program(networks["hub"], directory, "kme", "kme", "serve", "kme.yaml"))
            kme.until("kme.ready")
        peers = [
            stack.enter_context(_Peers(networks["far"], directory, first, options))
            for first in range(0, options.peers, PEERS_PER_PROCESS)
        ]
        for process in peers:
            process.await_ready()
        say(f"qtunnel check takes {check:.1f} s; starting the hub")
        start = time.monotonic()
        daemon = stack.enter_context(Program(networks["hub"], directory, "daemon", "run", "--config", "hub.yaml"))
        daemon.until("daemon.ready")
        ready = time.monotonic() - start
        say(f"ready after {ready:.1f} s; all peers begin")
        watch = _Watch(peers, daemon, options.qkd)
        for process in peers:
            process.tell("begin")
        watch.until_done(1)
        up = watch.newest - start
        first = watch.stretch()
        say(f"all {options.peers} peers are up {up:.1f} s after the hub's start")
        time.sleep(SETTLE + SETTLE_PER_PEER * options.peers)
        watch.stretch()
        time.sleep(options.idle)
        idle = watch.stretch()
        say(f"idle: {_words(idle)}")
        for process in peers:
            process.tell(f"round {options.round}")
        time.sleep(options.round)
        watch.until_done(2)
        whole = watch.stretch()
        say(f"{whole.done} rekeys in {whole.elapsed:.0f} s: {_words(whole)}")
        memory = {name: (processes.memory(pid), processes.peak_memory(pid)) for name, pid in watch.pids.items()}
        status = _timed(lambda: _check_status(directory, options))
        daemon.stop()
    calls = kme.text().count("call=dec_keys") if options.qkd else 0
    return Outcome(options, began, check, ready, up, first, idle, whole, memory, status, calls)


def _words(stretch: Stretch) -> str:
    shares = ", ".join(f"{name} {share:.1f} %" for name, share in stretch.cpu.items())
    return f"{shares} of a core"


def _timed(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def _run(network: Network, directory: Path, *arguments: str) -> None:
    with network.entered():
        done = subprocess.run(
            qtunnel_command(*arguments), cwd=directory, capture_output=True, text=True, timeout=START_BOUND
        )
    if done.returncode != 0:
        raise BenchError(f"qtunnel {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")


def _check_status(directory: Path, options: HubOptions) -> None:
    """What the hub itself says: every peer has the second epoch, or a later one, in its engine."""
    told = ControlClient(directory / "hub.sock").status()
    behind = [peer.name for peer in told.peers if (peer.epoch_installed or 0) < 2]
    if len(told.peers) != options.peers or behind:
        raise BenchError(f"the hub's status has {len(told.peers)} peers, {len(behind)} of them not at epoch 2")


class _Watch:
    """Looks at what the peers report and at what the hub's programs cost."""

    def __init__(self, peers: list[_Peers], daemon: Program, qkd: bool) -> None:
        self._peers, self._daemon = peers, daemon
        self.pids: dict[str, int] = {}
        for name, word in PROGRAMS.items():
            if name != "kme" or qkd:
                self.pids[name] = min(processes.with_argument(word))
        self.newest = 0.0
        self._seen: list[dict[str, Any]] = []
        self._since, self._spent = time.monotonic(), self._cpu()

    def _cpu(self) -> dict[str, float]:
        return {name: processes.cpu_seconds(pid) for name, pid in self.pids.items()}

    def _look(self) -> int:
        """Collect the reports; how many rekeys the peer has that has the fewest."""
        reports = [process.report() for process in self._peers]
        self._seen += reports
        self.newest = max(report["newest"] for report in reports)
        return int(min(report["least"] for report in reports))

    def until_done(self, rekeys: int) -> None:
        """Until every peer has rekeyed so often."""
        limit = time.monotonic() + UP_BOUND
        while self._look() < rekeys:
            self._daemon.check()
            if time.monotonic() > limit:
                failed = sum((Counter(report["failed"]) for report in self._seen), Counter[str]())
                words = "; ".join(f"{number} times {reason}" for reason, number in failed.most_common(3))
                raise BenchError(f"not all peers are up after {UP_BOUND:g} s ({words or 'no failure was told'})")
            time.sleep(POLL)

    def stretch(self) -> Stretch:
        """What was since the last call."""
        self._look()
        seen, self._seen = self._seen, []
        since, self._since = self._since, time.monotonic()
        spent, self._spent = self._spent, self._cpu()
        elapsed = self._since - since
        return Stretch(
            elapsed,
            {name: 100 * (self._spent[name] - before) / elapsed for name, before in spent.items()},
            sum(report["done"] for report in seen),
            sum((Counter(report["failed"]) for report in seen), Counter[str]()),
            [seconds for report in seen for seconds in report["seconds"]],
        )


class _Peers:
    """A process with some of the peers."""

    def __init__(self, network: Network, directory: Path, first: int, options: HubOptions) -> None:
        count = min(PEERS_PER_PROCESS, options.peers - first)
        arguments = (directory, first, count, HUB_ADDRESS, PORT, HUB_ADDRESS if options.qkd else "-")
        command = [sys.executable, "-m", "qtunnel.bench.hub_peers", *map(str, arguments)]
        self._stack = contextlib.ExitStack()
        self._process = self._stack.enter_context(tools.spawned(network, command, "the peers"))

    def __enter__(self) -> _Peers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line: bytes = self._process.stdout.readline()
        if not line:
            words = self._process.communicate()[1].decode(errors="replace").strip()
            raise BenchError(f"a process with peers ended: {' | '.join(words.splitlines()[-TAIL:])}")
        return line

    def await_ready(self) -> None:
        self._line()

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()

    def report(self) -> dict[str, Any]:
        self.tell("report")
        report: dict[str, Any] = json.loads(self._line())
        return report
