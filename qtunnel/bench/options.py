"""What a benchmark is asked to do, and what it refuses before it makes anything."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qtunnel.constants import MAX_PROCESSES
from qtunnel.errors import BenchError

Mode = Literal["standard", "record"]
Suite = Literal["chacha20-poly1305", "aes-256-gcm"]
Segmentation = Literal["gso", "datagrams"]

STANDARD = "standard"
"""As the rival: this qtunnel's own engine in standard mode."""

USUAL_KINDS = ("tcp1", "tcp4", "udp", "rtt", "memory")
KINDS = (*USUAL_KINDS, "send")
"""What can be measured, in the order in which it is."""

_CONGESTION = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"
"""What a network namespace may use."""

MIN_SECONDS, MAX_SECONDS = 1.0, 3600.0
MAX_ROUNDS = 1000
MAX_DELAY_MS = 1000.0
MAX_PEERS = 5000


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """The link between the two ends.

    segmentation: whether it takes super-packets (UDP GSO) or cuts them to single datagrams, as most network cards do.
    loss: percent of the datagrams, dropped at random, each way. delay_ms: added to the round trip, half of it each way.
    congestion: TCP's congestion control at both ends, by the kernel's name; empty for the machine's own.
    """

    segmentation: Segmentation = "gso"
    loss: float = 0.0
    delay_ms: float = 0.0
    congestion: str = ""

    def check(self) -> None:
        """Raises ``BenchError`` where a value makes no sense."""
        if not 0 <= self.loss < 100:
            raise BenchError(f"--loss is a percentage from 0 to below 100, not {self.loss:g}")
        if not 0 <= self.delay_ms <= MAX_DELAY_MS:
            raise BenchError(f"--delay is 0 to {MAX_DELAY_MS:g} milliseconds, not {self.delay_ms:g}")
        there = Path(_CONGESTION).read_text().split()
        if self.congestion and self.congestion not in there:
            raise BenchError(f"--congestion is one of {', '.join(there)} here, not {self.congestion}")

    @property
    def cuts(self) -> bool:
        """Whether it carries single datagrams only; random loss hits those, so loss implies it."""
        return self.segmentation == "datagrams" or self.loss > 0

    @property
    def routed(self) -> bool:
        """Whether a router stands between the ends, which drops or delays."""
        return self.loss > 0 or self.delay_ms > 0


@dataclass(frozen=True, slots=True)
class TunnelOptions:
    """``qtunnel bench tunnel``.

    against: a program, or ``STANDARD``. seconds: of one measurement. rounds: times both engines run, taking turns.
    processes: of each of our own engines. cores: that all of it may use, 0 for as many as there are.
    """

    against: str = "wireguard-go"
    mode: Mode = "standard"
    suite: Suite = "chacha20-poly1305"
    seconds: float = 5.0
    rounds: int = 3
    link: LinkOptions = LinkOptions()
    kinds: tuple[str, ...] = USUAL_KINDS
    processes: int = 1
    cores: int = 0

    @property
    def processors(self) -> int:
        """That all of it may use."""
        return self.cores or len(os.sched_getaffinity(0))

    def check(self) -> None:
        """Raises ``BenchError`` where it cannot be done."""
        self.link.check()
        _check_suite(self.mode, self.suite)
        if not MIN_SECONDS <= self.seconds <= MAX_SECONDS:
            raise BenchError(f"--seconds is {MIN_SECONDS:g} to {MAX_SECONDS:g}, not {self.seconds:g}")
        if not 1 <= self.rounds <= MAX_ROUNDS:
            raise BenchError(f"--rounds is 1 to {MAX_ROUNDS}, not {self.rounds}")
        if not 1 <= self.processes <= MAX_PROCESSES:
            raise BenchError(f"--processes is 1 to {MAX_PROCESSES}, not {self.processes}")
        there = len(os.sched_getaffinity(0))
        if not 0 <= self.cores <= there:
            raise BenchError(f"--cores is at most {there} here, not {self.cores}")
        if self.against != STANDARD and shutil.which(self.against) is None:
            raise BenchError(
                f"{self.against} is not found; install it (Debian: apt-get install wireguard-go), build it with "
                f"scripts/build-wireguard-go, or name another userspace WireGuard, or {STANDARD}, with --against"
            )


@dataclass(frozen=True, slots=True)
class RekeyOptions:
    """``qtunnel bench rekey``.

    interval: seconds between two rekeys. rate: of the stream, in packets per second; 0 for half of the capacity.
    """

    mode: Mode = "standard"
    suite: Suite = "chacha20-poly1305"
    rekeys: int = 60
    interval: float = 1.0
    rate: float = 0.0

    def check(self) -> None:
        """Raises ``BenchError`` where it cannot be done."""
        _check_suite(self.mode, self.suite)
        if not 0 <= self.rate <= 1_000_000:
            raise BenchError(f"--rate is 0 to 1000000 packets a second, not {self.rate:g}")
        if not 1 <= self.rekeys <= 1_000_000:
            raise BenchError(f"--rekeys is 1 to 1000000, not {self.rekeys}")
        if not 0.05 <= self.interval <= 3600:
            raise BenchError(f"--interval is 0.05 to 3600 seconds, not {self.interval:g}")


@dataclass(frozen=True, slots=True)
class HandshakeOptions:
    """``qtunnel bench handshake``. rekeys: of each case."""

    rekeys: int = 200

    def check(self) -> None:
        """Raises ``BenchError`` where it cannot be done."""
        if not 1 <= self.rekeys <= 100_000:
            raise BenchError(f"--rekeys is 1 to 100000, not {self.rekeys}")


@dataclass(frozen=True, slots=True)
class HubOptions:
    """``qtunnel bench hub``.

    qkd: whether every rekey takes a key of the KME. round: seconds over which one rekey with each peer is spread; idle:
    seconds without any, before it. state_dir: where the hub keeps what survives a restart; None: in memory.
    """

    peers: int = 1000
    qkd: bool = True
    round: float = 120.0
    idle: float = 15.0
    state_dir: Path | None = None

    def check(self) -> None:
        """Raises ``BenchError`` where it cannot be done."""
        if not 1 <= self.peers <= MAX_PEERS:
            raise BenchError(f"--peers is 1 to {MAX_PEERS}, not {self.peers}")
        if not MIN_SECONDS <= self.round <= MAX_SECONDS:
            raise BenchError(f"--round is {MIN_SECONDS:g} to {MAX_SECONDS:g} seconds, not {self.round:g}")
        if not MIN_SECONDS <= self.idle <= MAX_SECONDS:
            raise BenchError(f"--idle is {MIN_SECONDS:g} to {MAX_SECONDS:g} seconds, not {self.idle:g}")
        if self.state_dir is not None and not self.state_dir.is_absolute():
            raise BenchError("--state-dir is an absolute path, of a directory that is missing or empty")


def _check_suite(mode: Mode, suite: Suite) -> None:
    if mode == "standard" and suite != "chacha20-poly1305":
        raise BenchError(f"standard mode knows chacha20-poly1305 only; for {suite} add --mode record")


def parse_kinds(text: str) -> tuple[str, ...]:
    """``tcp1,udp`` in the order of ``KINDS``; raises ``BenchError`` that lists what there is."""
    wanted = {word.strip() for word in text.split(",")}
    unknown = sorted(wanted - set(KINDS))
    if unknown:
        raise BenchError(f"--only: no measurement {', '.join(map(repr, unknown))}; there are: {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in wanted)
