"""What a flood of the handshake's port does to a running tunnel and its rekeys.

Both gateways are real: ``qtunnel run`` with the engine and a KME. The flood has forged addresses, and the public
identity of its target. Rekeys are begun at either end in turns.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qtunnel import __version__
from qtunnel.bench import flood_source, processes, tools
from qtunnel.bench.flood_site import INNER, PORT, TARGET, Site
from qtunnel.bench.link import ADDRESS, ENDS
from qtunnel.bench.machine import machine
from qtunnel.bench.options import FloodOptions
from qtunnel.bench.program import POLL, START_BOUND, Program
from qtunnel.control.client import ControlClient
from qtunnel.errors import BenchError, ControlError, SandboxError
from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.sandbox import pinger
from qtunnel.sandbox.programs import iperf_received

Say = Callable[[str], None]

CONTACT_BOUND = 45.0
"""Seconds for a first epoch beside a flood: an attempt and a half. It takes luck, where the flood is more than the
processor can look at."""
REKEY_BOUND = 60.0
SLACK = 30.0
MESSAGES = 1024
"""Different forged first messages; three datagrams each."""
FIRST_MESSAGE = 3294
"""Bytes: the shortest of suite 1 (docs/protocol.md, section 4.3)."""
ETH_P_IP = 0x0800
SO_ATTACH_FILTER = 26
FIRST_MESSAGES = (
    (0x30, 0, 0, 9), (0x15, 0, 5, socket.IPPROTO_UDP), (0x28, 0, 0, 22), (0x15, 0, 3, PORT),
    (0x30, 0, 0, 28), (0x15, 0, 1, MessageType.INIT), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0),
)  # fmt: skip
"""Classic BPF over the IPv4 header: UDP, the handshake's port, its first message; the tunnel's own datagrams would push
everything else out."""
PING_INTERVAL = 0.02


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was measured beside one kind of flood, or none.

    flood: datagrams a second that were sent. gbps: through the tunnel. rekeys: seconds of each that succeeded. failed:
    words of those that did not. echoes: sent and answered. key_calls: of the KME. cpu: the daemon's processor time, in
    percent of a core, at the flood's target. memory: its resident bytes at the end.
    """

    kind: str
    flood: float
    gbps: float
    rekeys: list[float]
    failed: list[str]
    echoes: tuple[int, int]
    key_calls: tuple[int, int]
    cpu: float
    memory: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ranked = sorted(self.rekeys) or [0.0]
        return {
            "flood": self.kind,
            "flood_pps": round(self.flood),
            "gbps": round(self.gbps, 3),
            "rekeys": len(self.rekeys),
            "failed": self.failed,
            "rekey_p50_ms": round(statistics.median(ranked) * 1000, 1),
            "rekey_max_ms": round(ranked[-1] * 1000, 1),
            "echoes_sent": self.echoes[0],
            "echoes_answered": self.echoes[1],
            "key_calls": list(self.key_calls),
            "daemon_cpu_percent": round(self.cpu, 1),
            "daemon_memory_mb": round(self.memory / 1e6, 1),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run. contact: seconds until bob, whose address alice did not know, had its first epoch, beside a flood
    with valid mac1; None where it had not within ``CONTACT_BOUND``."""

    options: FloodOptions
    began: datetime
    contact: float | None
    stretches: list[Stretch]
    peak_memory: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bench": "flood",
            "began": self.began.isoformat(timespec="seconds"),
            "ours": f"qtunnel {__version__}",
            "rate_pps": self.options.rate,
            "seconds": self.options.seconds,
            "first_contact_s": None if self.contact is None else round(self.contact, 2),
            "stretches": [stretch.as_dict() for stretch in self.stretches],
            "daemon_peak_memory_mb": round(self.peak_memory / 1e6, 1),
            **machine(),
        }


def flood(options: FloodOptions, say: Say) -> Outcome:
    """Run it in the sandbox; raises ``BenchError`` where a program ends or the tunnel never comes up."""
    began = datetime.now(UTC)
    run = _Run(Site(tools.directory()), options)
    with contextlib.ExitStack() as stack:
        kme = stack.enter_context(run.program(TARGET, "kme", "kme", "serve", "kme.yaml"))
        kme.until("kme.ready")
        alice = stack.enter_context(run.program(TARGET, "alice", "run", "--config", "alice.yaml"))
        alice.until("daemon.ready")
        with run.flooding("mac1", CONTACT_BOUND + SLACK):
            time.sleep(1.0)  # under load by now
            say("flooded with valid mac1, alice gets a peer whose address it does not know")
            start = time.monotonic()
            bob = stack.enter_context(run.program("bob", "bob", "run", "--config", "bob.yaml"))
            contact = time.monotonic() - start if bob.says("epoch.in-force", CONTACT_BOUND) else None
        say("it did not get through" if contact is None else f"it is up {contact:.1f} s after its start")
        run.await_both()
        daemon = min(processes.with_argument("alice.yaml"))
        stretches = []
        with run.recording() as recorded:
            for kind in ("none", *options.kinds):
                if kind == "replay":
                    run.prepare(kind, recorded())
                stretch = run.measure(kind, kme, daemon)
                stretches.append(stretch)
                say(f"{kind}: {_words(stretch)}")
        peak = processes.peak_memory(daemon)
        for program in (bob, alice):
            program.stop()
    return Outcome(options, began, contact, stretches, peak)


def _words(stretch: Stretch) -> str:
    told = stretch.as_dict()
    lost = stretch.echoes[0] - stretch.echoes[1]
    return (
        f"{told['flood_pps']:,} datagrams/s; {told['gbps']} Gbit/s; {told['rekeys']} rekeys, {len(stretch.failed)} "
        f"failed, median {told['rekey_p50_ms']:g} ms, longest {told['rekey_max_ms']:g} ms; "
        f"{lost} of {stretch.echoes[0]} echoes lost; daemon {stretch.cpu:.0f} % of a core"
    )


class _Run:
    """The programs of one run."""

    def __init__(self, site: Site, options: FloodOptions) -> None:
        self._site, self._options = site, options
        key = mac1_key(site.identities[TARGET].public.id)
        forged = [
            datagram
            for _ in range(MESSAGES)
            for datagram in cut(Message(MessageType.INIT, 1, os.urandom(16), os.urandom(FIRST_MESSAGE)), key)
        ]
        self.prepare("mac1", forged)
        self.prepare("shape", [one[:-32] + os.urandom(16) + one[-16:] for one in forged])
        self.prepare("garbage", [os.urandom(64 + number) for number in range(1200)])

    def _file(self, kind: str) -> Path:
        return self._site.directory / f"flood-{kind}"

    def prepare(self, kind: str, datagrams: list[bytes]) -> None:
        """What a flood of that kind consists of."""
        if not datagrams:
            raise BenchError("no first message was seen that could be sent again")
        self._file(kind).write_bytes(b"".join(flood_source.LENGTH.pack(len(one)) + one for one in datagrams))

    def program(self, end: str, name: str, *arguments: str) -> Program:
        return Program(self._site.networks[end], self._site.directory, name, *arguments)

    @contextmanager
    def flooding(self, kind: str, seconds: float) -> Iterator[Callable[[], float]]:
        """A flood; yields what ends it and tells its rate. Nothing for the kind ``none``."""
        if kind == "none":
            yield lambda: 0.0
            return
        arguments = [ADDRESS[TARGET], PORT, self._options.rate, seconds, self._file("mac1" if kind == "peer" else kind)]
        arguments += [ADDRESS["bob"]] if kind == "peer" else []
        command = [sys.executable, "-I", "-S", str(flood_source.__file__), *map(str, arguments)]
        with tools.spawned(self._site.outside, command, "the flood") as process:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise BenchError(f"the flood did not begin: {process.communicate()[1].decode().strip()}")

            def end() -> float:
                process.send_signal(signal.SIGTERM)
                output, errors = process.communicate(timeout=SLACK)
                try:
                    told = json.loads(output.splitlines()[-1])
                except (ValueError, IndexError):
                    raise BenchError(f"the flood gave no report: {errors.decode().strip()}") from None
                return float(told["sent"] / told["seconds"])

            yield end

    @contextmanager
    def recording(self) -> Iterator[Callable[[], list[bytes]]]:
        """First messages on their way to the target, as somebody on the path sees them."""
        with (
            self._site.networks[TARGET].entered(),
            socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP)) as sock,
        ):
            code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in FIRST_MESSAGES))
            program = struct.pack("HP", len(FIRST_MESSAGES), ctypes.addressof(code))
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
            sock.bind(("wan", ETH_P_IP))
            sock.setblocking(False)

            def seen() -> list[bytes]:
                found = []
                with contextlib.suppress(BlockingIOError):
                    while True:
                        found.append(sock.recv(2048)[28:])
                return found

            yield seen

    def client(self, end: str) -> ControlClient:
        return ControlClient(self._site.directory / f"{end}.sock")

    def await_both(self) -> None:
        """Until both ends say that their peer is protected."""
        limit = time.monotonic() + START_BOUND
        while not all(peer.protected for end in ENDS for peer in self.client(end).status().peers):
            if time.monotonic() > limit:
                raise BenchError(f"the tunnel is not up after {START_BOUND:g} s")
            time.sleep(POLL)

    def measure(self, kind: str, kme: Program, daemon: int) -> Stretch:
        """One stretch: a TCP flow, echoes, and rekeys one after the other, beside a flood of that kind."""
        options = self._options
        calls, spent, began = _key_calls(kme), processes.cpu_seconds(daemon), time.monotonic()
        with self.flooding(kind, options.seconds + SLACK) as end_flood, self._echoes() as end_echoes:
            with self._transfer() as end_transfer:
                done, failed = self._rekeys(options.seconds)
                cpu = 100 * (processes.cpu_seconds(daemon) - spent) / (time.monotonic() - began)
                gbps = end_transfer()
            echoes = end_echoes()
            rate = end_flood()
        now = _key_calls(kme)
        used = now[0] - calls[0], now[1] - calls[1]
        return Stretch(kind, rate, gbps, done, failed, echoes, used, cpu, processes.memory(daemon))

    def _rekeys(self, seconds: float) -> tuple[list[float], list[str]]:
        """As many as the time allows, at alice and at bob in turns; at least one at each."""
        done, failed, limit, number = list[float](), list[str](), time.monotonic() + seconds, 0
        while number < len(ENDS) or time.monotonic() < limit:
            end, peer = ENDS[number % 2], ENDS[1 - number % 2]
            start = time.monotonic()
            try:
                outcome = self.client(end).rekey(peer, REKEY_BOUND)
                (done.append(outcome.duration_ms / 1000) if outcome.ok else failed.append(str(outcome.error)))
            except ControlError as error:
                failed.append(str(error))
            number += 1
            time.sleep(max(0.0, min(limit, start + self._options.interval) - time.monotonic()))
        return done, failed

    @contextmanager
    def _echoes(self) -> Iterator[Callable[[], tuple[int, int]]]:
        command = [sys.executable, "-I", "-S", str(pinger.__file__), INNER["bob"], str(PING_INTERVAL)]
        with tools.spawned(self._site.networks["alice"], command, "the pinger") as process:

            def end() -> tuple[int, int]:
                output, _ = process.communicate(timeout=SLACK)
                report = json.loads(output.splitlines()[-1])
                return int(report["sent"]), int(report["answered"])

            yield end

    @contextmanager
    def _transfer(self) -> Iterator[Callable[[], float]]:
        options = self._options
        listen = ["iperf3", "--server", "--one-off", "--forceflush", "--bind", INNER["bob"]]
        command = [
            "iperf3", "--client", INNER["bob"], "--time", str(round(options.seconds)), "--json",
            "--connect-timeout", "5000", *(["--bitrate", f"{options.load}M"] if options.load else []),
        ]  # fmt: skip
        networks = self._site.networks
        with tools.spawned(networks["bob"], listen, "the iperf3 server") as server:
            assert server.stdout is not None
            while b"listening" not in (line := server.stdout.readline()):
                if not line:
                    raise BenchError("the iperf3 server does not listen")
            with tools.spawned(networks["alice"], command, "iperf3") as client:

                def end() -> float:
                    try:
                        return iperf_received(client.communicate(timeout=options.seconds + SLACK)[0])[1]
                    except SandboxError as error:
                        raise BenchError(str(error)) from None

                yield end


def _key_calls(kme: Program) -> tuple[int, int]:
    """Of enc_keys and dec_keys, so far."""
    text = kme.text()
    return text.count("call=enc_keys"), text.count("call=dec_keys")
