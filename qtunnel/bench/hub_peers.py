"""Many peers of a hub in one process: their rekeying cores and their WireGuard on real sockets, without a TUN.

Run as ``python -m qtunnel.bench.hub_peers DIRECTORY FIRST COUNT HUB PORT KME``; KME is an address of the KME, or ``-``
for peers without QKD. Standard input takes one command a line, and ends the process with its end:

- ``begin``: all peers start at once, as after a power cut.
- ``round SECONDS``: each peer rekeys once, spread evenly over that time.
- ``report``: one JSON object on standard output, see ``Report``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from qtunnel.bench.hub_tunnel import RECEIVED_AT_ONCE, PeerTunnel
from qtunnel.bench.processes import stand_back
from qtunnel.drivers.etsi014 import Options, PeerOptions
from qtunnel.drivers.registry import find
from qtunnel.errors import KeySourceError
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity, PublicIdentity
from qtunnel.keys.source import KeySource
from qtunnel.rekey.agenda import Agenda
from qtunnel.rekey.model import Effect, FetchById, Fetched, FetchNew, Install, Memory, Notice, Now, PeerSettings, Send
from qtunnel.rekey.node import RekeyNode
from qtunnel.terms import Policy, QkdPolicy

HUB = "hub"
SOURCE = "kme"
HUB_SAE, FAR_SAE = "sae-hub", "sae-far"
INTERVAL = 3600.0
"""Seconds between rekeys by schedule: longer than any run, which says itself when it wants one."""

MAX_AGE = 2 * INTERVAL
CALLS = 32
"""Calls of this process to the KME at once: what is measured is the hub, not how the KME takes a thousand at a time."""


PRIORITY = 10
"""Steps of nice(1) that these processes stand back: in earnest each peer has a machine of its own, and here all of them
share the hub's two processors."""


def name_of(number: int) -> str:
    """Of a peer, and of its files."""
    return f"peer-{number:04}"


def address_of(number: int) -> str:
    """The outer address of a peer."""
    return f"10.98.{number // 250}.{number % 250 + 1}"


def inner_of(number: int) -> str:
    """Its address in the tunnel."""
    return f"10.77.{number // 250 + 1}.{number % 250 + 1}"


@dataclass(slots=True)
class Report:
    """What became of this process's peers since the last report.

    least: rekeys of the peer that has the fewest, since the start. done, failed: rekeys, failures by their reason.
    newest: monotonic seconds of the newest success. seconds: that each successful rekey took. sent: messages;
    datagrams: of them, repetitions included.
    """

    least: int = 0
    newest: float = 0.0
    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    datagrams: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {its.name: getattr(self, its.name) for its in fields(self)}


class Peer:
    """One peer: a core, a socket and a tunnel."""

    def __init__(self, directory: Path, number: int, public: PublicIdentity, hub: tuple[str, int]) -> None:
        self.name = name_of(number)
        identity = Identity.load(directory / f"{self.name}.identity")
        self.node = RekeyNode(identity, os.urandom)
        self.tunnel = PeerTunnel(identity, public, address_of(number), hub[0])
        self.done = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind((address_of(number), hub[1]))
        self.socket.connect(hub)


class Peers:
    """All peers of this process."""

    def __init__(self, directory: Path, first: int, count: int, hub: tuple[str, int], kme: str | None) -> None:
        self._source: KeySource | None = None
        if kme is not None:
            pki = directory / "pki"
            options = Options(
                url=f"https://{kme}:8443", sae_id=FAR_SAE, ca=pki / "ca.pem", certificate=pki / f"{FAR_SAE}.pem",
                private_key=pki / f"{FAR_SAE}.key", timeout="20s",
            )  # fmt: skip
            self._source = find("etsi014").open(SOURCE, options).for_peer(PeerOptions(peer_sae_id=HUB_SAE))
        self._calls = asyncio.Semaphore(CALLS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._agenda = Agenda()
        self._report = Report()
        public = PublicIdentity.load(directory / f"{HUB}.public")
        self._settings = PeerSettings(
            HUB, public, SUITES[1],
            Policy(QkdPolicy.OFF if kme is None else QkdPolicy.REQUIRED), INTERVAL, 0.0, MAX_AGE,
            sources=() if kme is None else (SOURCE,),
        )  # fmt: skip
        self._peers = {name_of(number): Peer(directory, number, public, hub) for number in range(first, first + count)}
        for peer in self._peers.values():
            self._loop.add_reader(peer.socket, self._receive, peer)

    def begin(self) -> None:
        for peer in self._peers.values():
            peer.node.add_peer(self._settings, Memory(), _now())
            self._flush(peer)
        self._tick()

    def round(self, seconds: float) -> None:
        for index, peer in enumerate(self._peers.values()):
            self._loop.call_later(seconds * index / len(self._peers), self._rekey, peer)

    def report(self) -> Report:
        report, self._report = self._report, Report(newest=self._report.newest)
        report.least = min(peer.done for peer in self._peers.values())
        return report

    def _rekey(self, peer: Peer) -> None:
        peer.node.rekey_now(HUB, _now())
        self._flush(peer)

    def _receive(self, peer: Peer) -> None:
        for _ in range(RECEIVED_AT_ONCE):
            try:
                datagram = peer.socket.recv(2048)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error: the hub is not there yet
            peer.node.receive(datagram, HUB, _now())
        self._flush(peer)

    def _tick(self) -> None:
        """Everything that is due, and a timer for what comes next."""
        for name in self._agenda.due(time.monotonic()):
            self._peers[name].node.tick(_now())
            self._flush(self._peers[name], again=False)
        self._wake()

    def _wake(self) -> None:
        first = self._agenda.first
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if first is None else self._loop.call_at(first, self._tick)

    def _flush(self, peer: Peer, *, again: bool = True) -> None:
        for effect in peer.node.take_effects():
            self._carry_out(peer, effect)
        before = self._agenda.first
        self._agenda.plan(peer.name, peer.node.deadline)
        if again and self._agenda.first != before:
            self._wake()

    def _carry_out(self, peer: Peer, effect: Effect) -> None:
        match effect:
            case Send():
                for datagram in effect.datagrams:
                    self._report.datagrams += 1
                    with contextlib.suppress(OSError):
                        peer.socket.send(datagram)
            case Install():
                peer.tunnel.install(effect)
            case FetchNew() | FetchById():
                task = self._loop.create_task(self._fetch(peer, effect))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Notice("hub", "rekey.done", told):
                peer.done += 1
                self._report.done += 1
                self._report.seconds.append(float(str(told["seconds"])))
                self._report.newest = time.monotonic()
            case Notice("hub", "rekey.failed", told):
                self._report.failed[f"{told['reason']}: {told['detail']}"] += 1

    async def _fetch(self, peer: Peer, request: FetchNew | FetchById) -> None:
        assert self._source is not None
        try:
            async with self._calls:
                if isinstance(request, FetchNew):
                    keys = [await self._source.get_key(request.size)]
                else:
                    keys = [(ref, await self._source.get_key_by_id(ref)) for ref in request.refs]
            result = Fetched(tuple(keys))
        except KeySourceError as error:
            result = Fetched((), ((SOURCE, str(error)),))
        peer.node.fetched(request.peer, request.ticket, result, _now())
        self._flush(peer)


def _now() -> Now:
    return Now(time.monotonic(), time.time_ns())


async def _serve(peers: Peers, lines: asyncio.StreamReader) -> None:
    commands: dict[str, Callable[..., None]] = {
        "begin": peers.begin,
        "round": lambda seconds: peers.round(float(seconds)),
        "report": lambda: print(json.dumps(peers.report().as_dict()), flush=True),
    }
    while line := await lines.readline():
        command, *arguments = line.decode().split()
        commands[command](*arguments)


async def _main(directory: str, first: str, count: str, hub: str, port: str, kme: str) -> None:
    stand_back(PRIORITY)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    peers = Peers(Path(directory), int(first), int(count), (hub, int(port)), None if kme == "-" else kme)
    print("ready", flush=True)
    await _serve(peers, lines)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
