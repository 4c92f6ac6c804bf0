"""A pair of engines with a tunnel between them, one in each network of the link."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from qtunnel.bench import processes
from qtunnel.bench.link import ADDRESS, ENDS, Link
from qtunnel.bench.options import STANDARD, Mode, Suite
from qtunnel.constants import UAPI_DIRECTORY
from qtunnel.crypto.dh import KEY_SIZE, public_key
from qtunnel.engines.device import Device, Line
from qtunnel.engines.programs import OWN, Program, find
from qtunnel.engines.uapi_client import UapiClient
from qtunnel.errors import BenchError, EngineError
from qtunnel.sandbox.namespaces import Network
from qtunnel.sandbox.programs import call
from qtunnel.secret import Secret

PORT = 51820
MTU = 1420
"""What WireGuard has by default: 1500 less the 80 bytes that it adds with IPv6 outside."""

INNER = {"alice": "10.77.0.1", "bob": "10.77.0.2"}

START_BOUND = 15.0
"""Seconds for the UAPI socket to answer; an engine in Python needs 0.3 s, one in Go 0.05 s."""

STOP_BOUND = 8.0
"""Seconds from SIGTERM to SIGKILL."""

UP_BOUND = 15.0
"""Seconds for the first echo: a handshake takes milliseconds, two repetitions of a lost one 5 s each."""

POLL = 0.02
TAIL = 4
"""Lines of an engine's output that an error repeats."""


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine in the race. prefix: of its interfaces' names. records: the suite of record mode, if it is on."""

    name: str
    program: Program
    prefix: str
    records: Suite | None = None


def ours(mode: Mode, suite: Suite, processes: int = 1) -> Contender:
    """This qtunnel's own engine."""
    return Contender("ours", find(OWN).with_processes(processes), "qa", suite if mode == "record" else None)


def rival(program: str) -> Contender:
    """This qtunnel in standard mode, or a program that is started as ``PROGRAM INTERFACE`` and serves the UAPI socket.

    The environment keeps wireguard-go in the foreground and quiet; others go into the background as they like.
    """
    if program == STANDARD:
        return Contender("rival", find(OWN), "ra")
    path = shutil.which(program)
    assert path is not None, "checked with the options"
    environment = {"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error", "WG_LOG_LEVEL": "error", "WG_SUDO": "true"}
    name = os.path.basename(path)
    return Contender("rival", Program(name, path, lambda interface: [interface], environment), "ra")


@dataclass(slots=True)
class Engine:
    """One end of a pair."""

    contender: Contender
    end: str
    network: Network
    directory: Path
    _process: subprocess.Popen[bytes] | None = None

    @property
    def interface(self) -> str:
        return f"{self.contender.prefix}-{self.end}"

    @property
    def _socket(self) -> Path:
        return Path(UAPI_DIRECTORY) / f"{self.interface}.sock"

    @property
    def _log(self) -> Path:
        return self.directory / f"{self.interface}.log"

    def start(self) -> None:
        """Until it answers. Raises ``BenchError`` with its last words where it does not."""
        program = self.contender.program
        Path(UAPI_DIRECTORY).mkdir(mode=0o700, exist_ok=True)
        with self.network.entered(), self._log.open("wb") as log:
            self._process = subprocess.Popen(
                program.command(self.interface),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=program.full_environment(),
                start_new_session=True,  # Ctrl-C is for the benchmark
            )  # fmt: skip
        limit = time.monotonic() + START_BOUND
        while not self._answers():
            if self._process.poll():
                raise BenchError(f"{self} ended with exit code {self._process.returncode}{self._last_words()}")
            if time.monotonic() > limit:
                raise BenchError(f"{self} did not serve {self._socket} within {START_BOUND:g} s{self._last_words()}")
            time.sleep(POLL)
        self.check()

    def __str__(self) -> str:
        return f"{self.contender.program.name} at {self.end}"

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._socket))
            except OSError:
                return False
        return True

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return "; its last words: " + " | ".join(lines[-TAIL:]) if lines else ""

    def check(self) -> list[int]:
        """Its processes, as the machine outside sees them; raises ``BenchError`` where there is none any more.

        Found by the interface in their command line, as a program may go into the background or start helpers.
        """
        assert self._process is not None
        failed = self._process.poll()  # one that goes into the background ends with 0
        pids = processes.with_argument(self.interface)
        if failed or not pids:
            raise BenchError(f"{self} ended in the middle of a measurement{self._last_words()}")
        return pids

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        return sum(map(processes.cpu_seconds, self.check()))

    def peak_memory(self) -> int:
        """The most bytes that were resident."""
        return sum(map(processes.peak_memory, self.check()))

    def set(self, lines: list[Line]) -> None:
        """One UAPI ``set`` operation; raises ``EngineError`` where it is refused."""
        asyncio.run(UapiClient(self.interface, str(self._socket)).set(lines))

    def get(self) -> Device:
        """Its device and peers."""
        return asyncio.run(UapiClient(self.interface, str(self._socket)).get())

    def queue_drops(self) -> int:
        """Packets that the kernel dropped so far, as the queue of the TUN was full: the engine did not read them."""
        with self.network.entered():
            statistics = json.loads(call("ip", "-json", "-stats", "link", "show", "dev", self.interface))
        return int(statistics[0]["stats64"]["tx"]["dropped"])

    def up(self) -> None:
        """Address, MTU and link."""
        with self.network.entered():
            call("ip", "addr", "add", f"{INNER[self.end]}/24", "dev", self.interface)
            call("ip", "link", "set", self.interface, "mtu", str(MTU), "up")

    def stop(self) -> None:
        """Ask it to end, then make it. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_BOUND)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # one in the background ends, as every userspace WireGuard does, with its interface
        with self.network.entered():
            if self.interface in {name for _, name in socket.if_nameindex()}:
                with contextlib.suppress(Exception):
                    call("ip", "link", "del", self.interface)
        self._socket.unlink(missing_ok=True)


class Pair:
    """Two engines of one kind with a tunnel between them, from entering the context to leaving it."""

    def __init__(self, contender: Contender, link: Link, directory: Path) -> None:
        self.contender = contender
        self.link = link
        self.public: dict[str, bytes] = {}
        self.engines = {end: Engine(contender, end, link.networks[end], directory) for end in ENDS}

    def __enter__(self) -> Pair:
        try:
            for engine in self.engines.values():
                engine.start()
            self._configure()
            for engine in self.engines.values():
                engine.up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        for engine in self.engines.values():
            engine.stop()

    def _configure(self) -> None:
        with _private_keys() as private, Secret.random(os.urandom, KEY_SIZE) as psk:
            self.public = {end: public_key(key) for end, key in private.items()}
            for end, far in zip(ENDS, reversed(ENDS), strict=True):
                self.engines[end].set([
                    ("private_key", private[end]),
                    ("listen_port", PORT),
                    ("public_key", self.public[far].hex()),
                    ("preshared_key", psk),
                    ("endpoint", f"{ADDRESS[far]}:{PORT}"),
                    ("replace_allowed_ips", "true"),
                    ("allowed_ip", f"{INNER[far]}/32"),
                ])  # fmt: skip
        if self.contender.records:
            for end, far in zip(ENDS, reversed(ENDS), strict=True):
                try:
                    self.engines[end].set([*_existing(self.public[far]), ("record_mode", self.contender.records)])
                except EngineError as error:
                    raise BenchError(f"this qtunnel wg has no record mode ({error})") from None

    def set_peer(self, end: str, lines: list[Line]) -> None:
        """Change what that end knows of the other."""
        far = ENDS[1 - ENDS.index(end)]
        self.engines[end].set([*_existing(self.public[far]), *lines])

    def peer_value(self, end: str, key: str) -> str | None:
        """A line of our own UAPI keys that end tells of the other."""
        far = ENDS[1 - ENDS.index(end)]
        return self.engines[end].get().peers[self.public[far]].values.get(key)

    def sent_bytes(self, end: str) -> int:
        """Bytes of WireGuard that end sent to the other so far."""
        far = ENDS[1 - ENDS.index(end)]
        return self.engines[end].get().peers[self.public[far]].tx_bytes

    def record_state(self) -> str:
        """The state of record mode, and why records are not sent where they are not; of each end, if they differ."""
        states = {}
        for end in ENDS:
            state = self.peer_value(end, "record_mode_state") or "unknown"
            reason = self.peer_value(end, "record_mode_reason")
            states[end] = f"{state} ({reason})" if reason else state
        if len(set(states.values())) == 1:
            return states[ENDS[0]]
        return ", ".join(f"{state} at {end}" for end, state in states.items())

    def check(self) -> None:
        """Raises ``BenchError`` where an engine ended."""
        for engine in self.engines.values():
            engine.check()

    def cpu_seconds(self) -> float:
        """Processor time of both ends so far."""
        return sum(engine.cpu_seconds() for engine in self.engines.values())

    def peak_memory(self) -> int:
        """Bytes that the end which needed more ever had resident."""
        return max(engine.peak_memory() for engine in self.engines.values())


def _existing(public: bytes) -> list[Line]:
    return [("public_key", public.hex()), ("update_only", "true")]


@contextmanager
def _private_keys() -> Iterator[dict[str, Secret]]:
    with contextlib.ExitStack() as stack:
        yield {end: stack.enter_context(Secret.random(os.urandom, KEY_SIZE)) for end in ENDS}
