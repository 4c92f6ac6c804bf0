"""A userspace WireGuard in a process of its own, driven over its UAPI socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from qtunnel.constants import UAPI_DIRECTORY
from qtunnel.engines import survivor
from qtunnel.engines.base import KEY_SIZE, MAX_PORT, Endpoint, Lease, Left, PeerSpec, PeerStats, format_endpoint
from qtunnel.engines.host import check_tun_device, interface_exists, port_problem
from qtunnel.engines.ledger import EpochLedger
from qtunnel.engines.process import ChildProcess, LogLine
from qtunnel.engines.programs import Program, find
from qtunnel.engines.survivor import SurvivingProcess
from qtunnel.engines.uapi_client import Line, UapiClient, UapiPeer
from qtunnel.engines.uapi_lines import added, existing, left_of, peer_lines, usable
from qtunnel.engines.voice import log_to
from qtunnel.errors import EngineError, InterfaceError
from qtunnel.secret import RandomBytes, Secret
from qtunnel.telemetry import log

START_BOUND = 15.0
"""Seconds for the socket to answer. A Python engine needs 0.3 s, on a loaded machine with cold caches some seconds."""

GONE_BOUND = 5.0
"""Seconds for the interface to go away once the process ended; the kernel does it while closing the TUN."""

START_POLL = 0.02
WATCH_POLL = 0.25
"""Seconds between looks at the socket and the interface: a dead engine is noticed well within one rekey interval."""

INTERFACE_NAME = re.compile(r"[^\s/:%]{1,15}")
"""What the kernel takes as a name (IFNAMSIZ 16 with the final zero) and what is safe in a file name."""

logger = log.get("engine")


@dataclass(frozen=True, slots=True)
class _Held:
    """The key that an engine has which cannot change a peer; epoch: ``None`` for a random one."""

    psk: Secret
    epoch: int | None


class UapiEngine:
    """Drives ``qtunnel wg``, wireguard-go or boringtun; one instance per interface, may be started again after stop."""

    def __init__(
        self,
        program: Program,
        interface: str,
        *,
        record: Path | None = None,
        log_line: LogLine | None = None,
        clock: Callable[[], float] = time.time,
        random_bytes: RandomBytes = os.urandom,
        socket_directory: str = UAPI_DIRECTORY,
    ) -> None:
        if not INTERFACE_NAME.fullmatch(interface) or interface in {".", ".."}:
            raise InterfaceError(
                f"{interface!r} is no interface name: up to 15 characters, no spaces, no '/', ':', '%'"
            )
        self._program = program
        self._interface = interface
        self._socket = Path(socket_directory) / f"{interface}.sock"
        self._client = UapiClient(interface, str(self._socket), brief=program.epochs)
        self._log_line = log_line or log_to(logger, interface=interface)
        self._clock = clock
        self._random_bytes = random_bytes
        self._record = record if program.epochs else None
        """Says which process the engine is, where it may outlive this one: only one that blocks in time by itself."""
        self._child: ChildProcess | SurvivingProcess | None = None
        self._made_interface = False
        self._listen_port = 0
        self._peers: dict[bytes, PeerSpec] = {}
        self._ledgers: dict[bytes, EpochLedger] = {}
        self._held: dict[bytes, _Held] = {}

    @property
    def name(self) -> str:
        return self._program.name

    @property
    def interface(self) -> str:
        return self._interface

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    # Process

    async def start(self) -> None:
        if self.pid is not None:
            raise self._error("is running already")
        command = self._program.command(self._interface)
        check_tun_device()
        if interface_exists(self._interface):
            raise InterfaceError(
                f"interface name {self._interface} is taken; choose another name under tunnel.interface, or remove "
                f"the old one (ip link del {self._interface})"
            )
        await self._clear_socket()
        self._forget_all()
        making = None if self._record is None else survivor.making_of(self._interface, command)
        environment = self._program.full_environment()
        self._child = child = ChildProcess(command, environment, self._log_line, self._record, making)
        await child.start()
        try:
            await self._await_socket(child)
            self._made_interface = True
        except BaseException:
            await self.stop()
            raise

    async def adopt(self, public_key: bytes, listen_port: int, mark: int = 0) -> dict[bytes, Left] | None:
        if self._record is None or self.pid is not None:
            return None
        making = survivor.making_of(self._interface, self._program.command(self._interface))
        found = survivor.find(self._record, making)
        if found is None:
            return None
        process, same = found
        if same and await self._client.served_by() == process.pid:
            with contextlib.suppress(EngineError, ValueError):
                device = await self._client.get()
                ours = await self._client.public_key() == public_key
                if ours and (device.listen_port, device.mark) == (listen_port, mark):
                    left = {key: left_of(peer) for key, peer in device.peers.items()}
                    self._take(process, listen_port, left)
                    return left
        await process.stop()  # ours, but not what is wanted now: of another version, say, or one that hangs
        await self._until_gone()
        return None

    def _take(self, process: SurvivingProcess, listen_port: int, left: dict[bytes, Left]) -> None:
        self._forget_all()
        self._child, self._made_interface, self._listen_port = process, True, listen_port
        self._peers = {key: its.spec for key, its in left.items()}
        self._ledgers = {key: EpochLedger() for key in left}

    async def _clear_socket(self) -> None:
        """Remove a stale socket file; refuse where somebody answers on it."""
        try:
            mode = self._socket.lstat().st_mode
        except FileNotFoundError:
            return
        if await self._client.answers():
            raise InterfaceError(
                f"{self._socket} is served by another WireGuard, perhaps in another network namespace; choose another "
                "name under tunnel.interface"
            )
        if not stat.S_ISSOCK(mode):
            raise InterfaceError(f"{self._socket} is in the way and is no socket; remove it")
        try:
            self._socket.unlink(missing_ok=True)
        except OSError as error:
            raise InterfaceError(f"stale {self._socket} cannot be removed: {(error.strerror or '').lower()}") from None

    async def _await_socket(self, child: ChildProcess) -> None:
        ended = asyncio.create_task(child.wait())
        try:
            async with asyncio.timeout(START_BOUND):
                while not (interface_exists(self._interface) and await self._client.answers()):
                    done, _ = await asyncio.wait([ended], timeout=START_POLL)
                    if done:
                        raise self._start_error(ended.result(), list(child.tail))
        except TimeoutError:
            raise self._error(f"did not answer at {self._socket} within {START_BOUND:g} s of its start") from None
        finally:
            ended.cancel()

    def _start_error(self, ending: str, tail: list[str]) -> EngineError:
        said = tail[-1] if tail else "without a word"
        lowered = said.lower()
        if "not permitted" in lowered or "permission denied" in lowered:
            return InterfaceError(
                f"engine {self.name}: no permission to create TUN device {self._interface}; needs CAP_NET_ADMIN: run "
                f"as root, or as a service with AmbientCapabilities=CAP_NET_ADMIN (it said: {said})"
            )
        if "resource busy" in lowered:
            return InterfaceError(f"interface name {self._interface} is taken (it said: {said})")
        return self._error(f"{ending} at its start: {said}")

    async def wait_dead(self) -> str:
        child = self._child
        if child is None:
            return f"engine {self.name} of {self._interface} is not running"
        ended = asyncio.create_task(child.wait())
        try:
            while True:
                done, _ = await asyncio.wait([ended], timeout=WATCH_POLL)
                if done:
                    last = f"; it said: {child.tail[-1]}" if child.tail else ""
                    return f"engine {self.name} of {self._interface} {ended.result()}{last}"
                if not interface_exists(self._interface):
                    return f"interface {self._interface} is gone"
                if not self._socket.exists():
                    return f"UAPI socket {self._socket} is gone"
        finally:
            ended.cancel()

    async def stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        await child.stop()
        self._forget_all()
        # A killed engine leaves its socket file behind; after it ended nobody else's can be there but a live one's.
        if self._socket.is_socket() and not await self._client.answers():
            with contextlib.suppress(OSError):
                self._socket.unlink(missing_ok=True)
        made, self._made_interface = self._made_interface, False
        if made:
            await self._until_gone()

    async def _until_gone(self) -> None:
        for _ in range(round(GONE_BOUND / START_POLL)):
            if not interface_exists(self._interface):
                return
            await asyncio.sleep(START_POLL)
        raise InterfaceError(
            f"interface {self._interface} is still there {GONE_BOUND:g} s after its engine ended; "
            f"remove it (ip link del {self._interface})"
        )

    # Device and peers

    async def configure_device(self, private_key: Secret, listen_port: int, mark: int = 0) -> None:
        if not 0 <= listen_port <= MAX_PORT:
            raise self._error(f"a UDP port is 0 to {MAX_PORT}, not {listen_port}")
        self._check_key(private_key, "private key")
        if listen_port not in (0, self._listen_port) and (problem := port_problem(listen_port)) is not None:
            raise self._error(problem)
        # The mark goes first: no socket is open without it.
        await self._client.set([("private_key", private_key), ("fwmark", mark), ("listen_port", listen_port)])
        self._listen_port = listen_port

    async def set_peer(self, peer: PeerSpec) -> None:
        if peer.public_key not in self._peers:
            with Secret.random(self._random_bytes, KEY_SIZE) as psk:
                await self._client.set(added(peer, psk))
            self._ledgers[peer.public_key] = EpochLedger()
        elif self._program.updates:
            await self._client.set([*existing(peer.public_key), *peer_lines(peer)])
        else:
            await self._add_again(peer)
        self._peers[peer.public_key] = peer

    async def remove_peer(self, public_key: bytes) -> None:
        await self._client.set([("public_key", public_key.hex()), ("remove", "true")])
        self._forget(public_key)

    async def set_endpoint(self, public_key: bytes, endpoint: Endpoint) -> None:
        try:
            peer = replace(self._known(public_key), endpoint=endpoint)
        except ValueError as error:
            raise self._error(f"bad endpoint: {error}") from None
        if self._program.updates:
            await self._client.set([*existing(public_key), ("endpoint", format_endpoint(endpoint))])
        else:
            await self._add_again(peer)
        self._peers[public_key] = peer

    async def set_psk(
        self,
        public_key: bytes,
        psk: Secret,
        epoch: int,
        previous: Secret | None = None,
        previous_epoch: int = 0,
        handshake_now: bool = False,
        record_suite: str = "",
        lease: Lease | None = None,
    ) -> None:
        peer = self._known(public_key)
        self._check_key(psk, "preshared key")
        lines: list[Line] = [*existing(public_key), ("preshared_key", psk)]
        if self._program.epochs:
            lines += [("epoch", epoch), ("record_mode", record_suite or "off")]
            if lease is not None:
                lines += [("epoch_note", lease.note), ("expires_msec", _msec(lease.seconds))]
            if previous is not None:
                self._check_key(previous, "previous preshared key")
                lines += [("previous_preshared_key", previous), ("previous_epoch", previous_epoch)]
            if handshake_now:
                lines.append(("handshake", "now"))
        elif not self._program.updates:
            lines = await self._replaced(peer, psk)
            self._ledgers[public_key].blocked()
        await self._client.set(lines)
        self._ledgers[public_key].installed(epoch, self._clock())
        self._hold(public_key, psk, epoch)

    async def renew(self, public_key: bytes, seconds: float) -> None:
        self._known(public_key)
        if self._program.epochs:
            await self._client.set([*existing(public_key), ("expires_msec", _msec(seconds))])

    async def block(self, public_key: bytes, psk: Secret) -> None:
        peer = self._known(public_key)
        self._check_key(psk, "preshared key")
        if self._program.epochs:
            await self._client.set([*existing(public_key), ("preshared_key", psk), ("drop_sessions", "true")])
        else:
            await self._client.set(await self._replaced(peer, psk))
        self._ledgers[public_key].blocked()
        self._hold(public_key, psk, None)

    async def _replaced(self, peer: PeerSpec, psk: Secret) -> list[Line]:
        """Removes the peer, which drops its sessions, and adds it again where it roamed to: one operation."""
        now = (await self._client.get()).peers.get(peer.public_key)
        if now is not None and usable(now.endpoint):
            peer = replace(peer, endpoint=now.endpoint)
        return [("public_key", peer.public_key.hex()), ("remove", "true"), *added(peer, psk)]

    async def _add_again(self, peer: PeerSpec) -> None:
        """Change what an engine cannot change in a peer that is there: its sessions end, its key stays."""
        held = self._held.get(peer.public_key)
        if held is None:
            held = _Held(Secret.random(self._random_bytes, KEY_SIZE), None)
        remove: list[Line] = [("public_key", peer.public_key.hex()), ("remove", "true")]
        await self._client.set(remove + added(peer, held.psk))
        ledger = self._ledgers[peer.public_key]
        ledger.blocked()
        if held.epoch is not None:
            ledger.installed(held.epoch, self._clock())

    def _hold(self, public_key: bytes, psk: Secret, epoch: int | None) -> None:
        if not self._program.updates:
            held, self._held[public_key] = self._held.get(public_key), _Held(psk.copy(), epoch)
            if held is not None:
                held.psk.wipe()

    def _forget(self, public_key: bytes) -> None:
        self._peers.pop(public_key, None)
        self._ledgers.pop(public_key, None)
        held = self._held.pop(public_key, None)
        if held is not None:
            held.psk.wipe()

    def _forget_all(self) -> None:
        self._listen_port = 0
        for public_key in tuple(self._peers):
            self._forget(public_key)

    async def stats(self) -> dict[bytes, PeerStats]:
        device = await self._client.get()
        return {public_key: self._peer_stats(peer) for public_key, peer in device.peers.items()}

    def _peer_stats(self, peer: UapiPeer) -> PeerStats:
        epoch, newest = None, None
        if self._program.epochs:
            epoch = self._reported_epoch(peer.values.get("epoch"))
        elif (ledger := self._ledgers.get(peer.public_key)) is not None:
            epoch, newest = ledger.in_force(peer.last_handshake, self._clock()), ledger.newest
        endpoint = peer.endpoint if usable(peer.endpoint) else None
        record_mode = peer.values.get("record_mode", "") if peer.values.get("record_mode_state") == "active" else ""
        reason = peer.values.get("record_mode_reason", "")
        packets = peer.packets if self._program.epochs else None
        counts = peer.rx_bytes, peer.tx_bytes
        return PeerStats(endpoint, peer.last_handshake, *counts, epoch, record_mode, reason, newest, packets)

    def _reported_epoch(self, text: str | None) -> int | None:
        if text is None:
            return None
        if not text.isascii() or not text.isdecimal():
            raise self._error("told an epoch that is not a number")
        return int(text)

    def _known(self, public_key: bytes) -> PeerSpec:
        peer = self._peers.get(public_key)
        if peer is None:
            raise self._error("was told of a peer that it was never given")
        return peer

    def _check_key(self, key: Secret, what: str) -> None:
        if len(key) != KEY_SIZE:
            raise self._error(f"a {what} has {KEY_SIZE} bytes, not {len(key)}")

    def _error(self, what: str) -> EngineError:
        return EngineError(f"engine {self.name} of {self._interface} {what}")


def _msec(seconds: float) -> int:
    return max(0, int(seconds * 1000))


def open_engine(
    name: str, interface: str, *, processes: int = 1, record: Path | None = None, log_line: LogLine | None = None
) -> UapiEngine:
    """The engine of that name in the configuration; raises ``EngineError`` for an unknown one. Starts nothing.

    processes: that our own engine may use; the others see to that themselves. record: a file that tells of the engine
    where it may outlive this process.
    """
    return UapiEngine(find(name).with_processes(processes), interface, record=record, log_line=log_line)
